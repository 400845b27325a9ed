"""Batches one after another, read ahead where Grain reads them; each held to be one, and like the first."""

import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff.arrays import native, require
from jaxdiff.data.batches import Batches

AHEAD = 8  # batches


def process_shard():
    """The rows of a batch that this process of a `jax.distributed` run reads: what `batches` takes as `shard`."""
    require("grain")
    import grain

    return grain.sharding.ShardByJaxProcess()


def by_step(batches) -> Any:
    """`batches` as what has a batch for a step; a `grain.MapDataset` of one epoch goes on with the next ones.

    Raises TypeError for what can only be read from its beginning to its end, and so cannot go on at a step.
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
            f"batches is a {kind}, which has no batch for a step: a run that goes on could not find its place. Give "
            "jaxdiff.data.batches(arrays or a source, batch_size, seed), a grain.MapDataset (before "
            ".to_iter_dataset()), or an object whose [step] is the batch of that step; the dataset of a DataLoader is "
            "such a source where its examples are dicts of arrays"
        )
    return batches


def fingerprint_of(batches) -> str | None:
    """The fingerprint of the data of `jaxdiff.data.batches`, under transformations of Grain too; None of others."""
    while len(parents := getattr(batches, "_parents", ())) == 1:  # which Grain does not tell by any public name
        (batches,) = parents
    source = getattr(batches, "_source", None)
    return source.fingerprint() if isinstance(source, Batches) else None


def first_batch(batches) -> dict[str, Any]:
    """batches[0]; TypeError or ValueError for what is no batch."""
    try:
        batch = batches[0]
    except (IndexError, KeyError) as error:
        raise ValueError(
            "batches[0] does not exist: batches is empty or too short; give a batch for every step >= 0"
        ) from error
    return _check(batch, 0)


def check_length(batches, steps: int) -> None:
    """Raise ValueError where `batches` is seen to end before the last of `steps`."""
    try:
        short = len(batches) < steps
    except TypeError:
        return
    if short:
        _read(batches, steps - 1, f"; it has {len(batches)} batches for steps = {steps}")


def read_from(batches, step: int, like: Mapping[str, Any]) -> Iterator[dict]:
    """batches[step], batches[step + 1], ...: read ahead where `batches` is a `grain.MapDataset`.

    Raises ValueError where `batches` ends, or one has other names, shapes or types than `like`; TypeError for what is
    no batch.
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
    """`batch`; an error where it is no dict of arrays [batch, ...], or has another layout than `like`."""
    name = f"batches[{step}]"
    if batch is None:
        raise TypeError(f"{name} is None, as where a filter left a gap; filter before batching, or fill the gap")
    if not isinstance(batch, Mapping):
        raise TypeError(
            f'{name} is a {type(batch).__qualname__}; expected a dict of arrays, such as {{"x": x, "label": y}}. Of '
            "arrays of all examples jaxdiff.data.batches(arrays, batch_size, seed) makes the batches"
        )
    for part, array in batch.items():
        if not isinstance(part, str):
            raise TypeError(f"{name} has the name {part!r}; expected strings")
        kind = f"{type(array).__module__}.{type(array).__qualname__}"
        if not isinstance(array, np.ndarray | np.generic | jax.Array):
            fix = "its .numpy()" if hasattr(array, "numpy") else "numpy.asarray of it"
            raise TypeError(f"{name}[{part!r}] is a {kind}; expected a NumPy array: give {fix}")
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name}[{part!r}] is a masked array, whose mask nothing reads; give its .filled()")
        if not isinstance(array, jax.Array) and array.dtype.kind not in "biufcV":
            raise TypeError(f"{name}[{part!r}] has dtype {array.dtype}; expected numbers")
        if np.ndim(array) == 0 or 0 in np.shape(array)[:1]:
            raise ValueError(f"{name}[{part!r}] has shape {np.shape(array)}; expected [batch, ...], batch > 0")
    if like is not None and (layout := _layout(batch)) != (expected := _layout(like)):
        raise ValueError(
            f"{name} is {_words(layout)}; expected {_words(expected)}, as batches[0] is. Leave out the smaller "
            "batch at the end of an epoch (drop_remainder=True), or give jaxdiff.data.batches, where all are full"
        )
    return {part: native(array) for part, array in batch.items()}


def _layout(batch: Mapping[str, Any]) -> dict[str, tuple]:
    return {name: (array.shape, native(array).dtype) for name, array in batch.items()}


def _words(layout: dict[str, tuple]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in layout.items()) or "empty"
