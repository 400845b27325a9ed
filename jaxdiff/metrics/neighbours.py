r"""Fidelity and coverage of samples by nearest neighbours.

Around each point of a set lies the closed ball B(x_i) that reaches to its k-th nearest other point of that set. The
union of the balls stands for the set's support (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2):

    precision = share of the fake points within a ball of a real one
    recall    = share of the real points within a ball of a fake one

One outlier has a ball that holds everything near it. Counting the balls of the real points alone is robust against
that (Naeem et al. 2020, arXiv 2002.09797, eq. 4 and 5):

    density   = 1/(k M) Σ_j #{i: y_j in B(x_i)}         of M fake points y_j: 1 in expectation where the laws agree
    coverage  = 1/N #{i: some y_j in B(x_i)}            of N real points x_i

Distances are those of x - c with c the real points' mean, in float64; two that differ by what rounding could change are
equal, and a point at the very edge is in the ball.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_whole, in_float64
from jaxdiff.metrics.distance import check_same_features, features

ROWS = 256  # of distances at once
ROUNDING = 64 * np.finfo(np.float64).eps  # of squares, of the size of the points from the centre


class PrecisionRecall(NamedTuple):
    """Shares, with the standard errors of drawing the points that are counted, given the balls."""

    precision: float
    precision_error: float
    recall: float
    recall_error: float


class DensityCoverage(NamedTuple):
    """Density and coverage, with the standard errors of drawing the points that are counted, given the balls."""

    density: float
    density_error: float
    coverage: float
    coverage_error: float


def precision_recall(real, fake, k: int = 3) -> PrecisionRecall:
    """Which share of the fake points [m, d] is near real ones [n, d], and which of the real ones near fake ones.

    Standard errors are binomial, over the points that are counted, for the others and the balls as they are: they cover
    neither what other balls would change nor the bias of finite sets, which the floor shows. Where all or none are
    counted they are 0, which is no certainty. O((n + m)² d), in blocks of rows on the device.

    Raises:
        TypeError: for features that are not real floating numbers, or a k that is no whole number.
        ValueError: for other shapes, no more than k points in a set, or a value that is not finite.
    """
    check_whole("k", k)
    real, fake, centre = _sets(real, fake, k, k + 1)
    precise = _counts(fake, real, centre, np.zeros(len(fake)), _radii(real, centre, k=k)) > 0
    recalled = _counts(real, fake, centre, np.zeros(len(real)), _radii(fake, centre, k=k)) > 0
    return PrecisionRecall(*_mean(precise), *_mean(recalled))


def density_coverage(real, fake, k: int = 5) -> DensityCoverage:
    """How many balls of the real points [n, d] a fake point [m, d] is in, over k, and which share of them hold one.

    Standard errors as of `precision_recall`: of the density over the fake points, of the coverage over the real ones.

    Raises:
        TypeError: for features that are not real floating numbers, or a k that is no whole number.
        ValueError: for other shapes, no more than k points in a set, or a value that is not finite.
    """
    check_whole("k", k)
    real, fake, centre = _sets(real, fake, k, 2)
    radii = _radii(real, centre, k=k)
    dense = _counts(fake, real, centre, np.zeros(len(fake)), radii) / k
    covered = _counts(real, fake, centre, radii, np.zeros(len(fake))) > 0
    return DensityCoverage(*_mean(dense), *_mean(covered))


def _sets(real, fake, k: int, fakes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both sets, more than k real points and at least so many fake ones, and the mean of the real ones."""
    real = features("real", real, k + 1, f", more than k = {k}")
    fake = features("fake", fake, fakes, f", more than k = {k}" if fakes > k else "")
    check_same_features(real=real, fake=fake)
    return real, fake, real.mean(0, dtype=np.float64)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """The mean over the points and its standard error."""
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))


def _squares(x, y):
    """|x - y_j|² of one point and each y_j, [m, d]; and by how much each may be off."""
    size = x @ x + jnp.sum(jnp.square(y), axis=1)
    return size - 2 * y @ x, ROUNDING * size


@functools.partial(in_float64, static_argnames=("k",))
def _radii(x, centre, k: int):
    """The squared distance of each point to its k-th nearest other point."""
    y = x - centre

    def of_row(row):
        x_i, i = row
        squares = jnp.where(jnp.arange(len(y)) == i, jnp.inf, _squares(x_i - centre, y)[0])
        for _ in range(k - 1):  # XLA sorts all of them for its top_k of float64
            squares = jnp.where(jnp.arange(len(y)) == jnp.argmin(squares), jnp.inf, squares)
        return jnp.min(squares)

    return jax.lax.map(of_row, (x, jnp.arange(len(x))), batch_size=ROWS)


@in_float64
def _counts(x, y, centre, x_radii, y_radii):
    """For each x_i how many y_j lie within its ball, or have it within theirs: squared radii, those of one set 0."""
    y = y - centre

    def of_row(row):
        x_i, radius = row
        squares, rounding = _squares(x_i - centre, y)
        return jnp.sum(squares <= radius + y_radii + rounding)

    return jax.lax.map(of_row, (x, x_radii), batch_size=ROWS)
