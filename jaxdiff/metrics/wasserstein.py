r"""The Wasserstein distance of two sets of points.

    W_2²(x, y) = min over permutations π of 1/n Σ |x_i - y_π(i)|²

is exact for the points, and for the laws they were drawn from an overestimate: two sets of n points from one law in d
dimensions are still up to the order of n^{-1/4} apart for d < 4, of n^{-1/d} above (Fournier and Guillin 2015). A
distance says something only beside that floor, W_2 of two sets of data.
"""

import numpy as np

from jaxdiff.losses.couplings import assign


def wasserstein(x, y) -> float:
    """W_2 of x and y, each [n, *event], by an exact assignment in O(n³): seconds for n = 2,000.

    Raises ValueError for sets of different shape, or a value that is not finite.
    """
    x, y = (np.asarray(points, np.float64).reshape(len(points), -1) for points in (x, y))
    if x.shape != y.shape or not x.size:
        raise ValueError(f"the sets have shapes {x.shape} and {y.shape}; expected as many points in each")
    for name, points in (("x", x), ("y", y)):
        if not np.isfinite(points).all():
            raise ValueError(f"{name} holds a NaN or an infinity; remove the samples that failed")
    return float(np.sqrt(np.mean(np.sum((x - y[assign(x, y)]) ** 2, axis=1))))
