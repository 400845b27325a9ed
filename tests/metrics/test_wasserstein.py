import numpy as np
import pytest
from scipy.stats import wasserstein_distance_nd

from jaxdiff.metrics import wasserstein


def test_of_a_translation_and_of_the_line():
    rng = np.random.default_rng(0)
    x, shift = rng.standard_normal((50, 3, 2)), rng.standard_normal((3, 2))
    np.testing.assert_allclose(wasserstein(x, rng.permutation(x + shift)), np.linalg.norm(shift), rtol=1e-12)
    a, b = rng.standard_normal((2, 40, 1))
    np.testing.assert_allclose(wasserstein(a, b), np.sqrt(np.mean((np.sort(a, 0) - np.sort(b, 0)) ** 2)), rtol=1e-12)
    assert wasserstein(a, b) >= wasserstein_distance_nd(a, b)  # W_1, by Jensen


def test_of_gaussians():
    """W_2² of N(0, A) and N(m, B) that commute: |m|² + |√A - √B|² (Dowson and Landau 1982), to the floor of n."""
    rng, n = np.random.default_rng(1), 1000
    a, b, mean = np.array([1.0, 2.0]), np.array([3.0, 0.5]), np.array([1.0, -1.0])
    x, y = a * rng.standard_normal((n, 2)), mean + b * rng.standard_normal((n, 2))
    truth = np.sqrt(mean @ mean + ((a - b) ** 2).sum())
    floor = wasserstein(x, a * rng.standard_normal((n, 2))) + wasserstein(y, mean + b * rng.standard_normal((n, 2)))
    assert abs(wasserstein(x, y) - truth) < floor  # the triangle inequality, once for each set
    assert floor < truth / 4


def test_sets_of_different_sizes_or_with_a_nan_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(4, 2\)"):
        wasserstein(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="y holds a NaN"):
        wasserstein(np.zeros((3, 2)), np.full((3, 2), np.nan))
