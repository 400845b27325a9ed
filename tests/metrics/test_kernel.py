import jax
import numpy as np
from scipy.stats import binom, kurtosis

from jaxdiff.metrics import kernel_distance
from jaxdiff.metrics.kernel import _sums, _variance

# k(x, y) = (x y + 1)³ of numbers: 1 with 0, and k(1, 1) = 8, k(1, 2) = 27, k(2, 2) = 125
X, Y = (np.array(numbers, float)[:, None] for numbers in ((0, 0, 1, 1), (0, 1, 2, 2)))


def test_the_distance_of_small_sets_is_the_one_by_hand():
    """xx: (2 · 8 + 10 · 1)/12 = 13/6. yy: (6 · 1 + 4 · 27 + 2 · 125)/12 = 91/3. xy: (8 · 1 + 2 (1 + 8 + 54))/16 = 67/8.

    13/6 + 91/3 - 67/4 = 63/4. Of x and itself xy is (8 + 2 (2 · 1 + 2 · 8))/16 = 11/4, and 13/3 - 11/2 = -7/6.
    """
    np.testing.assert_allclose(kernel_distance(X, Y).value, 63 / 4, rtol=1e-14)
    np.testing.assert_allclose(kernel_distance(Y, X).value, 63 / 4, rtol=1e-14)
    np.testing.assert_allclose(kernel_distance(X, X).value, -7 / 6, rtol=1e-13)
    twice = [np.repeat(z, 2, axis=1) for z in (X, Y)]  # x·y/d is as before
    np.testing.assert_allclose(kernel_distance(*twice), kernel_distance(X, Y), rtol=1e-13)


def test_neither_the_distance_nor_its_variance_has_a_bias():
    """Over all sets of n and m examples of two laws of two values each, weighted by their probability."""
    (n, m), (p, q) = (4, 6), (0.3, 0.6)
    x, y = np.array([0.5, -1.0]), np.array([0.0, 1.5])
    found = []
    for ones, others in np.ndindex(n + 1, m + 1):
        a, b = np.where(np.arange(n) < ones, x[1], x[0]), np.where(np.arange(m) < others, y[1], y[0])
        a, b = a[:, None], b[:, None]
        within = [_sums(z, z, np.arange(len(z))) for z in (a, b)]
        between = [_sums(a, b, np.full(n, -1)), _sums(b, a, np.full(m, -1))[0]]
        weight = binom.pmf(ones, n, p) * binom.pmf(others, m, q)
        found.append((weight, kernel_distance(a, b).value, sum(_variance(*within, *between))))
    weight, value, variance = np.array(found).T
    of_x, of_y = np.array([1 - p, p]), np.array([1 - q, q])
    kernel = lambda a, b: (np.multiply.outer(a, b) + 1) ** 3
    truth = of_x @ kernel(x, x) @ of_x + of_y @ kernel(y, y) @ of_y - 2 * of_x @ kernel(x, y) @ of_y
    np.testing.assert_allclose(weight @ value, truth, rtol=1e-12)
    np.testing.assert_allclose(weight @ variance, weight @ (value - truth) ** 2, rtol=1e-12)


def test_its_standard_error_is_the_spread_over_repeats():
    """A variance of 200 repeats has a relative error of √((kurtosis - 1)/200), the mean of the estimates its own.

    Where the laws are one the first line of the variance counts as 0 where it is negative: no more than it twice.
    """
    rng, repeats = np.random.default_rng(0), 200
    for shift, scale, most in ((0.5, 1.4, 1.0), (0.0, 1.0, 2.0)):
        draw = lambda: (np.tanh(rng.standard_normal((40, 3))), np.tanh(shift + scale * rng.standard_normal((50, 3))))
        value, error = np.array([kernel_distance(*draw()) for _ in range(repeats)]).T
        spread = kurtosis(value, fisher=False) - 1 + np.var(error**2) / np.mean(error**2) ** 2
        tolerance = 4 * np.sqrt(spread / repeats)
        assert 1 - tolerance < np.mean(error**2) / np.var(value, ddof=1) < most + tolerance
        assert tolerance < 1


def test_blocks_of_rows_and_features_far_from_0_leave_the_digits():
    rng = np.random.default_rng(1)
    x, y = (50 + rng.standard_normal((n, 7)).astype(np.float32) for n in (300, 270))
    a, b = x.astype(np.float64), y.astype(np.float64)
    kernel = lambda a, b: (a @ b.T / 7 + 1) ** 3
    apart = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
    truth = apart(kernel(a, a)) + apart(kernel(b, b)) - 2 * kernel(a, b).mean()
    # of 2e10 with 16 digits: 4e-6 at most a kernel, and less of their mean
    np.testing.assert_allclose(kernel_distance(x, jax.numpy.asarray(y)).value, truth, atol=4e-6)
    assert abs(truth) > 1
