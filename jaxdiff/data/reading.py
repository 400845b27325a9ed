"""Reads batches in order, with read-ahead for Grain data sets, and validates that each has the layout of the first."""

import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff.arrays import native, require
from jaxdiff.data.batches import Batches

AHEAD = 8  # batches read ahead


def process_shard():
    """Return the rows of a batch that this process of a `jax.distributed` run reads: the `shard` of `batches`.

    Returns:
        A `grain.sharding.ShardOptions` with one shard per process.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> shard = data.process_shard()
        >>> batches = data.batches({"x": np.zeros((32, 2))}, batch_size=16, seed=0, shard=shard)
        >>> batches[0]["x"].shape == (16 // shard.shard_count, 2)
        True
    """
    require("grain")
    import grain

    return grain.sharding.ShardByJaxProcess()


def by_step(batches) -> Any:
    """`batches` as an object with `[step]`; a `grain.MapDataset` of one epoch is repeated.

    Raises TypeError for an iterable without random access, which cannot continue at a step.
    """
    kind = f"{type(batches).__module__}.{type(batches).__qualname__}"
    if hasattr(batches, "to_iter_dataset"):
        if len(batches) == 0:
            raise ValueError("batches is a Grain data set without batches; give more data or a smaller batch")
        return batches if len(batches) == sys.maxsize else batches.repeat()
    if isinstance(batches, Mapping) and 0 not in batches:
        raise TypeError(
            f"batches is a dict of {sorted(map(str, batches))}; expected one batch for each step: "
            "jaxdiff.data.batches(arrays, batch_size, seed) makes them"
        )
    if not hasattr(type(batches), "__getitem__"):
        raise TypeError(
            f"batches is a {kind}, which has no random access, so that a run could not continue at its step. Give "
            "jaxdiff.data.batches(arrays or a source, batch_size, seed), a grain.MapDataset (before "
            ".to_iter_dataset()), or an object whose [step] is the batch of that step; the dataset of a DataLoader is "
            "such a source where its examples are dicts of arrays"
        )
    return batches


def fingerprint_of(batches) -> str | None:
    """The fingerprint of the data of `jaxdiff.data.batches`, also through Grain's transformations; None for others."""
    while len(parents := getattr(batches, "_parents", ())) == 1:  # Grain has no public name for it
        (batches,) = parents
    source = getattr(batches, "_source", None)
    return source.fingerprint() if isinstance(source, Batches) else None


def first_batch(batches) -> dict[str, Any]:
    """batches[0]; TypeError or ValueError if it is not a batch."""
    try:
        batch = batches[0]
    except (IndexError, KeyError) as error:
        raise ValueError(
            "batches[0] does not exist: batches is empty or too short; give a batch for every step >= 0"
        ) from error
    return _check(batch, 0)


def check_length(batches, steps: int) -> None:
    """Raise ValueError if `batches` has a length that is less than `steps`, and no batch for the last step."""
    try:
        short = len(batches) < steps
    except TypeError:
        return
    if short:
        _read(batches, steps - 1, f"; it has {len(batches)} batches for steps = {steps}")


def read_from(batches, step: int, like: Mapping[str, Any]) -> Iterator[dict]:
    """batches[step], batches[step + 1], ..., read ahead if `batches` is a `grain.MapDataset`.

    Raises ValueError if `batches` ends, or a batch has other names, shapes or types than `like`; TypeError if something
    is not a batch.
    """
    if hasattr(batches, "to_iter_dataset"):
        import grain

        options = grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)
        iterator = iter(batches.to_iter_dataset(options, allow_nones=True))
        iterator.set_state({"next_index": step})
        found = iterator
    else:
        found = (_read(batches, index) for index in itertools.count(step))
    for index, batch in zip(itertools.count(step), found):
        yield _check(batch, index, like)


def _read(batches, index: int, more: str = ""):
    try:
        return batches[index]
    except (IndexError, KeyError) as error:
        raise ValueError(f"batches[{index}] does not exist; give a batch for every step >= 0{more}") from error


def _check(batch, step: int, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`batch`, validated: a dict of arrays [batch, ...] with the layout of `like`."""
    name = f"batches[{step}]"
    if batch is None:
        raise TypeError(f"{name} is None, such as a gap that a filter leaves; filter before batching, or fill the gap")
    if not isinstance(batch, Mapping):
        raise TypeError(
            f'{name} is a {type(batch).__qualname__}; expected a dict of arrays, such as {{"x": x, "label": y}}. '
            "jaxdiff.data.batches(arrays, batch_size, seed) makes such batches from arrays of all examples"
        )
    for part, array in batch.items():
        if not isinstance(part, str):
            raise TypeError(f"{name} has the name {part!r}; expected strings")
        kind = f"{type(array).__module__}.{type(array).__qualname__}"
        if not isinstance(array, np.ndarray | np.generic | jax.Array):
            fix = "its .numpy()" if hasattr(array, "numpy") else "numpy.asarray of it"
            raise TypeError(f"{name}[{part!r}] is a {kind}; expected a NumPy array: give {fix}")
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name}[{part!r}] is a masked array, whose mask is not read; give its .filled()")
        if not isinstance(array, jax.Array) and array.dtype.kind not in "biufcV":
            raise TypeError(f"{name}[{part!r}] has dtype {array.dtype}; expected numbers")
        if np.ndim(array) == 0 or 0 in np.shape(array)[:1]:
            raise ValueError(f"{name}[{part!r}] has shape {np.shape(array)}; expected [batch, ...], batch > 0")
    if like is not None and (layout := _layout(batch)) != (expected := _layout(like)):
        raise ValueError(
            f"{name} is {_words(layout)}; expected {_words(expected)}, as batches[0] is. Drop the smaller batch at the "
            "end of an epoch (drop_remainder=True), or use jaxdiff.data.batches, where all are full"
        )
    return {part: native(array) for part, array in batch.items()}


def _layout(batch: Mapping[str, Any]) -> dict[str, tuple]:
    return {name: (array.shape, native(array).dtype) for name, array in batch.items()}


def _words(layout: dict[str, tuple]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in layout.items()) or "empty"
