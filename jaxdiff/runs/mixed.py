"""Runs of tables of mixed columns: one joint model of all columns, which can be conditioned on any of them.

Each column is a part with its own noise level; numbers follow the process of the config, and categories are masked. One
model thus has every conditional law. The likelihood of a row is the sum of a density of the numbers, which the flow
computes, and a probability of the categories, which is bounded from below,

    log p(numbers, categories) = log p(numbers) + log p(categories | numbers),

in nats: the likelihood of the model that draws the numbers first.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import check_choice, said
from jaxdiff.config import Config
from jaxdiff.data import Columns, MixedColumns, MixedTable, write_columns
from jaxdiff.data.rows import SUFFIXES, listed
from jaxdiff.denoisers import Denoiser, arithmetic
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.losses import Denoising, Loss
from jaxdiff.losses.times import Subsets
from jaxdiff.metrics import Distance, sliced_wasserstein, wasserstein
from jaxdiff.runs.known import Known, shuffled
from jaxdiff.runs.laws import Asked, in_words, law_of
from jaxdiff.runs.rows import LIMIT, PAIRED
from jaxdiff.vocabulary import WORDS, Network

LAWS = "numbers", "numbers_given_categories", "categories_bound", "row_bound"  # the likelihoods in a report
FIGURES = [f"{law}{part}" for law in LAWS for part in ("", "_standard_error", "_baseline")]


@dataclasses.dataclass(frozen=True)
class Mixed(Known):
    """What a run of a table with columns of numbers and of categories keeps of its data.

    Attributes:
        event: (columns,).
        data_std: 1, the standard deviation of a standardised number.
        columns: names, means, scales and words.
        mean: the mean of the standardised numbers.
        covariance: their covariance.
        frequencies: for each column of categories, the frequency of each word.
        suffix: the suffix of the file of the data.

    Examples:
        >>> import numpy as np, tempfile
        >>> from jaxdiff import data, runs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     columns = {"age": np.array([20.0, 30.0, 40.0]), "job": np.array(["cook", "nurse", "cook"])}
        ...     data.write_columns(f"{folder}/people.csv", columns)
        ...     table = data.MixedTable(f"{folder}/people.csv", categories=("job",))
        ...     known = runs.learned(runs.Config(data=None), table)
        >>> known.KIND, known.columns.categories, known.columns.words
        ('mixed', ('job',), (('cook', 'nurse'),))
    """

    SOURCES: ClassVar = (MixedTable,)
    NETWORK: ClassVar = WORDS.parse("joint", Network)
    SHOWN: ClassVar = 2000

    columns: MixedColumns
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    frequencies: tuple[tuple[float, ...], ...]
    suffix: str = ".csv"

    def __post_init__(self):
        super().__post_init__()
        check_choice("suffix", self.suffix, SUFFIXES)
        n, words = len(self.columns.of_numbers), [*map(len, self.columns.words)]
        if {len(self.mean), len(self.covariance), *map(len, self.covariance)} != {n}:
            raise ValueError(f"mean or covariance are not of {n} columns of numbers, as columns has")
        if [*map(len, self.frequencies)] != words:
            raise ValueError(f"frequencies are not of columns of {words} words, as columns has")

    @classmethod
    def learned(cls, config: Config, source, seen: int = 0) -> "Mixed":
        """From a `jaxdiff.data.MixedTable`."""
        for name, value in (("flip", config.flip), ("dropout", config.dropout)):
            if value:
                raise ValueError(f"{name} = {value} is for pictures and their labels; leave it out")
        if config.condition:
            raise ValueError(
                f"condition = {', '.join(config.condition)}: a model of mixed columns can be conditioned on any of "
                "them afterwards (jaxdiff sample --condition); leave it out of training"
            )
        if not isinstance(config.process, jd.Gaussian | None):
            raise ValueError(f"process = {said(config.process)} is not for numbers (categories are masked); give vp")
        columns, values = source.columns, source.values
        if len(columns.names) < 2:
            raise ValueError(f"the data have one column, {columns.names[0]!r}; expected two or more for a joint model")
        counts = [np.bincount(values[:, columns.names.index(name)].astype(int)) for name in columns.categories]
        frequencies: Any = [_share(count, len(words)).tolist() for count, words in zip(counts, columns.words)]
        mean: Any = ()
        covariance: Any = ()
        if columns.numbers is not None:
            rows = values[:, [columns.names.index(name) for name in columns.of_numbers]]
            mean, covariance = (array.tolist() for array in columns.numbers.moments(rows))
        return cls((len(columns.names),), 1.0, columns, mean, covariance, frequencies, source.suffix)

    def lasting(self, config: Config) -> dict[str, Any]:
        """The columns and their words."""
        names = {"columns": self.columns.names, "words": self.columns.words}
        return super().lasting(config) | names

    def dropout(self, config: Config) -> None:
        """None: columns that are not given are parts of the model."""

    def offered(self, config: Config) -> dict[str, Any]:
        """One end of the network per column. A masked column shows its noise level by its masks."""
        from jaxdiff.networks import Categories, Numbers

        words = zip(self.columns.categories, self.columns.words)
        ends = {name: Categories(len(known), noise=False) for name, known in words}
        return {"ends": ends | {name: Numbers() for name in self.columns.of_numbers}}

    def reading(self, config: Config) -> dict[str, Any]:
        """One process per column."""
        words = zip(self.columns.categories, self.columns.words)
        masked = {name: jd.Absorbing(len(known)) for name, known in words}
        numbers = self.columns.of_numbers
        none = dict.fromkeys(masked)
        return {
            "process": jd.Product(masked | dict.fromkeys(numbers, config.process)),
            "parameterization": none | dict.fromkeys(numbers, config.parameterization),
            "data_std": none | dict.fromkeys(numbers, self.data_std),
        }

    def loss(self, config: Config) -> Loss:
        """Denoising, with random subsets of columns given and hidden."""
        loss = config.loss
        if not isinstance(loss, Denoising):
            raise ValueError(f"loss = {WORDS.write(loss, Loss)}: a model of mixed columns is trained by denoising")
        law: Any = loss.times
        return loss if isinstance(law, Subsets) else dataclasses.replace(loss, times=Subsets(law))

    def examples(self, source) -> dict[str, np.ndarray]:
        """The rows as the model sees them, each column under its name."""
        return {f"x.{name}": part for name, part in self.columns.parts(self.columns.read(source.raw)).items()}

    def prepare(self, config: Config) -> Callable:
        """The columns unchanged."""
        return lambda key, batch: ({name: batch[f"x.{name}"] for name in self.columns.names}, None)

    def given(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns to condition on; ValueError for unknown or repeated names, or all columns."""
        if unknown := [name for name in names if name not in self.columns.names]:
            raise ValueError(f"condition names {listed(unknown)}; expected some of the columns {self._listed()}")
        if len(set(names)) < len(names) or len(names) == len(self.columns.names):
            raise ValueError(f"condition = {' '.join(names)}; expected each column once, and not all columns")
        return tuple(names)

    def _listed(self) -> str:
        return listed(self.columns.names)

    def condition(self, config: Config, given: Sequence[str], n: int) -> dict[str, np.ndarray] | None:
        """Values of any columns, from "age=41" and "job=nurse", or "age=41,job=nurse"."""
        if not (row := self._row(given)):
            return None
        place = self.columns.names.index
        rows = np.zeros((n, len(self.columns.names)))
        for name, value in row.items():
            rows[:, place(name)] = value
        parts = self.columns.parts(rows)
        return {name: parts[name] for name in row}

    def with_given(self, x: dict[str, np.ndarray], given: Sequence[str]) -> dict[str, np.ndarray]:
        """Restored samples x with the numbers of `given`, which float32 rounded."""
        numbers = {name: value for name, value in self._row(given).items() if name in self.columns.of_numbers}
        return x | {name: np.full_like(x[name], value) for name, value in numbers.items()}

    def _row(self, given: Sequence[str]) -> dict[str, float]:
        """Values of columns by name, words as indices, from texts such as "age=41,job=nurse"."""
        pairs = [part.partition("=") for text in given for part in re.split(r",(?=[^,=]+=)", text)]
        values = {name.strip(): value.strip() for name, _, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"condition = {' '.join(given)}; expected each column once")
        return {name: self._value(name, values[name]) for name in self.given(tuple(values))}

    def _value(self, name: str, text: str) -> float:
        if name in self.columns.categories:
            words = self.columns.words[self.columns.categories.index(name)]
            if text not in words:
                raise ValueError(f"condition {name} = {text!r:.80}; expected one of {listed(words)}")
            return float(words.index(text))
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"condition {name} = {text!r}; expected a number") from None
        if not math.isfinite(value):
            raise ValueError(f"condition {name} = {text}; expected a finite number")
        return value

    def in_turn(self, source, n: int) -> None:
        """None: the model draws all columns."""

    def draw(self, key, denoiser, n: int, sampler, batch_size: int, cond=None, **settings) -> dict[str, np.ndarray]:
        """Draw the columns that `cond` does not give, numbers by `sampler` and categories by Ancestral; return all."""
        if not isinstance(denoiser, Denoiser):
            raise ValueError(
                f"guidance by {type(denoiser).__name__}: a run of mixed columns cannot be guided; leave it out"
            )
        held = {} if cond is None else cond
        left = [name for name in self.columns.names if name not in held]
        samplers = {name: sampler if name in self.columns.of_numbers else jd.samplers.Ancestral() for name in left}
        shapes = {name: (n, *self._event(name)) for name in left}
        if len(left) == 1:
            chosen, shape = samplers[left[0]], shapes[left[0]]
        else:
            chosen, shape = jd.samplers.Each(samplers), shapes
        model = self.given_of(denoiser, tuple(held))
        x = jd.samplers.draw(key, model, shape, batch_size, cond, sampler=chosen, **settings)
        return ({left[0]: x} if len(left) == 1 else x) | held

    def _event(self, name: str) -> tuple[int, ...]:
        return (1,) if name in self.columns.of_numbers else ()

    def given_of(self, denoiser, names: Sequence[str]) -> Any:
        """The denoiser conditioned on these columns."""
        if not names:
            return denoiser
        return jd.Given(denoiser, tuple(names), event={name: self._event(name) for name in names})

    def real(self, source, config, condition, most) -> tuple[np.ndarray, None]:
        """Rows with all columns, words as indices."""
        if condition:
            raise ValueError(
                f"condition = {' '.join(condition)}, but no rows of the data have just these values to compare with; "
                "leave it out"
            )
        values = self.columns.read(source.raw)
        return values[shuffled(len(values))[:most]], None

    def as_given(self, config, given, n) -> None:
        """None: no column is given."""

    def features(self, features, folder, source, held_out, progress) -> tuple[Callable, dict[str, Any]]:
        """The columns, numbers standardised and categories as one-hot vectors."""
        if features is not None:
            raise ValueError(
                f"features = {said(features)} are for pictures; rows are compared by their columns: leave it out"
            )
        return self._together, {"name": "the standardised columns, categories as one-hot vectors"}

    def _together(self, values) -> np.ndarray:
        parts = self.columns.parts(values)
        hot = [np.eye(len(words))[parts[name]] for name, words in zip(self.columns.categories, self.columns.words)]
        return np.concatenate([*(parts[name] for name in self.columns.of_numbers), *hot], axis=1)

    def whole(self, x, cond) -> np.ndarray:
        """Rows with all columns, words as indices."""
        return self.columns.values(x)

    def distances(self, key, real, x) -> dict[str, Distance]:
        """Wasserstein distances of `features`: the exact one of at most 2,000 rows per set, the sliced one of all."""
        n, (x, real) = min(len(real), len(x), PAIRED), map(self._together, (x, real))
        return {
            "wasserstein": Distance(wasserstein(x[:n], real[:n]), math.nan),
            "sliced_wasserstein": sliced_wasserstein(key, x, real),
        }

    def restore(self, x) -> dict[str, np.ndarray]:
        """Columns in the user's units and words."""
        return self.columns.restored(self.columns.values(x))

    def write(self, x, folder: Path) -> Path:
        """Write samples.csv, .npy or .npz, in the format of the data."""
        write_columns(path := folder / f"samples{self.suffix}", x)
        return path

    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> Any:
        """Draw pairs of columns next to those of the data."""
        beside = {} if source is None else {"data": self.columns.read(source.raw)}
        words = dict(zip(self.columns.categories, self.columns.words))
        jd.plotting.pairs(beside | {"samples": self.columns.values(x)}, self.columns.names, path, title, words)
        return path

    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """No further pictures."""

    def score(self, key, denoiser, source, limit, conditional, lasting, **settings) -> tuple[dict, str]:
        """Nats per row: of the numbers by the flow, of the categories by their bound, and of both together."""
        given = settings.pop("condition", ())
        if wrong := sorted(settings.keys() - {"flow", "trace"}):
            raise ValueError(f"{wrong[0]} = {settings[wrong[0]]} is for pictures; these are rows: leave it out")
        values = self.columns.read(source.raw)
        values = values[shuffled(len(values))[: limit or LIMIT]]
        asked = Asked(self, key, denoiser, self.columns.parts(values), given, lasting, settings)
        own = lambda names: tuple(name for name in names if name not in given)
        numbers, categories = own(self.columns.of_numbers), own(self.columns.categories)
        laws: dict[str, tuple[str, np.ndarray, np.ndarray | None]] = {}  # name: (law in words, nats [n], a baseline)
        if numbers:
            gaussian = self._gaussian(values, given)
            laws["numbers"] = (law_of(numbers, given), asked.density(numbers, hidden=categories), gaussian)
            if categories:
                of = law_of(numbers, (*given, *categories))
                laws["numbers_given_categories"] = (of, asked.density(numbers, held=categories), None)
        if categories:
            of, known = law_of(categories, (*given, *numbers)), self._counted(values, categories)
            laws["categories_bound"] = (of, asked.bound(categories, held=numbers), known)
        if numbers and categories:
            both = laws["numbers"][1] + laws["categories_bound"][1]
            laws["row_bound"] = (law_of((*numbers, *categories), given), both, None)
        converged = np.all([np.isfinite(nats) for _, nats, _ in laws.values()], axis=0)
        if not converged.any():
            raise ValueError(
                f"the flow converged for none of {len(values)} rows; check whether they are far from those of the "
                "training, or give --flow other tolerances"
            )
        figures = dict.fromkeys(FIGURES)  # None overwrites the figures of an earlier likelihood in the summary
        for name, (_, nats, baseline) in laws.items():
            figures[name], figures[f"{name}_standard_error"] = mean_of(nats[converged])
            if baseline is not None:
                figures[f"{name}_baseline"] = float(baseline[converged].mean())
        precision = arithmetic(denoiser, np.float32, lasting["precision"])
        figures |= {"examples": len(values), "not_converged": int((~converged).sum()), "precision": precision}
        return figures, in_words({name: of for name, (of, *_) in laws.items()}, figures, len(categories))

    def _gaussian(self, values, given: Sequence[str]) -> np.ndarray:
        """log p of the numbers that are not given, under one Gaussian fitted to the training rows, nats [n]."""
        columns = self._numbers(given)
        rows = values[:, [self.columns.names.index(name) for name in columns.names]]
        return columns.gaussian_log_prob(self.mean, self.covariance, rows)

    def _numbers(self, given: Sequence[str]) -> Columns:
        """The columns of numbers, with those in `given` as the condition."""
        columns = self.columns.numbers
        assert columns is not None
        return dataclasses.replace(columns, condition=tuple(name for name in columns.names if name in given))

    def log_scale(self, given: Sequence[str]) -> float:
        """Subtract this from a log-density of standardised numbers to have it in the user's units."""
        return self._numbers(given).log_scale

    def _counted(self, values, categories: Sequence[str]) -> np.ndarray:
        """log p of categories by the frequencies of words in the training rows, nats [n]."""
        total = np.zeros(len(values))
        for name in categories:
            shares = np.array(self.frequencies[self.columns.categories.index(name)])
            total += np.log(shares[values[:, self.columns.names.index(name)].astype(int)])
        return total


def _share(counts: np.ndarray, words: int) -> np.ndarray:
    """The frequencies of words by their counts; a word that does not occur counts as half an occurrence."""
    counts = np.pad(counts, (0, words - len(counts))).astype(float)
    counts = np.where(counts > 0, counts, 0.5)
    return counts / counts.sum()
