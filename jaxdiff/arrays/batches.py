"""Many examples in batches of one size, the last filled up, so that nothing recompiles."""

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
    """(part, compute(part)) for the parts of `index`, `batch_size` at a time; `axis` of its leaves is that of `part`.

    On a `mesh` it is the next multiple of the number of devices. The last batch is filled up, and the filling dropped.
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
    """The results of `in_batches`, their leaves joined to [..., len(index)]."""
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *(result for _, result in batches))
