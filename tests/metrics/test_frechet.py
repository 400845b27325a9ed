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


def with_root(seed, n, mean, root):
    """n points whose mean is exactly this and whose covariance is root rootᵀ, which may be singular."""
    white = with_moments(seed, n, np.zeros(len(root)), np.eye(len(root)))
    return mean + white @ np.asarray(root).T


def test_singular_covariances_have_the_closed_form():
    """Of a uuᵀ and B the root's trace is √(a uᵀBu): for B = b vvᵀ, of another range, √(ab) |u·v|."""
    rng = np.random.default_rng(3)
    u, v = (z / np.linalg.norm(z) for z in rng.standard_normal((2, 4)))
    root, mean, a, b = rng.standard_normal((4, 4)), rng.standard_normal(4), 2.0, 3.0
    line = lambda seed, mean, a, u: with_root(seed, 40, mean, np.sqrt(a) * np.outer(u, np.eye(4)[0]))
    x, full = line(0, np.zeros(4), a, u), with_root(1, 50, mean, root)
    covariance = root @ root.T
    for y, variance, shared in (
        (full, np.trace(covariance), np.sqrt(a * u @ covariance @ u)),
        (line(2, mean, b, v), b, np.sqrt(a * b) * abs(u @ v)),
    ):
        truth = mean @ mean + a + variance - 2 * shared
        # eigenvalues of 0 are 1e-16 of the largest, in float64, and their roots 1e-8 of it
        np.testing.assert_allclose(frechet_distance(x, y).value, truth, rtol=1e-7)
        np.testing.assert_allclose(frechet_distance(y, x).value, truth, rtol=1e-7)
    x, y = with_root(4, 30, np.zeros(3), np.diag([2.0, 0, 1])), with_root(5, 30, np.zeros(3), np.diag([0, 3.0, 2]))
    np.testing.assert_allclose(frechet_distance(x, y).value, 2**2 + 3**2 + 1, rtol=1e-7)


@pytest.mark.parametrize("d", [50, 100])
def test_more_features_than_examples_have_the_closed_form(d):
    """The root's trace is the sum of the singular values of X Yᵀ/√((n - 1)(m - 1)), of centred sets X and Y."""
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((30, d)), 0.5 + 2 * rng.standard_normal((40, d))
    a, b = (x - x.mean(0)) / np.sqrt(29), (y - y.mean(0)) / np.sqrt(39)
    shared = np.linalg.svd(a @ b.T)[1].sum()
    truth = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * shared
    # 70 eigenvalues of 0 at most, each the root of a few 1e-16 of the square of the largest, some 30
    np.testing.assert_allclose(frechet_distance(x, y).value, truth, atol=70 * 30 * 5e-8)


def test_float32_features_far_from_0_lose_no_digits():
    """Against NumPy in float64, on the same numbers."""
    rng = np.random.default_rng(7)
    x, y = (1e4 + scale * rng.standard_normal((n, 6)).astype(np.float32) for scale, n in ((1, 5000), (1.2, 300)))
    a, b = x.astype(np.float64), y.astype(np.float64)
    truth = np.sum((a.mean(0) - b.mean(0)) ** 2)
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    truth += np.trace(one + other - 2 * sqrtm(one @ other).real)
    np.testing.assert_allclose(frechet_distance(x, y).value, truth, rtol=1e-8)


def test_the_standard_error_is_the_spread_over_repeats():
    """200 repeats: their variance is known to √(2/199), that of 18 degrees of freedom on average to √(2/18/200)."""
    rng, repeats = np.random.default_rng(8), 200
    draw = lambda: (rng.standard_normal((200, 4)), 0.3 + 1.3 * rng.standard_normal((250, 4)))
    value, error = np.array([frechet_distance(*draw()) for _ in range(repeats)]).T
    tolerance = 4 * np.sqrt(2 / (repeats - 1) + 2 / 18 / repeats)
    assert abs(np.mean(error**2) / np.var(value, ddof=1) - 1) < tolerance


def test_the_standard_error_does_not_depend_on_the_order_of_the_examples():
    """Of examples sorted by their first feature, blocks in a row would each have another mean, 0.9 apart on average."""
    x, y = np.random.default_rng(9).standard_normal((2, 500, 3))
    error = frechet_distance(x + 1, y).standard_error
    ordered = frechet_distance(x[np.argsort(x[:, 0])] + 1, y).standard_error
    assert 0.4 < ordered / error < 2.5  # two draws of 18 degrees of freedom are within 1.9 of each other in 99 of 100
