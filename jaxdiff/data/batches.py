"""Batches as a function of (seed, step): there is no state to save or restore, and resuming is exact.

Epoch e consists of n // batch_size batches, cut from a permutation of the n examples that is drawn from (seed, e). The
remaining n mod batch_size examples are left out of that epoch; the next permutation leaves out others. Every batch is
full, and an example is seen at most once per epoch. With several processes each reads its own rows of the batch, so
that the batch does not depend on their number.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.arrays import check_whole, require, said, sha256

if TYPE_CHECKING:
    import grain

SAMPLED = 16  # examples that are hashed for a source without a fingerprint


class Source(Protocol):
    """Examples that are read one by one, for data that do not fit into memory: a protocol.

    A source has `len(source)` and `source[i]`, a dict of arrays or numbers with the same names, shapes and types for
    all i. It may also have `__getitems__(indices)`, by which the examples of a batch are read in one call, and
    `fingerprint`, a string that identifies its contents, or a method that returns one.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> class Squares:
        ...     def __len__(self):
        ...         return 10
        ...     def __getitem__(self, index):
        ...         return {"x": np.float32([index, index**2])}
        >>> data.batches(Squares(), batch_size=5, seed=0)[0]["x"].shape
        (5, 2)
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def batches(
    data: Mapping[str, ArrayLike] | Source,
    batch_size: int,
    seed: int,
    shard: "grain.sharding.ShardOptions | None" = None,
) -> "grain.MapDataset":
    """Make an endless Grain data set of batches, shuffled anew in each epoch.

    Record `step`, for any step >= 0, is a whole batch, so that Grain's cost per element is paid once per step. `.map`,
    `.random_map` and `.to_iter_dataset` work as on any `grain.MapDataset`; `len` is `sys.maxsize`.

    Args:
        data: arrays `[n, ...]` by name, which are not copied, or a `Source`, such as `ImageFolder`, a `data_source` of
            TFDS or a list of dicts. A source gives the same batches as arrays of its examples.
        batch_size: examples per batch, over all processes.
        seed: the seed of the order, 0 or more.
        shard: the rows that this process reads; None means all. A record is then `[batch_size / shard_count, ...]`, and
            those of all shards, concatenated, are the record of None. `process_shard()` has one shard per process.

    Returns:
        A data set of which `[step]` is a dict of arrays `[batch_size, ...]`.

    Raises:
        ValueError: if there are fewer than `batch_size` examples, arrays differ in length, or values are NaN or
            infinite; for a source, also on reading an example unlike the first.
        TypeError: if `data` are not numbers, or not in one of these forms.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> batches = data.batches({"x": np.arange(10)}, batch_size=5, seed=0)
        >>> batches[7]["x"].shape
        (5,)
        >>> sorted([*batches[0]["x"].tolist(), *batches[1]["x"].tolist()])  # one epoch
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    examples, batch_size, seed = _checked(data, batch_size, seed)
    if not (shard is None or hasattr(shard, "shard_index")):
        raise TypeError(f"shard = {said(shard)}; expected a grain.sharding.ShardOptions, or None for all rows")
    index, count = (0, 1) if shard is None else (shard.shard_index, shard.shard_count)
    if batch_size % count:
        raise ValueError(
            f"batch_size = {batch_size}, over all processes, is not a multiple of {count}; set it to one, such as "
            f"{-(-batch_size // count) * count}"
        )
    require("grain")
    import grain

    return grain.MapDataset.source(Batches(examples, batch_size, seed, index, count))


def fingerprint(data: Mapping[str, ArrayLike] | Source, batch_size: int, seed: int) -> str:
    """Compute the SHA-256 of everything that batches depend on: names, shapes, types, contents, batch size and seed.

    For arrays it covers every value. For a source it covers the source's own `fingerprint`, or else the number of
    examples and the values of 16 of them: the first, the last and those at equal distances in between. It does not
    depend on the shard that a process reads.

    Args:
        data: as in `batches`.
        batch_size: as in `batches`.
        seed: as in `batches`.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: as `batches` does.
        TypeError: as `batches` does.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> one, other = ({"x": np.zeros(10)}, {"x": np.ones(10)})
        >>> data.fingerprint(one, 5, seed=0) == data.fingerprint(other, 5, seed=0)
        False
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
        """The `fingerprint` of the same data."""
        return sha256(self._batch_size, self._seed, self._examples.contents())


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    # RandomState's streams are frozen; those of Generator may change with NumPy, and with them a resumed run.
    order = np.random.RandomState(np.random.MT19937([seed, epoch])).permutation(n)
    order.flags.writeable = False
    return order


class _Arrays:
    """Examples in memory."""

    def __init__(self, arrays: Mapping[str, ArrayLike]):
        if masked := [name for name, array in arrays.items() if isinstance(array, np.ma.MaskedArray)]:
            raise TypeError(f"{masked[0]} is a masked array, whose mask is not read; give its .filled()")
        if nested := [name for name, array in arrays.items() if isinstance(array, Mapping)]:
            raise TypeError(f"{nested[0]} is a dict; expected an array [n, ...]: give its arrays names of their own")
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
    """Examples read from a source on demand."""

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
    """Raise for values that are not finite numbers, naming rows by their index in the data."""
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
        raise ValueError("the data hold no examples; expected at least one batch")
    if n < batch_size:
        raise ValueError(f"{n} examples do not fill a batch of {batch_size}; set batch_size to {n} or less")
    return examples, batch_size, seed
