import sys

import numpy as np
import pytest
from scipy.stats import wasserstein_distance_nd

from jaxdiff.metrics import network_simplex, wasserstein


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


def test_points_far_from_0_lose_no_digits():
    """As products alone, 1e14 and more, the cost of an assignment would be known to 0.01."""
    x, y = np.random.default_rng(2).standard_normal((2, 60, 3))
    np.testing.assert_allclose(wasserstein(x + 1e7, y + 1e7), wasserstein(x, y), rtol=1e-7)


@pytest.mark.parametrize("d", [2, 16])
def test_the_network_simplex_finds_the_same_optimum(d, monkeypatch):
    monkeypatch.setenv("POT_BACKEND_DISABLE_PYTORCH", "1")  # it would be imported, which takes seconds
    pytest.importorskip("ot")
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((100, d)), rng.standard_normal((100, d)).round()  # some are equal
    np.testing.assert_allclose(wasserstein(x, y, solver=network_simplex), wasserstein(x, y), rtol=1e-12)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxdiff\[transport\]'"):
        network_simplex(np.zeros((3, 2)), np.zeros((3, 2)))
