"""Runs of rows of numbers: the user's tables, and toy distributions, which are tables of two columns, x and y."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import check_choice, said
from jaxdiff.config import Config
from jaxdiff.data import Columns, write_rows
from jaxdiff.data.rows import SUFFIXES
from jaxdiff.denoisers import arithmetic, uncast
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.metrics import Distance, sliced_wasserstein, wasserstein
from jaxdiff.runs.known import Known, shuffled
from jaxdiff.vocabulary import WORDS, Network

LIMIT = 2000  # rows of a likelihood by default
PAIRED = 2000  # the most rows of the exact Wasserstein distance
EXACT = 16  # the most columns whose trace is exact by default: 2,000 rows then take 12.8 s of CPU, 9.0 by one probe


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Points of the plane as a table of the columns x and y, which are not standardised."""

    points: np.ndarray

    names: ClassVar = ("x", "y")
    columns: ClassVar = Columns(("x", "y"), (0.0, 0.0), (1.0, 1.0))
    suffix: ClassVar = ".npy"

    @property
    def values(self) -> np.ndarray:
        """The points, float64 [n, 2]."""
        return self.points.astype(np.float64)

    @property
    def examples(self) -> dict[str, np.ndarray]:
        """The points as a model sees them."""
        return {"x": self.points}


@dataclasses.dataclass(frozen=True)
class Rows(Known):
    """What a run of rows of numbers keeps of its data.

    Attributes:
        event: (columns,), those that the model draws.
        data_std: their standard deviation, standardised.
        columns: names, means and scales of all columns, and which of them are the condition.
        mean: the mean of all columns, standardised.
        covariance: their covariance, standardised.
        suffix: the suffix of the file of the data.

    Examples:
        >>> import numpy as np, tempfile
        >>> from jaxdiff import data, runs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data.write_rows(f"{folder}/mine.csv", ("x", "y"), [[1, 10], [2, 30], [3, 20]])
        ...     known = runs.learned(runs.Config(data=None), data.Table(f"{folder}/mine.csv"))
        >>> known.KIND, known.event, known.columns.mean
        ('rows', (2,), (2.0, 20.0))
        >>> known.restore(np.zeros((1, 2)))
        array([[ 2., 20.]])
    """

    SOURCES: ClassVar = (jd.data.Table, Points)
    NETWORK: ClassVar = WORDS.parse("mlp", Network)
    SHOWN: ClassVar = 4000

    columns: Columns
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    suffix: str = ".npy"

    def __post_init__(self):
        super().__post_init__()
        check_choice("suffix", self.suffix, SUFFIXES)
        n = len(self.columns.names)
        if self.event != (len(self.columns.modelled),):
            raise ValueError(f"event = {self.event}; expected ({len(self.columns.modelled)},), the columns modelled")
        if {len(self.mean), len(self.covariance), *map(len, self.covariance)} != {n}:
            raise ValueError(f"mean or covariance are not of {n} columns, as names has")

    @classmethod
    def learned(cls, config: Config, source, seen: int = 0) -> "Rows":
        """From a `jaxdiff.data.Table`."""
        if config.flip:
            raise ValueError("flip = True is for pictures; rows cannot be mirrored: leave it out")
        if config.dropout:
            raise ValueError(f"dropout = {config.dropout} is for labels; columns are always given: leave it out")
        if source.columns.condition != config.condition:
            given = ", ".join(source.columns.condition) or "none"
            raise ValueError(
                f"condition = {', '.join(config.condition) or 'none'}, but the table has the condition {given}; make "
                "them agree: Table(path, condition=(...))"
            )
        x = source.examples["x"]
        mean, covariance = (array.tolist() for array in source.columns.moments(source.values))
        return cls(x.shape[1:], float(np.std(x)), source.columns, mean, covariance, source.suffix)

    def offered(self, config: Config) -> dict[str, Any]:
        """The event, and the number of columns that are given."""
        given = {"vector": len(self.columns.condition)} if self.columns.condition else {}
        return {"event": self.event} | given

    def examples(self, source) -> Any:
        """The rows as the model sees them, by the means and scales with which the run began."""
        x, cond = self.columns.standardised(self.columns.rows(source.names, source.values))
        return {"x": x} if cond is None else {"x": x, "cond": cond}

    def prepare(self, config: Config) -> Callable:
        """The columns unchanged."""
        return lambda key, batch: (batch["x"], batch.get("cond"))

    def condition(self, config: Config, given: Sequence[str], n: int) -> np.ndarray | None:
        """Values of the given columns, from "y=1.5" and "z=2", or "y=1.5,z=2"."""
        if not given and not self.columns.condition:
            return None
        pairs = [part.rpartition("=") for text in given for part in text.split(",")]
        try:
            values = {name.strip(): float(value) for name, _, value in pairs}
        except ValueError as error:
            raise ValueError(f"condition = {' '.join(given)}: {error}; expected name=number") from None
        if len(values) < len(pairs):
            raise ValueError(f"condition = {' '.join(given)}; expected each column once")
        return np.tile(self.columns.conditions(values), (n, 1))

    def estimate(self) -> dict[str, Any]:
        """An exact trace if the model has few columns."""
        return super().estimate() | ({"trace": jd.likelihood.Exact()} if self.event[0] <= EXACT else {})

    def in_turn(self, source, n: int) -> np.ndarray:
        """The given columns of the rows, in a random order."""
        given = self.examples(source)["cond"]
        return np.resize(given[shuffled(len(given))], (n, len(self.columns.condition)))

    def real(self, source, config, condition, most) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows with all columns, and their given columns, standardised."""
        if condition:
            raise ValueError(
                f"condition = {' '.join(condition)}, but no rows of the data have just these values to compare with; "
                "leave it out: samples are given those of the rows"
            )
        rows = self.columns.rows(source.names, source.values)[shuffled(len(source.values))[:most]]
        return rows, self.columns.standardised(rows)[1]

    def as_given(self, config, given, n) -> np.ndarray | None:
        """The given columns of the first n rows, repeated if there are fewer."""
        return None if given is None else np.resize(given, (n, given.shape[1]))

    def features(self, features, folder, source, held_out, progress) -> tuple[Callable, dict[str, Any]]:
        """The columns, standardised."""
        if features is not None:
            raise ValueError(
                f"features = {said(features)} are for pictures; rows are compared by their columns: leave it out"
            )
        together = lambda rows: np.concatenate([z for z in self.columns.standardised(rows) if z is not None], axis=1)
        return together, {"name": "the standardised columns"}

    def whole(self, x, cond) -> np.ndarray:
        """Rows with all columns, in the user's units."""
        return self.columns.whole(x, cond)

    def distances(self, key, real, x) -> dict[str, Distance]:
        """Wasserstein distances: the exact one of at most 2,000 rows per set, the sliced one of all."""
        n = min(len(real), len(x), PAIRED)
        return {
            "wasserstein": Distance(wasserstein(x[:n], real[:n]), math.nan),
            "sliced_wasserstein": sliced_wasserstein(key, x, real),
        }

    def restore(self, x) -> np.ndarray:
        """Rows in the user's units."""
        return self.columns.restored(x)

    def write(self, x, folder: Path) -> Path:
        """Write samples.csv, .npy or .npz, in the format of the data."""
        write_rows(path := folder / f"samples{self.suffix}", self.columns.modelled, x)
        return path

    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> Path:
        """Draw pairs of columns in the user's units, next to those of the data."""
        names = self.columns.modelled
        beside = {} if source is None else {"data": self.columns.restored(self.examples(source)["x"])}
        jd.plotting.pairs(beside | {"samples": self.restore(x)}, names, path, title)
        return path

    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """Draw density.png, the density of a model of two columns without a condition."""
        if self.event != (2,) or self.columns.condition:
            return
        plane = jnp.asarray(jd.plotting.plane(2.5, 80), jnp.float32)
        settings = {"flow": jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3), "trace": jd.likelihood.Exact()}
        log_prob = jd.log_likelihood(jax.random.key(0), uncast(denoiser)[0], plane, **settings).log_prob
        units = "" if self.columns.scale == (1.0, 1.0) else ", standardised"
        picture = jd.plotting.panels({"density": jd.plotting.Density(np.asarray(log_prob))})
        x, y = (f"{name}{units}" for name in self.columns.modelled)
        picture.axes[0].set(xlabel=x, ylabel=y)
        picture.saved(folder / "density.png")

    def score(self, key, denoiser, source, limit, conditional, lasting, **settings) -> tuple[dict, str]:
        """Nats per row in the user's units, and those of one Gaussian fitted to the training rows as a baseline."""
        if wrong := sorted(settings.keys() - {"flow", "trace"}):
            raise ValueError(
                f"{wrong[0]} = {settings[wrong[0]]} is for pictures; these are rows of numbers: leave it out"
            )
        rows = self.columns.rows(source.names, source.values)[shuffled(len(source.values))[: limit or LIMIT]]
        x, cond = self.columns.standardised(rows)
        precision = lasting["precision"]
        found = jd.log_likelihood(key, denoiser, jnp.asarray(x), cond=cond, precision=precision, **settings)
        converged = np.asarray(found.converged)
        if not converged.any():
            raise ValueError(
                f"the flow converged for none of {len(rows)} rows; check whether they are far from those of the "
                "training, or give --flow other tolerances"
            )
        nats = np.asarray(found.log_prob, np.float64)[converged] - self.columns.log_scale
        gaussian = self.columns.gaussian_log_prob(self.mean, self.covariance, rows)[converged]
        figures = {
            "log_likelihood": float(nats.mean()),
            "standard_error": mean_of(nats).standard_error,
            "gaussian": float(gaussian.mean()),
            "above_gaussian": float((nats - gaussian).mean()),
            "above_gaussian_standard_error": mean_of(nats - gaussian).standard_error,
            "examples": len(rows),
            "not_converged": int((~converged).sum()),
            "precision": arithmetic(denoiser, jnp.asarray(x).dtype, precision),
        }
        given = f", p(x | {', '.join(self.columns.condition)})" if self.columns.condition else ""
        words = (
            "{log_likelihood:.4f} +- {standard_error:.4f} nats a row{given} ({precision}); one Gaussian of the rows it "
            "learned from has {gaussian:.4f}: this model is {above_gaussian:.4f} +- "
            "{above_gaussian_standard_error:.4f} above"
        ).format(**figures, given=given)
        return figures, words
