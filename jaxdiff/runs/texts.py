"""Runs of texts."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import atomic_write, digest, said
from jaxdiff.config import Config
from jaxdiff.data import Symbols
from jaxdiff.likelihood.mean import ratio_of
from jaxdiff.metrics import Distance
from jaxdiff.runs.known import shuffled
from jaxdiff.runs.tokens import LIMIT, Tokens
from jaxdiff.vocabulary import WORDS, Network

GRAMS = 2, 4, 8  # lengths of n-grams whose repetition is measured
ASKED = 1000  # the most texts it is measured on
BUCKETS = 256  # of tokens and of pairs of tokens, whose frequencies are the features
FRAMES = 16  # steps shown in denoising.txt
RULE = "-" * 40  # between texts with line breaks
MEASURED = 0.5  # a perplexity is reported if its standard error is a smaller share of it


@dataclasses.dataclass(frozen=True)
class Texts(Tokens):
    """What a run of texts keeps of its data.

    Attributes:
        event: (length,), in tokens.
        data_std: 1; not used.
        symbols: what the tokens stand for.
        repeated: for n-grams of 2, 4 and 8 tokens, the share in training texts that occurred earlier in the same text.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data, runs
        >>> symbols = data.Symbols("abc")
        >>> known = runs.Texts(event=(4,), data_std=1.0, symbols=symbols, repeated=(0.0, 0.0, 0.0))
        >>> known.categories, known.restore(np.array([[0, 1, 2, 0]]))
        (3, ['abca'])
    """

    SOURCES: ClassVar = (jd.data.Texts,)
    NETWORK: ClassVar = WORDS.parse("transformer(width=128, depth=4, heads=4)", Network)
    SHOWN: ClassVar = 16

    symbols: Symbols
    repeated: tuple[float, ...]

    def __post_init__(self):
        super().__post_init__()
        if len(self.event) != 1:
            raise ValueError(f"event = {self.event}; expected (length,)")
        if len(self.repeated) != len(GRAMS):
            raise ValueError(f"repeated = {self.repeated}; expected {len(GRAMS)} shares, of {GRAMS} tokens")

    @classmethod
    def learned(cls, config: Config, source, seen: int = 0) -> "Texts":
        """From the texts of `jaxdiff.data.text`."""
        cls.check(config)
        if config.condition:
            raise ValueError(
                f"condition = {' '.join(config.condition)}, but texts have no label; leave it out. To give part of a "
                "text, sample with --infill"
            )
        some = source.tokens[shuffled(len(source))[:ASKED]]
        return cls((source.length,), 1.0, source.symbols, repetition(some, source.symbols.padding))

    def completed(self, config: Config) -> Config:
        """The config with its defaults; a transformer takes t unless masks show it by their number."""
        config = super().completed(config)
        network: Any = config.network
        noise: Any = config.process
        if network.values.get("noise", True) is not None:
            return config
        sees = {"noise": noise.make is not jd.Absorbing}
        return dataclasses.replace(config, network=Network(network.make, network.values | sees))

    @property
    def categories(self) -> int:
        """The number of values of a token, the mask not counted."""
        return self.symbols.categories

    @property
    def noun(self) -> str:
        """What one token is called."""
        return self.symbols.noun

    def lasting(self, config: Config) -> dict[str, Any]:
        """The length and the symbols."""
        return super().lasting(config) | {"symbols": described(self.symbols)}

    def examples(self, source) -> Any:
        """The tokens, and their weight if some of them are given."""
        return source.examples

    def prepare(self, config: Config) -> Callable:
        """The tokens unchanged."""
        return lambda key, batch: (batch["x"], None, batch.get("weight"))

    def condition(self, config: Config, given: Sequence[str], n: int) -> None:
        """None: texts have no label."""
        if given:
            raise ValueError(
                f"condition = {' '.join(given)}, but the run was trained without one; leave it out. Give part of a "
                "text by --infill"
            )

    def start(self, text: str | None, n: int) -> np.ndarray | None:
        """The text, repeated n times, with masks for its blanks; None for None."""
        if text is None:
            return None
        if self.symbols.blank not in text:
            raise ValueError(f"infill = {said(text)} has no {self.symbols.blank!r}, which marks what is to be drawn")
        return np.tile(self.symbols.encode(text, self.event[0]), (n, 1))

    def draw(self, key, denoiser, n: int, sampler, batch_size: int, cond=None, x_start=None, **settings) -> np.ndarray:
        """Draw n samples; with `x_start` only its masks are drawn."""
        if x_start is not None and not isinstance(denoiser.process, jd.Absorbing):
            raise ValueError(f"infill needs masks, but the process is {said(denoiser.process)}; train with absorbing")
        return super().draw(key, denoiser, n, sampler, batch_size, cond, x_start=x_start, **settings)

    def in_turn(self, source, n: int) -> None:
        """None: texts have no label."""

    def real(self, source, config, condition, most) -> tuple[np.ndarray, None]:
        """Tokens, and None for labels."""
        self.condition(config, condition, 1)
        self._check_alike(source)
        return source.tokens[shuffled(len(source))[:most]], None

    def as_given(self, config, given, n) -> None:
        """None: texts have no label."""

    def features(self, features, folder, source, held_out, progress) -> tuple[Callable, dict[str, Any]]:
        """The frequencies of tokens and of pairs of neighbours, hashed into buckets."""
        if features is not None:
            raise ValueError(
                f"features = {said(features)} are for pictures; texts are compared by n-grams: leave it out"
            )
        name = f"frequencies of {self.noun}s and of pairs of them in {BUCKETS} buckets"
        return lambda tokens: frequencies(tokens, self.categories), {"name": name}

    def distances(self, key, real, x) -> dict[str, Distance]:
        """The share of repeated n-grams, minus the share in training texts."""
        found = zip(GRAMS, repetition(x, self.symbols.padding, errors=True), self.repeated)
        return {f"repeated_{n}_grams": Distance(share - known, error) for n, (share, error), known in found}

    def figures(self, x) -> dict[str, float]:
        """The share of repeated n-grams within a sample, and the share in training texts."""
        shares = repetition(x, self.symbols.padding)
        found = {f"repeated_{n}_grams": share for n, share in zip(GRAMS, shares)}
        return found | {f"repeated_{n}_grams_of_data": share for n, share in zip(GRAMS, self.repeated)}

    def restore(self, x) -> list[str]:
        """Texts."""
        return self.symbols.decode(np.asarray(x))

    def write(self, x, folder: Path) -> Path:
        """Write samples.txt, one text per line; texts with line breaks are separated by a rule."""
        return _written(folder / "samples.txt", x)

    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> None:
        """Write samples.txt during training: the title, the shares of repeated n-grams, a rule, and the samples.

        There is no picture.
        """
        if source is not None:
            figures = [f"{name}: {value:.3f}" for name, value in self.figures(x).items()]
            _written(path.with_suffix(".txt"), self.restore(x), [*([title] if title else []), *figures, RULE])

    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """Write denoising.txt: a sample at several times from noise to data, with blanks for masks."""
        path = np.asarray(draw(1, None, FRAMES, seed=1, trajectory=True))[:, 0]
        texts = [self._shown(tokens) for tokens in path]
        _written(folder / "denoising.txt", texts, ["from noise to data", ""])

    def _shown(self, tokens: np.ndarray) -> str:
        """A noised text on one line, including what follows its end."""
        open_ended = dataclasses.replace(self.symbols, ended=False)
        if self.symbols.ended:
            mask = tokens == self.categories
            tokens = np.where(mask, open_ended.categories, np.minimum(tokens, open_ended.categories))
            pieces = [
                open_ended.decode(tokens[None, i]) if t < open_ended.categories else "" for i, t in enumerate(tokens)
            ]
            marks = [open_ended.blank if m else piece or "·" for m, piece in zip(mask, pieces)]
            return "".join(marks).replace("\n", "⏎")
        return open_ended.decode(tokens).replace("\n", "⏎")

    def score(self, key, denoiser, source, limit, conditional, lasting, **settings) -> tuple[dict, str]:
        """The bound in bits per character or token, and the perplexity per word if there are words."""
        self._check_alike(source)
        chosen = shuffled(len(source))[: limit or LIMIT]
        x, counted, words = source.tokens[chosen], source.weight[chosen].sum(1), source.words[chosen]
        weight = source.weight[chosen] if "weight" in source.examples else None
        figures, bits = self.bits(key, denoiser, jnp.asarray(x), weight, counted, None, lasting, **settings)
        text = self.in_words(figures)
        if words.sum():
            of_word, error = ratio_of(bits, words)
            with np.errstate(over="ignore"):
                perplexity, share = float(np.exp2(of_word)), math.log(2) * error
            found = (perplexity, perplexity * share) if share < MEASURED else (None, None)
            # None overwrites the figures of an earlier likelihood in the summary
            figures["perplexity_per_word"], figures["perplexity_standard_error"] = found
            if share < MEASURED:
                text += f"; perplexity a word {found[0]:.1f} +- {found[1]:.1f}, an upper bound in the mean"
            else:
                text += "; too few texts to measure a perplexity a word"
        return figures, text

    def _check_alike(self, source) -> None:
        if (source.length, source.symbols) != (self.event[0], self.symbols):
            raise ValueError(
                f"the texts have {source.length} {source.symbols.noun}s of {described(source.symbols)}; expected "
                f"{self.event[0]} of {described(self.symbols)}, as those that the run was trained on"
            )


def described(symbols: Symbols) -> str:
    """Symbols in words. Those of other symbols are others."""
    ended = ", and an end" if symbols.ended else ""
    if symbols.alphabet:
        return f"the alphabet {symbols.alphabet!r}{ended}"
    return f"a tokenizer with {symbols.size} ids, SHA-256 {digest([symbols.tokenizer.encode()])[:16]}{ended}"


def _written(path: Path, texts: Sequence[str], head: Sequence[str] = ()) -> Path:
    between = f"\n{RULE}\n" if any("\n" in text for text in texts) else "\n"
    with atomic_write(path) as file:
        file.write(("\n".join([*head, between.join(texts)]) + "\n").encode("utf-8", "surrogateescape"))
    return path


def repetition(tokens, padding: int | None, errors: bool = False) -> tuple:
    """For each n in `GRAMS`, the share of n-grams that occurred earlier in the same text: the mean over texts [n,
    length].

    With `errors` each share has its standard error. Padding is not counted.
    """
    rows = [row if padding is None else row[row != padding] for row in np.asarray(tokens)]
    found = []
    for n in GRAMS:
        counts = [Counter(bytes(gram) for gram in _grams(row, n)) for row in rows if len(row) >= n]
        shares = np.array([1 - len(count) / count.total() for count in counts] or [0.0])
        error = float(shares.std(ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else float("nan")
        found.append((float(shares.mean()), error) if errors else float(shares.mean()))
    return tuple(found)


def _grams(row: np.ndarray, n: int) -> np.ndarray:
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(np.asarray(row, np.int32), n))


def frequencies(tokens, categories: int) -> np.ndarray:
    """Frequencies of tokens and of pairs of neighbours per text: float64 [n, 2 `BUCKETS`], each half summing to 1."""
    tokens = np.asarray(tokens, np.int64)
    pairs = tokens[:, :-1] * categories + tokens[:, 1:]
    mixed = pairs * 2654435761 % 2**32 >> 24  # Knuth's multiplicative hash, by its upper 8 bits
    halves = [np.stack([np.bincount(row, minlength=BUCKETS) for row in part]) for part in (tokens % BUCKETS, mixed)]
    return np.concatenate([half / half.sum(1, keepdims=True) for half in halves], axis=1)
