r"""Precision, recall, density and coverage of samples, by nearest neighbours.

Let B(x_i) be the closed ball around x_i whose radius is the distance to its k-th nearest other point of the same set.
The union of a set's balls estimates its support (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2):

    precision = share of the fake points within a ball of a real one
    recall    = share of the real points within a ball of a fake one

The ball of an outlier can hold many points of the other set, and then overestimates precision or recall. Density and
coverage are more robust: they use the balls of real points alone, and count them (Naeem et al. 2020, arXiv 2002.09797,
eq. 4 and 5):

    density   = 1/(k M) Σ_j #{i: y_j in B(x_i)}         of M fake points y_j: 1 in expectation if distributions agree
    coverage  = 1/N #{i: some y_j in B(x_i)}            of N real points x_i

Distances are computed in float64, after the mean of the real points is subtracted. Two distances that differ by no more
than rounding are equal, and a point on the surface of a ball is in it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_whole, in_float64
from jaxdiff.metrics.distance import check_same_features, features

ROWS = 256  # rows of the distance matrix at once
ROUNDING = 64 * np.finfo(np.float64).eps  # of a squared distance, over |x|² + |y|²


class PrecisionRecall(NamedTuple):
    """Precision and recall of samples, with standard errors over new draws of the counted points for fixed balls.

    Attributes:
        precision: share of the fake points within a ball of a real one.
        precision_error: its standard error.
        recall: share of the real points within a ball of a fake one.
        recall_error: its standard error.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> real, fake = np.random.default_rng(0).normal(size=(2, 100, 3))
        >>> found = jd.metrics.precision_recall(real, fake + 100.0)  # no overlap
        >>> found.precision, found.recall
        (0.0, 0.0)
    """

    precision: float
    precision_error: float
    recall: float
    recall_error: float


class DensityCoverage(NamedTuple):
    """Density and coverage of samples, with standard errors over new draws of the counted points for fixed balls.

    Attributes:
        density: mean number of balls of real points that hold a fake point, over k.
        density_error: its standard error.
        coverage: share of the balls of real points that hold a fake point.
        coverage_error: its standard error.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> real, fake = np.random.default_rng(0).normal(size=(2, 100, 3))
        >>> found = jd.metrics.density_coverage(real, fake + 100.0)  # no overlap
        >>> found.density, found.coverage
        (0.0, 0.0)
    """

    density: float
    density_error: float
    coverage: float
    coverage_error: float


def precision_recall(real, fake, k: int = 3) -> PrecisionRecall:
    """Compute precision and recall: how realistic and how varied fake points are, by their nearest neighbours.

    Standard errors are binomial, over the points that are counted, with fixed balls; they are 0 if all points are
    counted or none. They cover neither the randomness of the balls nor the bias of finite sets: compare with the floor,
    other data against the data. Takes O((n + m)² d) operations, in blocks of rows on the device.

    Args:
        real: features `[n, d]`, floating.
        fake: features `[m, d]`.
        k: a ball's radius is the distance to the k-th nearest other point.

    Raises:
        TypeError: for features that are not real floating numbers, or a k that is not whole.
        ValueError: for other shapes, no more than k points in a set, or a value that is not finite.

    Source:
        Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models", eq. 1 and 2.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> real = np.random.default_rng(0).normal(size=(100, 3))
        >>> found = jd.metrics.precision_recall(real, real[:50])
        >>> found.precision
        1.0
    """
    check_whole("k", k)
    real, fake, centre = _sets(real, fake, k, k + 1)
    precise = _counts(fake, real, centre, np.zeros(len(fake)), _radii(real, centre, k=k)) > 0
    recalled = _counts(real, fake, centre, np.zeros(len(real)), _radii(fake, centre, k=k)) > 0
    return PrecisionRecall(*_mean(precise), *_mean(recalled))


def density_coverage(real, fake, k: int = 5) -> DensityCoverage:
    """Compute density and coverage: precision and recall that are robust to outliers.

    Standard errors as in `precision_recall`: for density over the fake points, for coverage over the real ones.

    Args:
        real: features `[n, d]`, floating.
        fake: features `[m, d]`.
        k: a ball's radius is the distance to the k-th nearest other point.

    Raises:
        TypeError: for features that are not real floating numbers, or a k that is not whole.
        ValueError: for other shapes, no more than k points in a set, or a value that is not finite.

    Source:
        Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", eq. 4 and 5.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> real = np.random.default_rng(0).normal(size=(100, 3))
        >>> found = jd.metrics.density_coverage(real, real)
        >>> found.coverage
        1.0
    """
    check_whole("k", k)
    real, fake, centre = _sets(real, fake, k, 2)
    radii = _radii(real, centre, k=k)
    dense = _counts(fake, real, centre, np.zeros(len(fake)), radii) / k
    covered = _counts(real, fake, centre, radii, np.zeros(len(fake))) > 0
    return DensityCoverage(*_mean(dense), *_mean(covered))


def _sets(real, fake, k: int, fakes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both sets, with more than k real and at least `fakes` fake points, and the mean of the real ones."""
    real = features("real", real, k + 1, f", more than k = {k}")
    fake = features("fake", fake, fakes, f", more than k = {k}" if fakes > k else "")
    check_same_features(real=real, fake=fake)
    return real, fake, real.mean(0, dtype=np.float64)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """The mean over the points and its standard error."""
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))


def _squares(x, y):
    """|x - y_j|² of one point x and each of y [m, d], and a bound of its rounding error; [m] each."""
    size = x @ x + jnp.sum(jnp.square(y), axis=1)
    return size - 2 * y @ x, ROUNDING * size


@functools.partial(in_float64, static_argnames=("k",))
def _radii(x, centre, k: int):
    """The squared distance of each point to its k-th nearest other point."""
    y = x - centre

    def of_row(row):
        x_i, i = row
        squares = jnp.where(jnp.arange(len(y)) == i, jnp.inf, _squares(x_i - centre, y)[0])
        for _ in range(k - 1):  # k minima, since XLA's top_k of float64 sorts the whole row
            squares = jnp.where(jnp.arange(len(y)) == jnp.argmin(squares), jnp.inf, squares)
        return jnp.min(squares)

    return jax.lax.map(of_row, (x, jnp.arange(len(x))), batch_size=ROWS)


@in_float64
def _counts(x, y, centre, x_radii, y_radii):
    """For each x_i the number of y_j in its ball, or of balls of y_j that hold it; the other radii are 0."""
    y = y - centre

    def of_row(row):
        x_i, radius = row
        squares, rounding = _squares(x_i - centre, y)
        return jnp.sum(squares <= radius + y_radii + rounding)

    return jax.lax.map(of_row, (x, x_radii), batch_size=ROWS)
