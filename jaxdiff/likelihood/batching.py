"""A data set in batches of one size, the last filled up, so that nothing recompiles."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdiff.likelihood.dequantization import check_integers
from jaxdiff.samplers.mesh import fetched, filled


def check_images(images, levels: int, batch_size: int) -> np.ndarray:
    """`images` as a NumPy array [n, *event]; raise where they are none, or not integers in 0..levels-1."""
    images = np.asarray(images)
    check_integers(images, levels)
    if images.ndim < 2:
        raise ValueError(f"images have shape {images.shape}; expected a batch axis and an event: [n, *event]")
    if len(images) == 0:
        raise ValueError(f"images have shape {images.shape}: the data set is empty; expected at least one image")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected at least one")
    return images


def in_batches(
    compute: Callable[[np.ndarray], Any],
    index: np.ndarray,
    batch_size: int,
    progress: bool,
    label: str,
    mesh: Mesh | None = None,
    axis: int = -1,
) -> Iterator[tuple[np.ndarray, Any]]:
    """(part, compute(part)) for the parts of `index`, `batch_size` at a time; `axis` of its leaves is that of `part`.

    What is computed is more: a multiple of the devices of `mesh`, whose surplus is dropped here.
    """
    starts = range(0, len(index), batch_size)
    if progress and len(index):
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc=label, unit="batch", leave=False)
    for start in starts:
        part = index[start : start + batch_size]
        result = fetched(compute(np.resize(part, filled(batch_size, mesh))))
        count = len(part)
        yield part, jax.tree.map(lambda a, count=count: np.split(a, [count], axis)[0], result)


def over_all(
    compute: Callable[[np.ndarray], Any],
    index: np.ndarray,
    batch_size: int,
    progress: bool,
    label: str,
    mesh: Mesh | None = None,
):
    """`compute` over all of `index` in batches, its leaves joined to [..., len(index)]."""
    results = [result for _, result in in_batches(compute, index, batch_size, progress, label, mesh)]
    return jax.tree.map(lambda *batches: np.concatenate(batches, axis=-1), *results)
