"""What tokens stand for: the characters of an alphabet, or the pieces of a tokenizer."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdiff.arrays import check_flag, check_whole, require, said

ALPHABET = "abcdefghijklmnopqrstuvwxyz "  # of text8
BLANKS = "_□�"  # a mask is written as the first of these that is not in the alphabet


@dataclasses.dataclass(frozen=True)
class Symbols:
    """The symbols of a text as categories, with `encode` and `decode`.

    Categories are the characters of `alphabet` in its order, or the ids of a tokenizer. If texts are `ended`, two more
    follow: the end, and the padding after it. The mask of `jaxdiff.Absorbing(symbols.categories)` is written as
    `symbols.blank`. `dataclasses.asdict(symbols)` is JSON, and `Symbols(**that)` the same symbols again.

    Args:
        alphabet: the characters, two or more, each once; "" with a tokenizer.
        tokenizer: the content of a tokenizer.json (Hugging Face's `tokenizers`, of the extra `jaxdiff[text]`).
        ended: whether a text has an end, as a line has and a window of a longer text has not.

    Raises:
        TypeError: if a field has another type.
        ValueError: if the alphabet has repeated characters or fewer than two, both or neither of `alphabet` and
            `tokenizer` are given, or the tokenizer cannot be read.

    Examples:
        >>> from jaxdiff import data
        >>> symbols = data.Symbols("abc", ended=True)
        >>> symbols.categories, symbols.end, symbols.padding
        (5, 3, 4)
        >>> symbols.encode("cab", length=5).tolist()
        [2, 0, 1, 3, 4]
        >>> symbols.decode(symbols.encode("c_b", length=5))  # _ is a mask
        'c_b'
    """

    alphabet: str = ALPHABET
    tokenizer: str = ""
    ended: bool = False

    def __post_init__(self):
        for name in ("alphabet", "tokenizer"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{name} = {said(value)}; expected a string")
        check_flag("ended", self.ended)
        if bool(self.alphabet) == bool(self.tokenizer):
            raise ValueError("expected an alphabet or a tokenizer, and not both")
        if self.tokenizer:
            _ = self._pieces
        elif len(self.alphabet) < 2 or len(set(self.alphabet)) < len(self.alphabet):
            double = [c for c in self.alphabet if self.alphabet.count(c) > 1]
            why = f"{double[0]!r} is there twice" if double else "it has one character"
            raise ValueError(f"alphabet = {said(self.alphabet)}: {why}; expected two characters or more, each once")

    @functools.cached_property
    def _pieces(self) -> Any:
        """The tokenizer, without truncation and padding."""
        require("tokenizers")
        import tokenizers

        try:
            found = tokenizers.Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the one class that the package raises
            raise ValueError(f"tokenizer is not a tokenizer.json: {error}") from None
        found.no_truncation()
        found.no_padding()
        return found

    @functools.cached_property
    def size(self) -> int:
        """The number of categories without the end and the padding."""
        return 1 + max(self._pieces.get_vocab().values()) if self.tokenizer else len(self.alphabet)

    @property
    def categories(self) -> int:
        """The number of categories."""
        return self.size + 2 * self.ended

    @property
    def end(self) -> int | None:
        """The category that ends a text; None if texts have no end."""
        return self.size if self.ended else None

    @property
    def padding(self) -> int | None:
        """The category of the padding after the end; None if texts have no end."""
        return self.size + 1 if self.ended else None

    @property
    def blank(self) -> str:
        """The character as which a mask is written."""
        return next(c for c in (BLANKS[1:] if self.tokenizer else BLANKS) if c not in self.alphabet)

    @property
    def noun(self) -> str:
        """What one symbol is called."""
        return "token" if self.tokenizer else "character"

    def ids(self, text: str, what: str = "the text") -> np.ndarray:
        """The categories of a text without masks and without an end: int32 [n]. Raises what `check` raises."""
        self.check(text, what)
        return self.pieces([text])[0][0]

    def check(self, text: str, what: str, beside: str = "") -> None:
        """Raise ValueError if a character is in neither the alphabet nor `beside`.

        The message calls the text `what`, names the first such character, its line and column, and an alphabet to
        paste into Python, or between the double quotes of a shell.
        """
        strange = set() if self.tokenizer else {*text} - {*self.alphabet, *beside}
        if not strange:
            return
        at = min(text.index(character) for character in strange)
        own = "".join(sorted({*text} - {*beside}))
        fix = f"its own, alphabet={_literal(own)}" if len(own) <= 120 else f"one of its own, of {len(own)} characters"
        raise ValueError(
            f"{what} has {text[at]!r} in line {1 + text.count(chr(10), 0, at)}, column "
            f"{at - text.rfind(chr(10), 0, at)}, which is not in the alphabet {self.alphabet!r:.120}; clean the text, "
            f"or give {fix}"
        )

    def pieces(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(ids [n], stops [n]) for each text: token i has the characters from stops[i - 1], or 0, to stops[i] - 1.

        Tokens have each character once, the first of the tokens that share it; what a tokenizer drops belongs to the
        token after it, or to the last one. `check` must have passed the texts.
        """
        if self.tokenizer:
            found = self._pieces.encode_batch(list(texts), add_special_tokens=False)
            return [(np.array(e.ids, np.int32), _stops(e.offsets, len(text))) for e, text in zip(found, texts)]
        order = np.argsort(codes := character_codes(self.alphabet))
        found = [order[np.searchsorted(codes[order], character_codes(text))].astype(np.int32) for text in texts]
        return [(ids, np.arange(1, len(ids) + 1)) for ids in found]

    def encode(self, texts: str | Sequence[str], length: int) -> np.ndarray:
        """Convert texts to categories. `blank` in a text is a mask, which a sampler draws.

        An ended text is filled up with its end and padding; a window, or a text that ends in a mask, with masks.

        Args:
            texts: a string or a list of strings.
            length: the number of tokens.

        Returns:
            int32 `[length]` for a string, `[n, length]` for a list.

        Raises:
            TypeError: if `texts` are not strings.
            ValueError: if a text is longer, or has a character outside the alphabet.
        """
        length = check_whole("length", length)
        many = [texts] if isinstance(texts, str) else texts
        if not isinstance(many, list | tuple) or not all(isinstance(text, str) for text in many):
            raise TypeError(f"texts = {said(texts)}; expected a string, or a list of them")
        tokens = np.full((len(many), length), self.categories, np.int32)
        for i, (row, text) in enumerate(zip(tokens, many)):
            known = [self.ids(part, f"text {i}") for part in text.split(self.blank)]
            mask = np.array([self.categories], np.int32)
            ids = np.concatenate([part for one in known for part in (mask, one)][1:])
            if self.ended and not text.endswith(self.blank):
                ids = np.append(ids, self.size)
            if len(ids) > length:
                end = ", its end included" if self.ended else ""
                raise ValueError(f"text {i} has {len(ids)} {self.noun}s{end}; expected at most {length}")
            row[: len(ids)] = ids
            if len(ids) and ids[-1] == self.end:
                row[len(ids) :] = self.size + 1
        return tokens[0] if isinstance(texts, str) else tokens

    def decode(self, tokens) -> Any:
        """Convert categories to text. A mask is written as `blank`; a text stops at its first end.

        Args:
            tokens: whole numbers `[length]` or `[n, length]`.

        Returns:
            A string for `[length]`, a list of strings for `[n, length]`.

        Raises:
            ValueError: if a number is not a category or the mask.
        """
        tokens = np.asarray(tokens)
        if tokens.dtype.kind not in "iu" or tokens.ndim not in (1, 2):
            raise ValueError(f"tokens = {said(tokens)}; expected whole numbers [length] or [n, length]")
        if tokens.size and not (tokens.min() >= 0 and tokens.max() <= self.categories):
            wrong = tokens[(tokens < 0) | (tokens > self.categories)][0]
            raise ValueError(f"tokens has {wrong}; expected 0 to {self.categories}, the last of which is the mask")
        return self._decoded(tokens) if tokens.ndim == 1 else [self._decoded(row) for row in tokens]

    def _decoded(self, row: np.ndarray) -> str:
        if self.ended and self.size in row:
            row = row[: int(np.argmax(row == self.size))]
        row = row[row != self.size + 1] if self.ended else row
        parts = np.split(row, np.flatnonzero(row == self.categories))
        known = [part[part != self.categories].tolist() for part in parts]
        if self.tokenizer:
            return self.blank.join(self._pieces.decode(part, skip_special_tokens=False) for part in known)
        return self.blank.join("".join(self.alphabet[i] for i in part) for part in known)


def _literal(text: str) -> str:
    """A Python literal of `text` that a shell leaves as it is between double quotes."""
    return "'" + "".join(f"\\x{ord(c):02x}" if c in "'\"\\`$!" else repr(c)[1:-1] for c in text) + "'"


def _stops(offsets: Sequence[tuple[int, int]], length: int) -> np.ndarray:
    """Where tokens at these offsets (first, last + 1) stop so that together they are the whole text: int64 [n]."""
    stops = np.maximum.accumulate(np.array([last for _, last in offsets], np.int64))
    stops[-1:] = length
    return stops


def character_codes(text: str) -> np.ndarray:
    """The code point of every character, uint32 [n]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
