"""Estimates of single examples in a file, from which an interrupted run resumes.

A row is one estimate of one image's bits/dim: the index of the example, the number of the repeat, the value, the
trace's error, the evaluations, and whether every solve converged. A row depends on its key alone, not on the run or the
batch that computed it. The file also holds the settings, as JSON.
"""

import dataclasses
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxdiff.arrays import atomic_write, check_file, check_path, fingerprint
from jaxdiff.arrays.mesh import agreed, writes

COLUMNS = {
    "example": np.int64,
    "repeat": np.int64,
    "bits_per_dim": np.float64,
    "trace_error": np.float64,
    "evaluations": np.int64,
    "converged": np.bool_,
}
LARGEST = 1e12  # bits/dim: a value two million standard deviations from the mean of a Gaussian has 3e12


def named(name: str, value) -> dict[str, str | int | float | None]:
    """A setting as a record describes it: itself, its class with each of its fields, or its class with a hash."""
    if isinstance(value, str | int | float | None):
        return {name: value}
    if not dataclasses.is_dataclass(value):
        return {name: f"{type(value).__name__} {fingerprint(value)}"}
    parts = [named(f"{name}.{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    own = {name: f"{type(value).__name__} {fingerprint(type(value))}"}
    return dict(item for part in (own, *parts) for item in part.items())


class Record:
    """The rows in memory and, if `path` is given, in that .npz file, with the settings that `settings()` returns.

    `n` is the number of examples. If `mesh` has several processes, the first owns the file, and all start from its
    rows.

    Raises:
        ValueError: for a path that does not end in .npz, a file that is not such a record, other settings (the message
            names them), or rows that no run over n examples can have written.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        settings: Callable[[], dict],
        mesh: Mesh | None = None,
        n: int | None = None,
    ):
        self.path = None if path is None else check_path("record", path)
        self.rows = {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
        if self.path is not None:
            self.settings = settings()
            if self.path.suffix != ".npz":
                raise ValueError(f"record = {str(self.path)!r}; expected a file that ends in .npz")
            self.writes, path = writes(mesh), self.path
            if agreed(lambda: b"there" if os.path.lexists(path) else b"", mesh):
                self._load(path, agreed(lambda: check_file(path).read_bytes(), mesh), n)

    def _load(self, path: Path, content: bytes, n: int | None) -> None:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                rows = {name: file[name] for name in COLUMNS}
                before = dict(json.loads(str(file["settings"])))
        except Exception as error:
            raise ValueError(f"{path} is not a record of likelihoods ({error}); remove it or give another") from error
        changed = [
            f"{name}: {before.get(name)}, now {self.settings.get(name)}"
            for name in sorted(before | self.settings)
            if before.get(name) != self.settings.get(name)
        ]
        if changed:
            raise ValueError(
                f"{path} holds likelihoods of other settings ({'; '.join(changed)}); remove it or give another"
            )
        if wrong := _fault(rows, n):
            raise ValueError(f"{path} is not what a likelihood wrote: {wrong}; remove it or give another")
        self.rows = rows

    def missing(self, order: np.ndarray, repeat: int) -> np.ndarray:
        """Those of `order` that have no row of this repeat yet."""
        return order[~np.isin(order, self.rows["example"][self.rows["repeat"] == repeat])]

    def add(self, **columns) -> None:
        """Append rows and rewrite the file atomically: 3 ms for 10,000 rows."""
        self.rows = {
            name: np.concatenate([rows, np.broadcast_to(columns[name], columns["example"].shape).astype(rows.dtype)])
            for name, rows in self.rows.items()
        }
        if self.path is not None and self.writes:
            with atomic_write(self.path) as file:
                arrays: dict[str, Any] = {"settings": np.array(json.dumps(self.settings)), **self.rows}
                np.savez(file, **arrays)


def _fault(rows: dict[str, np.ndarray], n: int | None) -> str | None:
    """The first fault of these rows that a run over n examples cannot have written; None if they have none."""
    size = rows["example"].size
    for name, dtype in COLUMNS.items():
        if rows[name].dtype != dtype or rows[name].shape != (size,):
            return f"{name} is {rows[name].dtype}{list(rows[name].shape)}; expected {np.dtype(dtype)}[{size}]"
    example, repeat, value, error = (rows[name] for name in ("example", "repeat", "bits_per_dim", "trace_error"))
    possible = {
        "example": (example >= 0) & (example < (size if n is None else n)),
        "repeat": (repeat >= 0) & (repeat < size),
        "bits_per_dim": np.where(rows["converged"], np.abs(value) <= LARGEST, np.isnan(value)),
        "trace_error": ~((error < 0) | (error > LARGEST)),
        "evaluations": rows["evaluations"] >= -1,
    }
    for name, fine in possible.items():
        if not fine.all():
            row = int(fine.argmin())
            return f"row {row}, of example {example[row]}, has {name} = {rows[name][row]}"
    counts = np.bincount(example)
    last = np.zeros_like(counts)
    np.maximum.at(last, example, repeat)
    if len(np.unique(np.stack([example, repeat]), axis=1).T) < size or (counts != last + (counts > 0)).any():
        return "the repeats of an example are not 0, 1, ..., each once"
    return None
