"""Tables of numbers as a data set: standardised for the model, and restored to the user's units.

A model of a table sees z = (value - mean) / scale. Its log-densities are those of z; in the user's units they are

    log p(row) = log p(z) - sum of log(scale),

and samples come back by value = mean + scale z.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdiff.arrays import check_array, check_real, said
from jaxdiff.data.rows import listed, read_rows
from jaxdiff.data.splits import Split, check_split, split_of

LEAST = 1e-6  # the least standard deviation of a column given those before it, for a fitted Gaussian


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table of numbers as a model knows them: names, means, scales, and which are the condition.

    Samples and likelihoods need nothing else of the training data. `dataclasses.asdict(columns)` is JSON, and
    `Columns(**that)` the same columns again.

    Args:
        names: the names of all columns, in the table's order.
        mean: the mean of each column over the training rows.
        scale: the standard deviation of each column over the training rows.
        condition: the names of the columns that are given to the model; it models the others.

    Raises:
        TypeError: if a field is not a sequence.
        ValueError: if lengths differ, names are repeated, a scale is not above 0, a name in `condition` is not a
            column, or no column is left to model.

    Examples:
        >>> from jaxdiff import data
        >>> columns = data.Columns(("x", "y"), mean=(1.0, 5.0), scale=(2.0, 10.0), condition=("y",))
        >>> x, cond = columns.standardised([[3.0, 5.0]])
        >>> x.tolist(), cond.tolist()
        ([[1.0]], [[0.0]])
        >>> columns.whole(x, cond).tolist()
        [[3.0, 5.0]]
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    condition: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("names", "condition"):
            object.__setattr__(self, name, check_names(name, getattr(self, name)))
        for name, bounds in (("mean", {}), ("scale", {"above": 0})):
            value = np.asarray(check_real(name, getattr(self, name)), np.float64)
            if value.shape != (len(self.names),):
                raise ValueError(f"{name} has shape {value.shape}; expected {len(self.names)} numbers, one a column")
            object.__setattr__(self, name, tuple(check_array(name, value, **bounds).tolist()))
        if unknown := [name for name in self.condition if name not in self.names]:
            raise ValueError(f"condition names {listed(unknown)}; expected some of the columns {listed(self.names)}")
        if not self.modelled:
            raise ValueError(f"condition names all columns, {listed(self.names)}; expected one or more left to model")

    @property
    def modelled(self) -> tuple[str, ...]:
        """The names of the columns that the model draws."""
        return tuple(name for name in self.names if name not in self.condition)

    @property
    def log_scale(self) -> float:
        """The sum of log(scale) of the modelled columns: log p(row) = log p(z) - log_scale."""
        return sum(math.log(self.scale[i]) for i in self._places(self.modelled))

    def standardised(self, values) -> tuple[np.ndarray, np.ndarray | None]:
        """(x, cond) of rows [n, columns] as the model sees them: float32 [n, modelled], and [n, given] or None.

        Raises ValueError for values of another shape, and for values too far from the mean for float32.
        """
        z = self._standardised(values, self.names).astype(np.float32)
        cond = z[:, self._places(self.condition)] if self.condition else None
        return z[:, self._places(self.modelled)], cond

    def restored(self, x) -> np.ndarray:
        """The modelled columns in the user's units, float64 [n, modelled], from x that the model sees or draws."""
        return self._restored("x", x, self.modelled)

    def whole(self, x, cond) -> np.ndarray:
        """Rows in the user's units, float64 [n, columns]: the inverse of `standardised`."""
        rows = np.empty((len(x), len(self.names)))
        rows[:, self._places(self.modelled)] = self.restored(x)
        if self.condition:
            rows[:, self._places(self.condition)] = self._restored("cond", cond, self.condition)
        return rows

    def _restored(self, name: str, z, columns: Sequence[str]) -> np.ndarray:
        places, z = self._places(columns), np.asarray(z, np.float64)
        if z.ndim != 2 or z.shape[1] != len(places):
            raise ValueError(f"{name} has shape {z.shape}; expected [n, {len(places)}], the columns {listed(columns)}")
        return np.array(self.mean)[places] + np.array(self.scale)[places] * z

    def rows(self, names: Sequence[str], values) -> np.ndarray:
        """The rows of another table with the same columns in any order, in the order of these: float64 [n, columns].

        Raises ValueError that names missing or unknown columns.
        """
        self._check_same("the rows have", names, self.names)
        values = np.asarray(values, np.float64)
        return values[:, [list(names).index(name) for name in self.names]]

    def conditions(self, given: Mapping[str, object]) -> np.ndarray:
        """The condition as the model sees it, from {name: a number, or n numbers}: float32 [given] or [n, given].

        Raises ValueError if a name is missing or unknown, a number is not finite, or lengths differ.
        """
        self._check_same("the condition has", list(given), self.condition)
        values = [np.asarray(check_array(name, given[name]), np.float64) for name in self.condition]
        lengths = {len(value) for value in values if value.ndim}
        if len(lengths) > 1 or any(value.ndim > 1 for value in values):
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in zip(self.condition, values))
            raise ValueError(f"the condition has {shapes}; expected one number each, or n numbers each")
        return self._standardised(np.stack(np.broadcast_arrays(*values), -1), self.condition).astype(np.float32)

    def moments(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """The mean [columns] and the covariance [columns, columns] of rows [n, columns], standardised: float64."""
        z = self._standardised(rows, self.names)
        mean = z.mean(0)
        return mean, (z - mean).T @ (z - mean) / len(z)

    def gaussian_log_prob(self, mean, covariance, rows) -> np.ndarray:
        """log p of rows [n, columns] under the Gaussian of these `moments`, in nats of the user's units: float64 [n].

        It is a baseline for the likelihood of a model: the law of the modelled columns given the others. Raises
        ValueError if the Gaussian has no density, because of too few rows or columns that are linear combinations.
        """
        order = self._places(self.condition + self.modelled)
        covariance = np.asarray(covariance, np.float64)[np.ix_(order, order)]
        given = len(self.condition)
        root = _triangular(covariance)
        own = np.diag(root)
        if own.min() < LEAST:
            column = self.names[order[int(own.argmin())]]
            raise ValueError(
                f"column {column!r} is a linear combination of the columns before it ({listed(self.names)}), or there "
                "are too few rows: the columns have no joint density; leave it out"
            )
        away = (self._standardised(rows, self.names) - np.asarray(mean))[:, order]
        # the last rows of the triangular factor are the residuals of the modelled columns given the others
        white = np.linalg.solve(root, away.T)[given:]
        log_prob = -0.5 * (white**2).sum(0) - np.log(own[given:]).sum() - 0.5 * len(white) * math.log(2 * math.pi)
        return log_prob - self.log_scale

    def _places(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in names]

    def _standardised(self, values, names: Sequence[str]) -> np.ndarray:
        """Values [..., names] standardised in float64, since a mean of 1e5 with a scale of 1e-3 would lose digits."""
        values = np.asarray(check_array("values", values), np.float64)
        if values.ndim < 1 + (names == self.names) or values.shape[-1] != len(names):
            raise ValueError(
                f"values have shape {values.shape}; expected [n, {len(names)}], the columns {listed(names)}"
            )
        places = self._places(names)
        z = (values - np.array(self.mean)[places]) / np.array(self.scale)[places]
        far = np.abs(z) > np.finfo(np.float32).max
        if far.any():
            where = np.argwhere(far)[0]
            raise ValueError(
                f"column {names[where[-1]]!r} holds {values[tuple(where)]}, {z[tuple(where)]:.3g} standard deviations "
                "from its mean; repair or remove it"
            )
        return z

    def _check_same(self, what: str, found: Sequence[str], expected: Sequence[str]) -> None:
        missing = [name for name in expected if name not in found]
        unknown = [name for name in found if name not in expected]
        if missing or unknown or len(found) != len(expected):
            wrong = [f"lacks {listed(missing)}"] * bool(missing)
            wrong += [f"does not know {listed(unknown)}, which must be left out"] * bool(unknown)
            raise ValueError(
                f"{what} the columns {listed(found) or 'none'}; expected {listed(expected) or 'none'}, those of the "
                f"model{': it ' + ' and '.join(wrong) if wrong else ', each once'}"
            )


class Table:
    """A table of numbers from a `.csv`, `.npy` or `.npz` file, as `read_rows` reads it.

    Train on `batches(table.examples, ...)`: {"x": float32 `[n, modelled]`}, and "cond", float32 `[n, given]`, if there
    is a condition.

    Args:
        path: the file.
        split: "train", "validation" or "test" for about 90, 5 or 5 % of the rows; None for all. The split of a row
            depends on its values alone, by their SHA-256: adding rows does not move others, and equal rows share one.
        condition: the names of columns that are given to the model; it models the others.

    Attributes:
        names: the names of the columns.
        values: the rows of the split, float64 `[n, columns]`, in the user's units and the file's order.
        columns: names, means and scales: `Columns`. Means and scales are those of the split "train", or of all rows if
            the split is None. Reading it raises ValueError for a constant column, one whose squares float64 does not
            hold, a condition that is not a column, and fewer than two training rows.
        examples: the rows as a model sees them.
        suffix: the suffix of the file.

    Raises:
        TypeError: if `condition` is not a tuple of names.
        ValueError: if the file is not a table (`read_rows`), or the split has no rows.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> import tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data.write_rows(f"{folder}/mine.csv", ("x", "y"), [[1, 10], [3, 30]])
        ...     table = data.Table(f"{folder}/mine.csv", condition=("y",))
        >>> table.columns.mean, table.columns.scale
        ((2.0, 20.0), (1.0, 10.0))
        >>> table.examples["x"].tolist(), table.examples["cond"].tolist()
        ([[-1.0], [1.0]], [[-1.0], [1.0]])
    """

    def __init__(self, path: str | os.PathLike, split: Split | None = None, condition: Sequence[str] = ()):
        check_split(split)
        self._path, self._condition = path, check_names("condition", condition)
        self.names, values = read_rows(path)
        self._train = self.values = values
        if split is not None:
            splits = np.array([split_of(row.tobytes()) for row in values + 0.0])  # + 0.0 turns -0 into 0
            self._train, self.values = values[splits == "train"], values[splits == split]
        if not len(self.values):
            raise ValueError(f"{path} has too few rows: {len(values)}, and none in its split {split!r}; expected more")
        self.suffix = Path(path).suffix.lower()

    def __len__(self) -> int:
        return len(self.values)

    @functools.cached_property
    def columns(self) -> Columns:
        """Names, means and scales, over the rows of the split "train", or over all rows if the split is None."""
        if len(self._train) < 2:
            raise ValueError(f"{self._path} has too few rows: {len(self._train)} for training; expected more")
        return learned(self._path, self.names, self._train, self._condition)

    @property
    def examples(self) -> dict[str, np.ndarray]:
        """The rows as a model sees them."""
        x, cond = self.columns.standardised(self.values)
        return {"x": x} if cond is None else {"x": x, "cond": cond}


def _triangular(covariance: np.ndarray) -> np.ndarray:
    """The Cholesky factor of a covariance, with a column of zeros for a linear combination of those before.

    Its diagonal is the standard deviation of each column given those before it.
    """
    root, left = np.zeros_like(covariance), np.array(covariance)
    for i in range(len(left)):
        if left[i, i] > 0:
            root[:, i] = left[:, i] / math.sqrt(left[i, i])
            left -= np.outer(root[:, i], root[:, i])
    return root


def check_names(what: str, names) -> tuple[str, ...]:
    """`names` as a tuple of strings, each once; TypeError or ValueError for anything else."""
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{what} = {said(names)}; expected a tuple of names, such as ('y', 'z')")
    if len(set(names)) < len(names):
        raise ValueError(f"{what} = {said(names)}; expected each name once")
    return tuple(names)


def learned(path, names: tuple[str, ...], rows: np.ndarray, condition: tuple[str, ...] = ()) -> Columns:
    """The columns of a table, with the means and scales of the training rows."""
    if constant := [name for name, spread in zip(names, np.ptp(rows, axis=0)) if spread == 0]:
        value = rows[0, names.index(constant[0])]
        raise ValueError(
            f"{path} has constant columns: {listed(constant)}, the first {value} in every row for training; leave out "
            "what does not vary"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = rows.mean(0), rows.std(0)
    if not np.all(usable := np.isfinite(mean) & np.isfinite(scale) & (scale > 0)):
        column = int(np.argmin(usable))
        raise ValueError(
            f"{path}, column {names[column]!r} has values from {rows[:, column].min()} to {rows[:, column].max()}, "
            "whose squares float64 does not hold; give it in other units"
        )
    return Columns(names, tuple(mean.tolist()), tuple(scale.tolist()), condition)
