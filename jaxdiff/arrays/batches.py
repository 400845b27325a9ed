"""Processing of many examples in batches of one size, with the last one filled up, so that nothing recompiles."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdiff.arrays.extras import require
from jaxdiff.arrays.mesh import fetched, filled


def in_batches(
    compute: Callable[[np.ndarray], Any],
    index: np.ndarray,
    batch_size: int,
    progress: bool,
    label: str,
    mesh: Mesh | None = None,
    axis: int = -1,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield (part, compute(part)) for the parts of `index`, `batch_size` at a time.

    `axis` is the axis of examples in the results. On a `mesh` the batch size is rounded up to a multiple of the number
    of devices. The last batch is filled up, and the results of the filling are dropped.
    """
    batch_size = filled(batch_size, mesh)
    starts = range(0, len(index), batch_size)
    if progress and len(index):
        require("tqdm")
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc=label, unit="batch", leave=False)
    for start in starts:
        part = index[start : start + batch_size]
        result = fetched(compute(np.resize(part, batch_size)))
        count = len(part)
        yield part, jax.tree.map(lambda a, count=count: np.split(a, [count], axis)[0], result)


def joined(batches: Iterator[tuple[np.ndarray, Any]]) -> Any:
    """The results of `in_batches`, with leaves concatenated to [..., len(index)]."""
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *(result for _, result in batches))
