"""Texts as a data set of categories: a long one cut into windows, or lines that each have an end.

Windows. The text is cut into blocks of 4,096 characters, which decide the split, and the blocks of a split that follow
one another into windows of `length` tokens, without overlap. Where they do not come out even, the last window begins
earlier, by so much that it is full: what it shares with the text before is given (weight 0), so that every token of the
split counts once, and none is made up. It may reach back beyond the split, to what is given and never paid for.

Lines. A line is an example: its tokens, the end, and padding up to `length`. A model of lines is one of their lengths
too: it draws the end and the padding after it, which costs next to nothing once the end is known.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from jaxdiff.arrays import check_choice, check_file, check_path, check_whole
from jaxdiff.data.splits import Split, check_split
from jaxdiff.data.symbols import ALPHABET, Symbols, character_codes

BLOCK = 4096  # characters
CYCLE: dict[int, Split] = {9: "validation", 19: "test"}  # of twenty blocks; the others are for training


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts as categories, one length for all; `jaxdiff.data.text` reads them.

    `batches(texts.examples, ...)` gives what a model sees of them.

    Attributes:
        tokens: int32 [n, length], values 0..symbols.categories-1.
        weight: bool [n, length], False for what is given in an example, or is padding: the tokens where it is True are
            those of the split, each once.
        words: int64 [n], how many words begin among these tokens.
        symbols: what tokens stand for.
    """

    tokens: np.ndarray
    weight: np.ndarray
    words: np.ndarray
    symbols: Symbols

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens of an example."""
        return self.tokens.shape[1]

    @property
    def categories(self) -> int:
        """How many values a token has."""
        return self.symbols.categories

    @property
    def examples(self) -> dict[str, np.ndarray]:
        """{"x": tokens}, with "weight" where a window has tokens that are given.

        Padding after a line's end is part of x. For a model of p(line | its length), in which padding is given and
        nothing is paid for it: {"x": texts.tokens, "weight": texts.weight}.
        """
        given = not (self.symbols.ended or self.weight.all())
        return {"x": self.tokens} | ({"weight": self.weight} if given else {})

    def encode(self, texts) -> np.ndarray:
        """Texts as tokens [n, length], or [length] of one string, as `Symbols.encode` has it."""
        return self.symbols.encode(texts, self.length)

    def decode(self, tokens) -> Any:
        """The texts of tokens [n, length], or the one of [length], as `Symbols.decode` has it."""
        return self.symbols.decode(tokens)


def text(
    path: str | os.PathLike,
    length: int,
    split: Split | None = None,
    alphabet: str | None = None,
    tokenizer: str | os.PathLike | None = None,
    cut: Literal["windows", "lines"] = "windows",
) -> Texts:
    """The text of a file in UTF-8 as examples of `length` tokens.

        bible = jd.data.text("kjv.txt", 128, "train")           # a to z and space: 27 categories
        names = jd.data.text("names.txt", 16, cut="lines")      # a name is a line: it has an end, and padding after it
        names.decode(names.tokens[:3]), names.encode(["ann", "jo__"])

    Args:
        length: tokens of an example; of lines the longest and its end must fit.
        split: "train", "validation" or "test": of every twenty blocks of 4,096 characters the 20th is for testing, the
            10th for validation, the others for training; a line is in the block where it begins. None for all.
        alphabet: the characters of the text, which are the categories in this order; a to z and space unless given.
        tokenizer: the file of a tokenizer (Hugging Face's tokenizer.json), whose ids are the categories, in place of an
            alphabet. Needs the extra `jaxdiff[text]`.
        cut: "windows" of one long text, or its "lines", without the empty ones.

    A line break at the end of the file counts unless the alphabet lacks it. Raises ValueError for a character outside
    of the alphabet, the first one shown, with an alphabet of the file's own to paste; for a text that is not UTF-8, a
    line that is too long, a text with fewer tokens than one example, a split without any, and an alphabet beside a
    tokenizer; FileNotFoundError where there is no file.
    """
    path, length = check_path("path", path), check_whole("length", length)
    check_split(split)
    check_choice("cut", cut, ("windows", "lines"))
    if alphabet is not None and tokenizer is not None:
        raise ValueError(f"alphabet = {alphabet!r:.40} and tokenizer = {str(tokenizer)!r}; expected one of them")
    if tokenizer is None:
        symbols = Symbols(ALPHABET if alphabet is None else alphabet, ended=cut == "lines")
    else:
        symbols = Symbols("", _read(check_path("tokenizer", tokenizer)), ended=cut == "lines")
    whole = _read(path)
    if symbols.alphabet and "\n" not in symbols.alphabet:
        whole = whole.removesuffix("\n")
    if not whole.strip():
        raise ValueError(f"{path} has no text in it")
    symbols.check(whole, str(path), beside="\n" if cut == "lines" else "")
    make = _lines if cut == "lines" else _windows
    tokens, weight, words = (np.concatenate(parts) for parts in zip(*make(path, whole, length, split, symbols)))
    return Texts(tokens, weight, words, symbols)


def _read(path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a file of text")
    try:
        return check_file(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as UTF-8") from None


def _split_of(character: int) -> Split:
    """The split of the character at that place."""
    return CYCLE.get(character // BLOCK % 20, "train")


def _runs(n: int, split: Split | None) -> list[tuple[int, int]]:
    """Where a text of n characters changes from one split to the next: parts [start, stop) that follow one another."""
    if split is None:
        return [(0, n)]
    blocks = range(0, n, BLOCK)
    starts = [b for b in blocks if b == 0 or _split_of(b) != _split_of(b - 1)]
    return list(zip(starts, [*starts[1:], n]))


def _windows(path, whole: str, length: int, split: Split | None, symbols: Symbols) -> Iterator[tuple]:
    """(tokens, weight, words) of the windows in each part of the split."""
    runs = _runs(len(whole), split)
    pieces = symbols.pieces([whole[start:stop] for start, stop in runs])
    stops = np.cumsum([len(ids) for ids, _ in pieces])
    ids = np.concatenate([ids for ids, _ in pieces])
    begun = np.concatenate([[0], np.cumsum(_word_starts(whole))])
    words = np.concatenate([np.diff(begun[place + start]).ravel() for (start, _), (_, place) in zip(runs, pieces)])
    found = False
    for (start, _), stop, (own, _) in zip(runs, stops, pieces):
        if split not in (None, _split_of(start)) or not len(own):
            continue
        found, first = True, stop - len(own)
        if stop < length:
            raise ValueError(
                f"length = {length}, but {path} has {stop} {symbols.noun}s up to the end of the first part of its "
                f"split {split!r}; give a smaller length, or a longer text"
            )
        at = np.unique(np.append(np.arange(first, stop - length + 1, length), stop - length))  # the last is full, too
        paid = np.append(first, at[:-1] + length)  # from where on tokens were not counted before
        index = at[:, None] + np.arange(length)
        weight = index >= paid[:, None]
        yield ids[index], weight, (words[index] * weight).sum(1)
    if not found:
        raise ValueError(
            f"{path} has {len(whole)} characters, too few for a split {split!r}: it is by blocks of {BLOCK:,} "
            "characters, of twenty the 10th for validation and the 20th for testing; give a longer text, or split=None"
        )


def _lines(path, whole: str, length: int, split: Split | None, symbols: Symbols) -> Iterator[tuple]:
    """(tokens, weight, words) of the lines in the split."""
    lines = whole.split("\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines[:-1])]).tolist()
    kept = [
        (number, line)
        for number, (line, start) in enumerate(zip(lines, starts), 1)
        if line.strip() and split in (None, _split_of(start))
    ]
    if not kept:
        raise ValueError(f"{path} has {len(lines)} lines, and none in its split {split!r}; give a longer text")
    known = symbols.pieces([line for _, line in kept])
    tokens = np.full((len(kept), length), symbols.padding, np.int32)
    for row, (ids, _), (number, line) in zip(tokens, known, kept):
        if len(ids) >= length:
            raise ValueError(
                f"{path}, line {number} has {len(ids)} {symbols.noun}s, {line!r:.40}; expected at most {length - 1}, "
                f"and its end: give a length of {1 + max(len(ids) for ids, _ in known)}, which all lines have room in"
            )
        row[: len(ids) + 1] = np.append(ids, symbols.size)
    words = np.array([_word_starts(line).sum() for _, line in kept], np.int64)
    yield tokens, tokens != symbols.padding, words


def _word_starts(text: str) -> np.ndarray:
    """Where a word begins: a character that is no space, after one that is, or none. int64 [n]."""
    spaces = character_codes("".join(character for character in set(text) if character.isspace()))
    dark = ~np.isin(character_codes(text), spaces)
    return (dark & ~np.append(False, dark[:-1])).astype(np.int64)
