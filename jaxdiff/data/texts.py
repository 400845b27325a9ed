"""Texts as a data set of categories: a long text cut into windows, or lines that each have an end.

Windows. The text is cut into blocks of 4,096 characters, which decide the split. Consecutive blocks of a split are cut
into windows of `length` tokens without overlap. If the last window would not be full, it begins earlier: the tokens
that it shares with the text before are given (weight 0). Thus every token of the split counts exactly once, and there
is no padding. The last window may reach back beyond the split; those tokens are given and not counted.

Lines. A line is an example: its tokens, the end, and padding up to `length`. A model of lines also models their
lengths: it draws the end and the padding after it, which costs almost no bits once the end is known.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from jaxdiff.arrays import check_choice, check_file, check_path, check_whole
from jaxdiff.data.splits import Split, check_split
from jaxdiff.data.symbols import ALPHABET, Symbols, character_codes

_log = logging.getLogger(__name__)

BLOCK = 4096  # characters
TOKENIZER = "the tokenizer.json of a Hugging Face tokenizer"
CYCLE: dict[int, Split] = {9: "validation", 19: "test"}  # among every twenty blocks; the others are for training


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts as categories, one length for all. `jaxdiff.data.text` reads them from a file.

    Train on `batches(texts.examples, ...)`.

    Attributes:
        tokens: int32 `[n, length]`, values 0..symbols.categories-1.
        weight: bool `[n, length]`, False for tokens that are given, and for padding. Every token of the split is True
            exactly once.
        words: int64 `[n]`, the number of words that begin among the tokens of weight True.
        symbols: what the tokens stand for.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "names.txt")
        ...     _ = path.write_text("ann\\njohn\\n")
        ...     texts = data.text(path, length=6, cut="lines")
        >>> len(texts), texts.length, texts.decode(texts.tokens)
        (2, 6, ['ann', 'john'])
    """

    tokens: np.ndarray
    weight: np.ndarray
    words: np.ndarray
    symbols: Symbols

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """The number of tokens of an example."""
        return self.tokens.shape[1]

    @property
    def categories(self) -> int:
        """The number of values of a token."""
        return self.symbols.categories

    @property
    def examples(self) -> dict[str, np.ndarray]:
        """{"x": tokens}, and "weight" if a window has tokens that are given.

        The padding after a line's end is part of x. For a model of p(line | its length), in which padding is given and
        not counted, use {"x": texts.tokens, "weight": texts.weight}.
        """
        given = not (self.symbols.ended or self.weight.all())
        return {"x": self.tokens} | ({"weight": self.weight} if given else {})

    def encode(self, texts) -> np.ndarray:
        """Convert texts to tokens [n, length], or a string to [length]; see `Symbols.encode`."""
        return self.symbols.encode(texts, self.length)

    def decode(self, tokens) -> Any:
        """Convert tokens [n, length] to texts, or [length] to a string; see `Symbols.decode`."""
        return self.symbols.decode(tokens)


def text(
    path: str | os.PathLike,
    length: int,
    split: Split | None = None,
    alphabet: str | None = None,
    tokenizer: str | os.PathLike | None = None,
    cut: Literal["windows", "lines"] = "windows",
) -> Texts:
    """Read a text file as examples of `length` tokens.

    A line break at the end of the file is dropped if the alphabet lacks it.

    Args:
        path: the file, in UTF-8.
        length: tokens per example; for lines, the longest line and its end must fit.
        split: "train", "validation" or "test"; None for all. Of every twenty blocks of 4,096 characters the 10th is for
            validation, the 20th for testing, and the others for training. A line belongs to the block in which it
            begins.
        alphabet: the characters of the text, which are the categories in this order; None means a to z and space.
        tokenizer: the file of a tokenizer (Hugging Face's tokenizer.json), whose ids are the categories, in place of an
            alphabet. Needs the extra `jaxdiff[text]`.
        cut: "windows" of one long text, or its "lines" without the empty ones.

    Returns:
        `Texts`.

    Raises:
        ValueError: if a character is not in the alphabet (the message has an alphabet to paste), the text is not UTF-8,
            a line is too long, the text is shorter than one example, the split is empty, or both `alphabet` and
            `tokenizer` are given.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "mine.txt")
        ...     _ = path.write_text("in the beginning")
        ...     texts = data.text(path, length=8)
        >>> texts.tokens.shape, texts.categories, texts.decode(texts.tokens[0])
        ((2, 8), 27, 'in the b')
    """
    path, length = check_path("path", path), check_whole("length", length)
    check_split(split)
    check_choice("cut", cut, ("windows", "lines"))
    if alphabet is not None and tokenizer is not None:
        raise ValueError(f"alphabet = {alphabet!r:.40} and tokenizer = {str(tokenizer)!r}; expected one of them")
    if tokenizer is None:
        symbols = Symbols(ALPHABET if alphabet is None else alphabet, ended=cut == "lines")
    else:
        symbols = Symbols("", _read(check_path("tokenizer", tokenizer), TOKENIZER), ended=cut == "lines")
    whole = _read(path)
    if symbols.alphabet and "\n" not in symbols.alphabet:
        whole = whole.removesuffix("\n")
    if not whole.strip():
        raise ValueError(f"{path} is empty; expected a text")
    symbols.check(whole, str(path), beside="\n" if cut == "lines" else "")
    if split == "train" and len(whole) <= BLOCK * max(CYCLE):
        _log.warning(
            f"{path} has {len(whole):,} characters and no split 'test', which is the 20th of every twenty blocks of "
            f"{BLOCK:,}: to measure a likelihood, give another text of the same length and symbols, jaxdiff likelihood "
            f"RUN --data \"text('other.txt', length={length}, ...)\""
        )
    make = _lines if cut == "lines" else _windows
    tokens, weight, words = (np.concatenate(parts) for parts in zip(*make(path, whole, length, split, symbols)))
    return Texts(tokens, weight, words, symbols)


def _read(path, what: str = "a text file") -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected {what}")
    try:
        return check_file(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None


def _split_of(character: int) -> Split:
    """The split of the character at that index."""
    return CYCLE.get(character // BLOCK % 20, "train")


def _runs(n: int, split: Split | None) -> list[tuple[int, int]]:
    """The consecutive parts [start, stop) of a text of n characters, each in one split."""
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
    words = np.concatenate([np.diff(begun[start + np.append(0, own)]) for (start, _), (_, own) in zip(runs, pieces)])
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
        at = np.unique(np.append(np.arange(first, stop - length + 1, length), stop - length))  # all windows are full
        fresh = np.append(first, at[:-1] + length)  # the first token of each window that no earlier one counts
        index = at[:, None] + np.arange(length)
        weight = index >= fresh[:, None]
        yield ids[index], weight, (words[index] * weight).sum(1)
    if not found:
        raise ValueError(
            f"{path} has {len(whole)} characters, too few for a split {split!r}: of every twenty blocks of {BLOCK:,} "
            "characters the 10th is for validation and the 20th for testing; give a longer text, or split=None"
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
                f"and its end: give a length of {1 + max(len(ids) for ids, _ in known)}, in which all lines fit"
            )
        row[: len(ids) + 1] = np.append(ids, symbols.size)
    words = np.array([_word_starts(line).sum() for _, line in kept], np.int64)
    yield tokens, tokens != symbols.padding, words


def _word_starts(text: str) -> np.ndarray:
    """1 where a word begins, a character other than space after a space or at the start, and 0 elsewhere: int64 [n]."""
    spaces = character_codes("".join(character for character in set(text) if character.isspace()))
    dark = ~np.isin(character_codes(text), spaces)
    return (dark & ~np.append(False, dark[:-1])).astype(np.int64)
