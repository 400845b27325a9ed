r"""The sliced Wasserstein distance: the mean over directions θ of W_2² between projections on a line.

    SW_2²(x, y) = E_θ ∫_0^1 (F_θ^{-1}(u) - G_θ^{-1}(u))² du        θ uniform on the unit sphere

with F_θ^{-1} and G_θ^{-1} the quantile functions of θ·x and θ·y (Rabin et al. 2012; Bonneel et al. 2015). These are
constant between multiples of 1/n and of 1/m, and the integral is a sum over the intervals between all of them.
SW_2 <= W_2/√d. A direction costs O(n d + n log n), so that 10,000 points and more take seconds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_key, check_whole, example_keys, in_float64
from jaxdiff.metrics.distance import Distance, points

NUMBERS = 2**22  # of projections at once


def sliced_wasserstein(key, x, y, projections: int = 1000) -> Distance:
    """SW_2 of x [n, *event] and y [m, *event] from random directions, and its standard error.

    The error is that of drawing other directions, for the points as they are: of drawing other points it covers
    nothing. That is what the floor shows, the distance of two sets of data. More projections begin with the same ones.

    Raises:
        TypeError: for what is no typed key, no numbers, or no whole number of projections.
        ValueError: for events of different shape, fewer than two projections, or a value that is not finite.
    """
    check_key(key)
    check_whole("projections", projections, least=2)
    x, y = points("x", x), points("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"points of x have {x.shape[1]} numbers and those of y {y.shape[1]}; expected the same")
    n, m = len(x), len(y)
    ends = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)  # n m times the multiples of 1/n and 1/m
    squares = _squares(example_keys(key, projections), x, y, ends[:-1] // m, ends[:-1] // n, np.diff(ends) / (n * m))
    value = float(np.sqrt(squares.mean()))
    error = float(np.std(squares, ddof=1) / np.sqrt(projections))
    return Distance(value, error / (2 * value) if value else 0.0)  # of a root; all are 0 where their mean is


@in_float64
def _squares(keys, x, y, x_steps, y_steps, widths):
    """W_2² of the projections on the direction of each key."""

    def along(key):
        direction = jax.random.normal(key, x.shape[1:], float)
        direction /= jnp.linalg.norm(direction)
        gap = jnp.sort(x @ direction)[x_steps] - jnp.sort(y @ direction)[y_steps]
        return jnp.sum(widths * gap**2)

    return jax.lax.map(along, keys, batch_size=max(1, NUMBERS // len(widths)))
