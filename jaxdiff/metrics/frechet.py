r"""The Fréchet distance between two sets of features.

    d²(x, y) = |m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^{1/2})

is the squared 2-Wasserstein distance of the Gaussians with the sets' means and covariances (Dowson and Landau 1982);
with Inception's features it is the FID (Heusel et al. 2017, arXiv 1706.08500, eq. 6). The trace of the root equals that
of (C_x^{1/2} C_y C_x^{1/2})^{1/2}, which is symmetric. Where a covariance is singular, rounding can make eigenvalues of
0 negative; they are clipped.

The distance between finite sets is biased upwards, by order 1/n. Compare it with its floor: the distance of as many
other real examples as there are samples.

The standard error is from a jackknife over blocks (Quenouille 1956; Tukey 1958): with d²_b the distance without block b
of one set, and B blocks, the variance is the sum over both sets of

    (B - 1)/B Σ_b (d²_b - mean d²_b)².

It takes the sums of z and z zᵀ over each block, which are computed once.

Sums and products are in float64, as in all metrics here: features often come in float32, but differences of their
moments need more digits.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_room, check_whole, in_float64
from jaxdiff.metrics.distance import Distance, check_same_features, features

ROWS = 4096  # examples a product


def frechet_distance(x, y, blocks: int = 10) -> Distance:
    """Compute the Fréchet distance d² between two sets of features; for Inception features it is the FID.

    Covariances are over n - 1 and m - 1. The standard error is over new draws of both sets, by a jackknife over random
    blocks of each. It does not cover the bias: compare d² with its floor, the distance of other data from the data.
    Near the floor, where d² is a quadratic form of the differences, the error is too large by a factor of up to √2.
    Products are computed on the device and eigenvalues on the host, which stores 2 blocks d² numbers. There may be more
    features than examples.

    Args:
        x: features `[n, d]`, floating.
        y: features `[m, d]`.
        blocks: number of blocks of the jackknife.

    Returns:
        The `Distance` d².

    Raises:
        TypeError: for features that are not real floating numbers, or a number of blocks that is not whole.
        ValueError: for other shapes, fewer examples than `blocks` or than 4, or a value that is not finite.

    Source:
        Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", eq. 6.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> x = np.random.default_rng(0).normal(size=(100, 3))
        >>> distance = jd.metrics.frechet_distance(x, x + 1.0)  # equal covariances
        >>> round(distance.value, 3)
        3.0
    """
    check_whole("blocks", blocks, least=2)
    x, y = (features(name, z, max(4, blocks), ", or fewer blocks") for name, z in (("x", x), ("y", y)))
    check_same_features(x=x, y=y)
    if len(x) + len(y) < x.shape[1]:
        x, y = _in_their_span(x, y)
    check_room("products of features, one array a block,", 2 * blocks, *x.shape[1:] * 2, itemsize=8, on_device=False)
    sets = [_blocks_of(z, blocks) for z in (x, y)]
    whole = [parts.without(None) for parts in sets]
    roots = [_root(covariance) for _, covariance in whole]
    variance = 0.0
    for parts, (mean, covariance), root in zip(sets, whole[::-1], roots[::-1]):
        left_out = [_distance(mean, covariance, root, *parts.without(block)) for block in range(blocks)]
        variance += (blocks - 1) * np.var(left_out)
    value = _distance(*whole[0], roots[0], *whole[1])
    return Distance(max(value, 0.0), float(np.sqrt(variance)))


class _Blocks(NamedTuple):
    """For each block of a set: the number of examples, and the sums of z - centre and of its outer products."""

    centre: np.ndarray
    number: np.ndarray
    total: np.ndarray
    product: np.ndarray

    def without(self, block: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the set without `block`; of the whole set for None."""
        number, total, product = (
            part.sum(0) if block is None else part.sum(0) - part[block]
            for part in (self.number, self.total, self.product)
        )
        mean = total / number
        return self.centre + mean, (product - number * np.outer(mean, mean)) / (number - 1)


def _blocks_of(z: np.ndarray, blocks: int) -> _Blocks:
    centre = z.mean(0, dtype=np.float64)
    d = len(centre)
    number, total, product = np.zeros(blocks), np.zeros((blocks, d)), np.zeros((blocks, d, d))
    order = np.random.default_rng(0).permutation(len(z))  # examples often come sorted by class
    for block, members in enumerate(np.array_split(order, blocks)):
        number[block] = len(members)
        for start in range(0, len(members), ROWS):
            sums = _sums(z[members[start : start + ROWS]], centre)
            total[block] += sums[0]
            product[block] += sums[1]
    return _Blocks(centre, number, total, product)


@in_float64
def _sums(z, centre):
    """The sums of z - centre and of its outer products."""
    z = z.astype(float) - centre
    return jnp.sum(z, axis=0), z.T @ z


def _in_their_span(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of both sets in an orthonormal basis of their span, which has at most n + m < d dimensions."""
    both = np.concatenate([x, y]).astype(np.float64)
    coordinates = np.asarray(np.linalg.qr((both - both.mean(0)).T, mode="r")).T
    return coordinates[: len(x)], coordinates[len(x) :]


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def _distance(mean_x, cov_x, root_x, mean_y, cov_y) -> float:
    shared = np.sqrt(np.linalg.eigvalsh(root_x @ cov_y @ root_x).clip(0)).sum()
    return float(np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * shared)
