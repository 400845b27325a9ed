"""A data set in batches of one size, the last filled up from its beginning, so that nothing recompiles."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff.likelihood.dequantization import check_integers


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


def in_batches(compute: Callable[[np.ndarray], Any], n: int, batch_size: int, progress: bool, label: str) -> Any:
    """`compute(index)` over all n indices, `batch_size` at a time, its leaves [..., batch] joined to [..., n]."""
    starts = range(0, n, batch_size)
    if progress:
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc=label, unit="batch")
    size = min(batch_size, n)

    def batch(start):
        result = compute(np.arange(start, start + size) % n)
        return jax.tree.map(lambda a: np.asarray(a)[..., : n - start], result)

    return jax.tree.map(lambda *batches: np.concatenate(batches, axis=-1), *map(batch, starts))
