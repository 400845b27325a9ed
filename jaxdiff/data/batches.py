"""Batches as a function of (seed, step): nothing to save, nothing to restore, and resuming is exact.

Epoch e is the n // batch_size batches cut from a permutation of the n examples drawn from (seed, e). The
n mod batch_size examples left over sit that epoch out; the next permutation leaves out others. Every batch is
full, and an example is seen at most once an epoch.
"""

import functools
import hashlib
import operator
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import grain


def batches(arrays: Mapping[str, np.ndarray], batch_size: int, seed: int) -> "grain.MapDataset":
    """An endless Grain data set: record `step`, for any step >= 0, is a dict of arrays [batch_size, ...].

    A record is a whole batch, so that Grain's cost an element is paid once a step. `.map`, `.random_map` and
    `.to_iter_dataset` work as on any `grain.MapDataset`; `len` is as large as an integer goes.

    Args:
        arrays: arrays [n, ...], one length for all. They are not copied.
        seed: a whole number of 0 or more.

    Raises ValueError or TypeError for data or settings that cannot make a batch.
    """
    source = _Batches(*_checked(arrays, batch_size, seed))
    import grain

    return grain.MapDataset.source(source)


def fingerprint(arrays: Mapping[str, np.ndarray], batch_size: int, seed: int) -> str:
    """Hexadecimal SHA-256 of all that batches depend on: names, shapes, types, contents, batch size, seed.

    Raises what `batches` raises.
    """
    arrays, batch_size, seed = _checked(arrays, batch_size, seed)
    digest = hashlib.sha256(f"{batch_size} {seed}".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name!r} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()


class _Batches:
    """The random-access source behind `batches`."""

    def __init__(self, arrays: dict[str, np.ndarray], batch_size: int, seed: int):
        self._arrays, self._batch_size, self._seed = arrays, batch_size, seed
        self._examples = len(next(iter(arrays.values())))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        epoch, batch = divmod(index, self._examples // self._batch_size)
        order = _permutation(self._seed, epoch, self._examples)
        chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
        return {name: array[chosen] for name, array in self._arrays.items()}


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    # RandomState's streams are frozen; Generator's, and a resumed run with them, may change with NumPy.
    order = np.random.RandomState(np.random.MT19937([seed, epoch])).permutation(n)
    order.flags.writeable = False
    return order


def _checked(arrays, batch_size, seed) -> tuple[dict[str, np.ndarray], int, int]:
    batch_size, seed = operator.index(batch_size), operator.index(seed)
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected at least 1")
    if seed < 0:
        raise ValueError(f"seed = {seed}; expected a whole number of 0 or more")
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    n = next(iter(lengths.values()), 0)
    if len(set(lengths.values())) > 1 or n is None:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"arrays have shapes {shapes}; expected [n, ...], the same n for all")
    if n == 0:
        raise ValueError("arrays hold no examples; expected at least one batch; check what filled them")
    if n < batch_size:
        raise ValueError(f"{n} examples do not fill a batch of {batch_size}; set batch_size to {n} or less")
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name} has dtype object; expected numbers, each example of one shape")
        if np.issubdtype(array.dtype, np.inexact):
            bad = ~np.isfinite(array).reshape(n, -1).all(1)
            if bad.any():
                raise ValueError(
                    f"{name}[{bad.argmax()}] holds a NaN or an infinity; {bad.sum()} of {n} examples do: "
                    "remove or repair them"
                )
    return arrays, batch_size, seed
