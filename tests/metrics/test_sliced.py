import jax
import numpy as np

from jaxdiff.metrics import sliced_wasserstein, wasserstein

KEY = jax.random.key(0)


def test_the_distance_of_gaussians_is_the_closed_form():
    """SW_2² of N(0, I) and N(m, s² I) is |m|²/d + (1 - s)²; of a direction (θ·m)² + (1 - s)², whose variance is known.

    Var (θ·m)² = |m|⁴ 2 (d - 1)/(d² (d + 2)). The points have the two moments exactly, and their quantiles are affine.
    """
    d, projections, scale = 5, 4000, 1.5
    rng = np.random.default_rng(0)
    z = rng.standard_normal((200, d))
    x = np.linalg.qr(z - z.mean(0))[0] * np.sqrt(200)
    shift = rng.standard_normal(d)
    truth = shift @ shift / d + (1 - scale) ** 2
    error = (shift @ shift) * np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / projections) / (2 * np.sqrt(truth))
    found = sliced_wasserstein(KEY, x.reshape(200, d, 1), (scale * x + shift).reshape(200, d, 1), projections)
    assert abs(found.value - np.sqrt(truth)) < 4 * error
    # (θ·m)² is |m|² times a variable of [0, 1], whose own fourth moment gives its variance to 3 % or so of 4,000 draws
    assert abs(found.standard_error / error - 1) < 0.15


def test_on_the_line_it_is_the_wasserstein_distance_whatever_the_direction():
    x, y = np.random.default_rng(1).standard_normal((2, 50, 1))
    found = sliced_wasserstein(KEY, x, y, 3)
    np.testing.assert_allclose(found.value, wasserstein(x, y), rtol=1e-12)
    assert found.standard_error < 1e-15
    assert sliced_wasserstein(KEY, x, x[::-1], 3) == (0, 0)


def test_the_distance_of_sets_of_different_sizes_is_the_one_by_hand():
    """Quantiles of {0, 2} less those of {0, 1, 5}: 0 to 1/3, -1 to 1/2, 1 to 2/3, -3 to 1: 1/6 + 1/6 + 9/3 = 10/3."""
    x, y = np.array([2.0, 0]), np.array([1, 5, 0])
    np.testing.assert_allclose(sliced_wasserstein(KEY, x, y, 2).value, np.sqrt(10 / 3), rtol=1e-14)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((30, 2)), rng.standard_normal((20, 2))
    alike = np.repeat(x, 2, axis=0), np.repeat(y, 3, axis=0)  # the same laws, in sets of one size
    np.testing.assert_allclose(sliced_wasserstein(KEY, x, y, 9), sliced_wasserstein(KEY, *alike, 9), rtol=1e-12)
