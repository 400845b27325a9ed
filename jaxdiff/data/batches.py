"""Batches as a function of (seed, step): nothing to save, nothing to restore, and resuming is exact.

Epoch e is the n // batch_size batches cut from a permutation of the n examples drawn from (seed, e). The
n mod batch_size examples left over sit that epoch out; the next permutation leaves out others. Every batch is
full, and an example is seen at most once an epoch. Of several processes each reads its own rows of that batch, so that
how many there are changes nothing.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxdiff.arrays import check_whole, require, said, sha256

if TYPE_CHECKING:
    import grain

SAMPLED = 16  # examples of a source that has no fingerprint of its own


class Source(Protocol):
    """Examples to be read one by one: dicts of arrays or numbers, all of the same names, shapes and types.

    Where it has `__getitems__(indices)` too, the examples of a batch are read by one call of it; where it has a
    `fingerprint`, a string or a method that returns one, that stands for its contents.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def batches(
    data: Mapping[str, np.ndarray] | Source,
    batch_size: int,
    seed: int,
    shard: "grain.sharding.ShardOptions | None" = None,
) -> "grain.MapDataset":
    """An endless Grain data set: record `step`, for any step >= 0, is a dict of arrays [batch_size, ...].

    A record is a whole batch, so that Grain's cost an element is paid once a step. `.map`, `.random_map` and
    `.to_iter_dataset` work as on any `grain.MapDataset`; `len` is as large as an integer goes.

    Args:
        data: arrays [n, ...], one length for all, which are not copied; or what does not fit into memory: a `Source`,
            such as `ImageFolder`, a `data_source` of TFDS or a list of dicts. One of n examples gives the batches that
            arrays of them give.
        seed: a whole number of 0 or more.
        shard: which rows this process reads: records are [batch_size / shard_count, ...], and those of all shards, one
            after the other, are the record of shard=None. `grain.sharding.ShardByJaxProcess()` has a shard a process.

    Raises ValueError or TypeError for data or settings that cannot make a batch; where examples come from a source, for
    one that is unlike the first, or holds a NaN, when it is read.
    """
    examples, batch_size, seed = _checked(data, batch_size, seed)
    if not (shard is None or hasattr(shard, "shard_index")):
        raise TypeError(f"shard = {said(shard)}; expected a grain.sharding.ShardOptions, or None for all rows")
    index, count = (0, 1) if shard is None else (shard.shard_index, shard.shard_count)
    if batch_size % count:
        raise ValueError(
            f"batch_size = {batch_size}, that of all processes together, does not divide among {count}; "
            f"set it to a multiple of {count}, such as {-(-batch_size // count) * count}"
        )
    require("grain")
    import grain

    return grain.MapDataset.source(Batches(examples, batch_size, seed, index, count))


def fingerprint(data: Mapping[str, np.ndarray] | Source, batch_size: int, seed: int) -> str:
    """Hexadecimal SHA-256 of all that batches depend on: names, shapes, types, contents, batch size, seed.

    Of arrays it covers every value. Of a source it covers the source's own `fingerprint`; where that has none, the
    number of examples and the values of 16 of them: the first, the last and those at equal distances in between. It is
    the same whichever shard a process reads.

    Raises what `batches` raises.
    """
    examples, batch_size, seed = _checked(data, batch_size, seed)
    return Batches(examples, batch_size, seed, 0, 1).fingerprint()


class Batches:
    """The random-access source behind `batches`."""

    def __init__(self, examples: "_Arrays | _Examples", batch_size: int, seed: int, shard: int, shards: int):
        self._examples, self._batch_size, self._seed = examples, batch_size, seed
        self._rows = slice(shard * batch_size // shards, (shard + 1) * batch_size // shards)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        epoch, batch = divmod(index, len(self._examples) // self._batch_size)
        order = _permutation(self._seed, epoch, len(self._examples))
        return self._examples.read(order[batch * self._batch_size : (batch + 1) * self._batch_size][self._rows])

    def fingerprint(self) -> str:
        """That of `fingerprint`, of the same data."""
        return sha256(self._batch_size, self._seed, self._examples.contents())


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    # RandomState's streams are frozen; Generator's, and a resumed run with them, may change with NumPy.
    order = np.random.RandomState(np.random.MT19937([seed, epoch])).permutation(n)
    order.flags.writeable = False
    return order


class _Arrays:
    """Examples in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        if masked := [name for name, array in arrays.items() if isinstance(array, np.ma.MaskedArray)]:
            raise TypeError(f"{masked[0]} is a masked array, whose mask nothing reads; give its .filled()")
        if nested := [name for name, array in arrays.items() if isinstance(array, Mapping)]:
            raise TypeError(f"{nested[0]} is a dict; expected an array [n, ...]: name its arrays beside the others")
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(array) if array.ndim else None for name, array in self._arrays.items()}
        n = next(iter(lengths.values()), 0)
        if len(set(lengths.values())) > 1 or n is None:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in self._arrays.items())
            raise ValueError(f"arrays have shapes {shapes}; expected [n, ...], the same n for all")
        self._n = n
        if n:
            _check(self._arrays, range(n))

    def __len__(self) -> int:
        return self._n

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in self._arrays.items()}

    def contents(self) -> dict[str, np.ndarray]:
        return self._arrays


class _Examples:
    """Examples read from a source when they are asked for."""

    def __init__(self, source: Source):
        self._source = source
        self._first = None if len(source) == 0 else _layout(source[0])
        if self._first is not None:
            self.read([0])

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        indices = [int(i) for i in indices]
        many = getattr(self._source, "__getitems__", None)
        examples = [self._source[i] for i in indices] if many is None else many(indices)
        for i, example in zip(indices, examples, strict=True):
            if (layout := _layout(example)) != self._first:
                raise ValueError(f"example {i} is {_words(layout)}; expected {_words(self._first)}, as example 0 is")
        batch = {name: np.stack([example[name] for example in examples]) for name in self._first or ()}
        _check(batch, indices)
        return batch

    def contents(self) -> Any:
        own = getattr(self._source, "fingerprint", None)
        if own is not None:
            return own() if callable(own) else own
        indices = np.unique(np.linspace(0, len(self) - 1, SAMPLED).round().astype(int))
        return len(self), self.read(indices)


def _layout(example: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    if not isinstance(example, Mapping):
        raise TypeError(f"an example of the data is {said(example)}; expected a dict of arrays")
    return {name: (np.shape(value), np.asarray(value).dtype) for name, value in example.items()}


def _words(layout) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in layout.items()) or "without arrays"


def _check(arrays: Mapping[str, np.ndarray], indices: Sequence[int]) -> None:
    """Raise for values that are no numbers, NaNs and infinities; a row is known by its index in the data."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biufcV":
            raise TypeError(f"{name} has dtype {array.dtype}; expected numbers, each example of one shape")
        if np.issubdtype(array.dtype, np.inexact):
            bad = np.logical_not(np.isfinite(array).reshape(len(array), -1).all(1))
            if bad.any():
                first = indices[int(bad.argmax())]
                raise ValueError(
                    f"{name}[{first}] holds a NaN or an infinity; {bad.sum()} of {len(bad)} examples do: "
                    "remove or repair them"
                )


def _checked(data, batch_size, seed) -> tuple[_Arrays | _Examples, int, int]:
    batch_size, seed = check_whole("batch_size", batch_size, least=None), check_whole("seed", seed, least=None)
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected at least 1")
    if seed < 0:
        raise ValueError(f"seed = {seed}; expected a whole number of 0 or more")
    if not (isinstance(data, Mapping) or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))):
        raise TypeError(f"data = {said(data)}; expected a dict of arrays [n, ...], or examples to be read one by one")
    examples = _Arrays(data) if isinstance(data, Mapping) else _Examples(data)
    n = len(examples)
    if n == 0:
        raise ValueError("the data hold no examples; expected at least one batch; check what filled them")
    if n < batch_size:
        raise ValueError(f"{n} examples do not fill a batch of {batch_size}; set batch_size to {n} or less")
    return examples, batch_size, seed
