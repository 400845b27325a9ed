"""The accuracy of retrieval: how often a query, such as a text, finds its own key, such as its picture."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_whole, in_float64
from jaxdiff.metrics.distance import features

ROWS = 256  # rows of the similarity matrix at once


class Retrieval(NamedTuple):
    """The share of queries that find their key.

    Attributes:
        share: the share.
        standard_error: its binomial standard error.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> found = jd.metrics.retrieval(np.eye(3), np.eye(3))
        >>> found.share, found.standard_error
        (1.0, 0.0)
    """

    share: float
    standard_error: float


def retrieval(queries, keys, first: int = 1) -> Retrieval:
    """Compute the share of queries whose own key is among the `first` most similar keys.

    Similarity is the cosine; ties count against the query. By chance the share is first/n. The standard error is over
    new draws of the queries, for the same keys.

    Args:
        queries: features `[n, d]`, such as those of texts.
        keys: features `[n, d]`, such as those of pictures; row i is the key of query i.
        first: number of keys that count as found.

    Raises:
        TypeError: for features that are not real floating numbers, or a number that is not whole.
        ValueError: for sets of different shapes, a row of zeros, a value that is not finite, or fewer keys than
            `first`.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> texts = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
        >>> pictures = texts[[0, 1, 3, 2]]  # the last two are swapped
        >>> jd.metrics.retrieval(texts, pictures).share
        0.5
    """
    queries, keys = features("queries", queries, 2), features("keys", keys, 2)
    if queries.shape != keys.shape:
        raise ValueError(f"queries have shape {queries.shape} and keys {keys.shape}; expected a key for each query")
    check_whole("first", first, least=1, most=len(keys))
    for name, rows in (("queries", queries), ("keys", keys)):
        zero = ~rows.any(axis=1)
        if zero.any():
            raise ValueError(f"{name}[{zero.argmax()}] is zero, which has no direction; remove it")
    found = _ahead(queries, keys) < first
    return Retrieval(float(found.mean()), float(found.std() / np.sqrt(len(found))))


@in_float64
def _ahead(queries, keys):
    """The number of other keys that are at least as similar to each query as its own."""
    unit = lambda z: z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    keys = unit(keys.astype(float))

    def of_row(row):
        query, i = row
        cosine = keys @ unit(query.astype(float))
        return jnp.sum(cosine >= cosine[i] - 1e-12) - 1  # ties, up to rounding

    return jax.lax.map(of_row, (queries, jnp.arange(len(queries))), batch_size=ROWS)
