import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxdiff.metrics import frechet_distance


def with_moments(seed, n, mean, covariance):
    """n points whose mean and covariance are exactly these."""
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    z = np.random.default_rng(seed).standard_normal((n, len(mean)))
    z -= z.mean(0)
    white = z @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(z, rowvar=False))).T)
    return mean + white @ np.linalg.cholesky(covariance).T


def test_of_covariances_that_commute():
    """|m|² + |√A - √B|² (Dowson and Landau 1982), in any common basis."""
    a, b, mean = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.01]), np.array([1.0, -2.0, 0.5])
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    x = with_moments(1, 50, np.zeros(3), basis * a @ basis.T)
    y = with_moments(2, 70, mean, basis * b @ basis.T)
    truth = mean @ mean + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(x, y).value, truth, rtol=1e-10)
    np.testing.assert_allclose(frechet_distance(y, x).value, truth, rtol=1e-10)


def test_of_covariances_that_do_not():
    a, b = np.array([[2.0, 0.9], [0.9, 0.5]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    assert not np.allclose(a @ b, b @ a)
    truth = 1.0 + np.trace(a + b - 2 * sqrtm(a @ b).real)
    found = frechet_distance(with_moments(0, 40, [0, 0], a), with_moments(1, 40, [0.6, 0.8], b)).value
    np.testing.assert_allclose(found, truth, rtol=1e-10)


def test_of_the_line():
    x, y = with_moments(0, 30, [1.0], [[4.0]]), with_moments(1, 30, [3.0], [[0.25]])
    np.testing.assert_allclose(frechet_distance(x, y).value, 2**2 + 1.5**2, rtol=1e-10)


def test_a_set_is_at_no_distance_from_itself_and_a_singular_one_is_allowed():
    x = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    assert frechet_distance(x, x[::-1]).value < 1e-10
    x[:, 3] = 0.0
    np.testing.assert_allclose(frechet_distance(x, jnp.asarray(x) + 0.5).value, 8 * 0.5**2, rtol=1e-5)


def test_sets_of_other_types_shapes_or_sizes_are_refused():
    good = np.random.default_rng(0).standard_normal((9, 3))
    holes = good.copy()
    holes[4, 1] = np.nan
    for x, y, error, message in (
        (good, good.astype(np.uint8), TypeError, "y has dtype uint8"),
        (good + 0j, good, TypeError, "x has dtype complex128"),
        (good[0], good, ValueError, r"x has shape \(3,\)"),
        (good, good[:, :2], ValueError, r"x has shape \(9, 3\) and y \(9, 2\)"),
        (good[:3], good, ValueError, "x holds 3 examples; expected at least 4, or fewer blocks"),
        (good, holes, ValueError, "y holds a NaN"),
    ):
        with pytest.raises(error, match=message):
            frechet_distance(x, y, blocks=2)
