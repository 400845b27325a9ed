r"""The kernel distance between two sets of features: the squared maximum mean discrepancy (MMD) of a cubic kernel.

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)        k(x, y) = (x·y/d + 1)³

for independent x, x' and y, y'. It is 0 if and only if the two distributions have the same moments up to the third.
The estimate that replaces expectations by means over all pairs of different examples is unbiased for every n (Gretton
et al. 2012, eq. 3); with Inception's features it is the KID (Bińkowski et al. 2018, arXiv 1801.01401, section 4).

The variance is that of a U-statistic. Each kernel value is a mean, an effect of each of its two examples, and a
remainder that is uncorrelated with all other terms (Hoeffding 1948),

    k(x, x') = κ + α(x) + α(x') + ρ(x, x')        k(x, y) = κ' + α'(x) + β'(y) + ρ'(x, y),

so that, with ζ the variances of the remainders of xx, yy and xy,

    Var = 4/n Var[α(x) - α'(x)] + 4/m Var[β(y) - β'(y)]
        + 2 ζ_xx/(n (n - 1)) + 2 ζ_yy/(m (m - 1)) + 4 ζ_xy/(n m).

An analysis of variance estimates the effects from sums of rows, Σ_j k_ij, and the ζ from sums of squares. The part of
the variance of the estimated effects that is due to remainders, ζ_xx/(n - 2) + ζ_xy/m for x, is subtracted. Both lines
are then unbiased for every n (Sutherland and Deka 2019, arXiv 1906.02104, for n = m). The estimate of the first can be
negative where the distributions nearly agree, and then counts as 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import in_float64
from jaxdiff.metrics.distance import Distance, check_same_features, features

ROWS = 256  # rows of the kernel matrix at once


def kernel_distance(x, y) -> Distance:
    """Compute the kernel distance MMD² between two sets of features; for Inception features it is the KID.

    The kernel is cubic, and the estimate from all pairs is unbiased, and therefore may be negative. The standard error
    is over new draws of both sets. Takes O((n + m)² d) operations, in blocks of rows on the device.

    Args:
        x: features `[n, d]`, floating.
        y: features `[m, d]`.

    Returns:
        The `Distance` MMD².

    Raises:
        TypeError: for features that are not real floating numbers.
        ValueError: for other shapes, fewer than four examples, or a value that is not finite.

    Source:
        Bińkowski et al. 2018, "Demystifying MMD GANs", section 4.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 3))
        >>> far = jd.metrics.kernel_distance(x, y + 2.0)
        >>> floor = jd.metrics.kernel_distance(x, y)
        >>> far.value > floor.value
        True
    """
    x, y = (features(name, z, 4) for name, z in (("x", x), ("y", y)))
    check_same_features(x=x, y=y)
    n, m = len(x), len(y)
    xx, yy = (_sums(z, z, np.arange(len(z))) for z in (x, y))
    xy, yx = _sums(x, y, np.full(n, -1)), _sums(y, x, np.full(m, -1))
    value = xx[0].sum() / (n * (n - 1)) + yy[0].sum() / (m * (m - 1)) - 2 * xy[0].sum() / (n * m)
    first, second = _variance(xx, yy, xy, yx[0])
    return Distance(float(value), float(np.sqrt(max(first, 0.0) + second)))


@in_float64
def _sums(x, y, skipped):
    """(Σ_j k(x_i, y_j), Σ_j k(x_i, y_j)²) for each i, [n] each, over all j but skipped_i."""
    y = y.astype(float)

    def of_row(row):
        x_i, skipped = row
        kernel = jnp.where(jnp.arange(len(y)) == skipped, 0, (y @ x_i.astype(float) / len(x_i) + 1) ** 3)
        return kernel.sum(), jnp.square(kernel).sum()

    return jax.lax.map(of_row, (x, skipped), batch_size=ROWS)


def _variance(within_x, within_y, between, yx) -> tuple[float, float]:
    """The two lines of Var, from `_sums` of xx, yy and xy, and the sums of yx."""
    (xx, _), (yy, _), (xy, xy_squares) = within_x, within_y, between
    n, m = len(xy), len(yx)
    rest_xx, rest_yy = _rest(*within_x), _rest(*within_y)
    rest_xy = xy_squares.sum() - np.sum(xy**2) / m - np.sum(yx**2) / n + xy.sum() ** 2 / (n * m)
    rest_xy = max(rest_xy, 0.0) / ((n - 1) * (m - 1))
    first = 4 / n * (np.var(xx / (n - 2) - xy / m, ddof=1) - rest_xx / (n - 2) - rest_xy / m)
    first += 4 / m * (np.var(yy / (m - 2) - yx / n, ddof=1) - rest_yy / (m - 2) - rest_xy / n)
    return float(first), 2 * rest_xx / (n * (n - 1)) + 2 * rest_yy / (m * (m - 1)) + 4 * rest_xy / (n * m)


def _rest(sums, squares) -> float:
    """ζ within a set of n examples: the squared residual of κ + α_i + α_j over n (n - 3)/2 degrees of freedom."""
    n = len(sums)
    residual = squares.sum() / 2 - np.sum(sums**2) / (n - 2) + sums.sum() ** 2 / (2 * (n - 1) * (n - 2))
    return max(residual, 0.0) / (n * (n - 3) / 2)
