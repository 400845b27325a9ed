r"""The Wasserstein distance between two sets of points.

    W_2²(x, y) = min over permutations π of 1/n Σ |x_i - y_π(i)|²

is exact for the points, but overestimates the distance of the distributions that they were drawn from: two sets of n
points from one distribution in d dimensions are up to order n^{-1/4} apart for d < 4, and n^{-1/d} for d > 4 (Fournier
and Guillin 2015). Compare it with this floor: W_2 of two sets of data.
"""

from collections.abc import Callable

import numpy as np

from jaxdiff.arrays import check_function, check_room, require
from jaxdiff.losses.couplings import assign, assignment_cost
from jaxdiff.metrics.distance import points


def wasserstein(x, y, solver: Callable = assign) -> float:
    """Compute the Wasserstein distance W_2 between two sets of points by an exact assignment.

    It takes a second for n = 2,000, and up to a minute for 10,000. For more points use `sliced_wasserstein`.

    Args:
        x: points `[n, *event]`.
        y: points `[n, *event]`.
        solver: function of points x, y `[n, d]` that returns the permutation π `[n]` that minimises Σ |x_i - y_π(i)|².
            The default is SciPy's, which stores n² numbers; `network_simplex` stores 5 n² and can be faster in few
            dimensions (benchmarks/README.md).

    Returns:
        W_2, a float.

    Raises:
        TypeError: for values that are not real numbers, or a solver that does not take two arguments.
        ValueError: for sets of different shapes, a value that is not finite, so many points that their n² distances do
            not fit in memory, or a solver that does not return a permutation.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> x = np.random.default_rng(0).normal(size=(20, 2))
        >>> round(jd.metrics.wasserstein(x, x[::-1] + [3.0, 4.0]), 3)  # a translation by 5
        5.0
    """
    check_function("solver", solver, "a function of points x, y [n, d] such as jaxdiff.metrics.network_simplex", 2)
    x, y = _pair(x, y)
    partner = np.asarray(solver(x, y))
    if partner.shape != x.shape[:1] or not np.array_equal(np.sort(partner), np.arange(len(x))):
        raise ValueError(f"solver returned {partner}; expected a permutation of 0 to {len(x) - 1}")
    return float(np.sqrt(np.mean(np.sum((x - y[partner]) ** 2, axis=1))))


def network_simplex(x, y) -> np.ndarray:
    """Find the permutation π that minimises Σ |x_i - y_π(i)|² by POT's network simplex, a solver of `wasserstein`.

    Needs `pip install 'jaxdiff[transport]'`.

    Args:
        x: points `[n, *event]`.
        y: points `[n, *event]`.

    Returns:
        The permutation `[n]`.

    Raises:
        ImportError: without POT.
        RuntimeError: if POT stops before the optimum.
        ValueError: as in `wasserstein`.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> x = np.random.default_rng(0).normal(size=(20, 2))
        >>> round(jd.metrics.wasserstein(x, x[::-1] + [3.0, 4.0], solver=jd.metrics.network_simplex), 3)
        5.0
    """
    x, y = _pair(x, y, 5)  # arrays of n² numbers: POT keeps a graph of all pairs
    require("ot")
    import ot

    ones = np.ones(len(x))  # with whole masses the plan is 0 or 1 to the bit
    plan, log = ot.emd(ones, ones, assignment_cost(x, y), numItermax=2**62, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"POT's network simplex ended before the optimum: {log['warning']}")
    return plan.argmax(axis=1)


def _pair(x, y, arrays: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both sets; ValueError if this number of arrays of n² float64 numbers does not fit in memory."""
    x, y = points("x", x), points("y", y)
    check_room("arrays over all pairs of points", arrays, len(x), len(y), itemsize=8, on_device=False)
    if x.shape != y.shape:
        raise ValueError(f"the sets have shapes {x.shape} and {y.shape}; expected as many points in each")
    return x, y
