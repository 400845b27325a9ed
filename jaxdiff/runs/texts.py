"""Runs of texts."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import atomic_write, said
from jaxdiff.config import Config
from jaxdiff.data import Symbols
from jaxdiff.likelihood.mean import ratio_of
from jaxdiff.metrics import Distance
from jaxdiff.runs.tokens import LIMIT, Tokens
from jaxdiff.vocabulary import WORDS, Network

GRAMS = 2, 4, 8  # tokens that are looked for again
ASKED = 1000  # texts at most in which they are
BUCKETS = 256  # of features: frequencies of tokens and of pairs of them
FRAMES = 16  # of a text on its way from noise
RULE = "-" * 40  # between texts that have lines


@dataclasses.dataclass(frozen=True)
class Texts(Tokens):
    """Of texts: event is (length,).

    symbols: what tokens stand for. repeated: in texts of the training, the share of n-grams (`GRAMS`) that the same
    text had before.
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
        """Those of `jaxdiff.data.text`."""
        cls.check(config)
        if config.condition:
            raise ValueError(
                f"condition = {' '.join(config.condition)}, but texts have no label; leave it out. A part of a text is "
                "given when it is drawn: jaxdiff sample --infill"
            )
        return cls((source.length,), 1.0, source.symbols, repetition(source.tokens[:ASKED], source.symbols.padding))

    @property
    def categories(self) -> int:
        """How many values a token has."""
        return self.symbols.categories

    @property
    def noun(self) -> str:
        """What one token is."""
        return self.symbols.noun

    def default_network(self, config: Config) -> Network:
        """A transformer, which is not told t where masks say it."""
        arguments = dict(self.NETWORK.arguments)
        process: Any = config.process
        if process.make is jd.Absorbing and "noise" in self.NETWORK.values:
            arguments["noise"] = False
        return Network(self.NETWORK.make, arguments)

    def lasting(self, config: Config) -> dict[str, Any]:
        """Length and symbols."""
        alphabet = self.symbols.alphabet or f"those of a tokenizer of {self.symbols.size}"
        return super().lasting(config) | {"symbols": alphabet, "ended": self.symbols.ended}

    def examples(self, source) -> Any:
        """The tokens, with what of them is given."""
        return source.examples

    def prepare(self, config: Config) -> Callable:
        """The tokens as they are."""
        return lambda key, batch: (batch["x"], None, batch.get("weight"))

    def condition(self, config: Config, given: Sequence[str], n: int) -> None:
        """Nothing: texts have no label."""
        if given:
            raise ValueError(
                f"condition = {' '.join(given)}, but the run was trained without one; leave it out. A part of a text "
                "is given by --infill"
            )

    def start(self, text: str | None, n: int) -> np.ndarray | None:
        """The text for all n, its blanks masked; None for None."""
        if text is None:
            return None
        if self.symbols.blank not in text:
            raise ValueError(f"infill = {said(text)} has no {self.symbols.blank!r}, which stands for what is drawn")
        return np.tile(self.symbols.encode(text, self.event[0]), (n, 1))

    def draw(self, key, denoiser, n: int, sampler, batch_size: int, cond=None, x_start=None, **settings) -> np.ndarray:
        """n samples; with `x_start`, which holds masks, of what is masked there."""
        if x_start is not None and not isinstance(denoiser.process, jd.Absorbing):
            raise ValueError(f"infill is by masks, and the process is {said(denoiser.process)}; train with absorbing")
        return super().draw(key, denoiser, n, sampler, batch_size, cond, x_start=x_start, **settings)

    def in_turn(self, source, n: int) -> None:
        """Nothing is given."""

    def real(self, source, config, condition, most) -> tuple[np.ndarray, None]:
        """Tokens."""
        self.condition(config, condition, 1)
        self._check_alike(source)
        return source.tokens[np.random.default_rng(0).permutation(len(source))[:most]], None

    def as_given(self, config, given, n) -> None:
        """Nothing is given."""

    def features(self, features, folder, source, held_out, progress) -> tuple[Callable, dict[str, Any]]:
        """The frequencies of tokens and of pairs of neighbours, those of many in buckets."""
        if features is not None:
            raise ValueError(
                f"features = {said(features)} are of pictures; texts are compared by n-grams: leave it out"
            )
        name = f"frequencies of {self.noun}s and of pairs of them in {BUCKETS} buckets"
        return lambda tokens: frequencies(tokens, self.categories), {"name": name}

    def distances(self, key, real, x) -> dict[str, Distance]:
        """How often n-grams come again, each beside the floor's: by how much more than in the training's texts."""
        found = zip(GRAMS, repetition(x, self.symbols.padding, errors=True), self.repeated)
        return {f"repeated_{n}_grams": Distance(share - known, error) for n, (share, error), known in found}

    def figures(self, x) -> dict[str, float]:
        """How often n-grams come again within a sample, beside the same of the training's texts."""
        shares = repetition(x, self.symbols.padding)
        found = {f"repeated_{n}_grams": share for n, share in zip(GRAMS, shares)}
        return found | {f"repeated_{n}_grams_of_data": share for n, share in zip(GRAMS, self.repeated)}

    def restore(self, x) -> list[str]:
        """Texts."""
        return self.symbols.decode(np.asarray(x))

    def write(self, x, folder: Path) -> Path:
        """As samples.txt, a line each; with a rule between them where texts have lines themselves."""
        return _written(folder / "samples.txt", x)

    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> None:
        """No picture: while it trains samples.txt, with the title above and how often n-grams come again below."""
        if source is not None:
            figures = [f"{name}: {value:.3f}" for name, value in self.figures(x).items()]
            _written(path.with_suffix(".txt"), [*([title, ""] if title else []), *self.restore(x), "", *figures])

    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """denoising.txt: a sample on its way from noise, masks as blanks."""
        path = np.asarray(draw(1, None, FRAMES, seed=1, trajectory=True))[:, 0]
        texts = [self._shown(tokens) for tokens in path]
        _written(folder / "denoising.txt", ["from noise to data", "", *texts])

    def _shown(self, tokens: np.ndarray) -> str:
        """A noised text, on one line: whatever comes after an end is shown too."""
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
        """Bits a character or token by the bound, and perplexity a word where there are words."""
        self._check_alike(source)
        n = limit or LIMIT
        if len(source) > n:  # from all over the text, and the same for any settings
            chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:n])
        else:
            chosen = np.arange(len(source))
        x, paid, words = source.tokens[chosen], source.weight[chosen].sum(1), source.words[chosen]
        weight = source.weight[chosen] if "weight" in source.examples else None
        figures, bits = self.bits(key, denoiser, jnp.asarray(x), weight, paid, None, lasting, **settings)
        text = self.in_words(figures)
        if words.sum():
            of_word, error = ratio_of(bits, words)
            figures["perplexity_per_word"] = 2.0**of_word
            figures["perplexity_standard_error"] = 2.0**of_word * np.log(2) * error
            text += f"; perplexity a word at most {figures['perplexity_per_word']:.1f}"
        return figures, text

    def _check_alike(self, source) -> None:
        if (source.length, source.symbols) != (self.event[0], self.symbols):
            raise ValueError(
                f"the texts have {source.length} {source.symbols.noun}s of {source.categories}; expected "
                f"{self.event[0]} of {self.categories}, the symbols that the run was trained on"
            )


def _written(path: Path, texts: Sequence[str]) -> Path:
    between = f"\n{RULE}\n" if any("\n" in text for text in texts) else "\n"
    with atomic_write(path) as file:
        file.write((between.join(texts) + "\n").encode("utf-8", "surrogateescape"))
    return path


def repetition(tokens, padding: int | None, errors: bool = False) -> tuple:
    """The share of n-grams of each of `GRAMS` tokens that stand before in the same text, mean over texts [n, length].

    With `errors` each share with its standard error. Padding is no token.
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
    """How often tokens and pairs of neighbours are in each text: float64 [n, 2 `BUCKETS`], each half summing to 1."""
    tokens = np.asarray(tokens, np.int64)
    pairs = tokens[:, :-1] * categories + tokens[:, 1:]
    mixed = pairs * 2654435761 % 2**32 >> 24  # Knuth's multiplicative hash, by its upper 8 bits
    halves = [np.stack([np.bincount(row, minlength=BUCKETS) for row in part]) for part in (tokens % BUCKETS, mixed)]
    return np.concatenate([half / half.sum(1, keepdims=True) for half in halves], axis=1)
