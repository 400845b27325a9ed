import numpy as np
import pytest

from jaxdiff.metrics import density_coverage, precision_recall

REAL, FAKE = np.array([0.0, 1, 3, 7]), np.array([-2.0, 1, 12, 13])


def on_a_line(numbers):
    return np.asarray(numbers, np.float32)[:, None]


def far_away(numbers):
    """On a line through many dimensions, far from 0: the same distances, but for rounding."""
    direction = np.random.default_rng(0).standard_normal(16)
    return 1e3 + np.asarray(numbers)[:, None] * direction / np.linalg.norm(direction)


@pytest.mark.parametrize("points", [on_a_line, far_away])
def test_all_four_numbers_of_small_sets_are_those_by_hand(points):
    """k = 1: balls of the real points [-1, 1], [0, 2], [1, 5], [3, 11], of the fake ones [-5, 1], [-2, 4], [11, 13],
    [12, 14]. Of the fake points, 1 alone is in real balls, at the edge of two of three; of the real ones all but 7 are
    in fake balls, and all balls but the last hold 1.

    k = 2: real [-3, 3], [-1, 3], [0, 6], [1, 13]; the fake points are in 1, 4, 1 and 1 of them. Fake balls reach at
    least 11 far, and hold every real point.
    """
    real, fake = points(REAL), points(FAKE)
    quarter = np.sqrt(1 / 4 * 3 / 4 / 4)  # the binomial error of 1 of 4, or of 3
    np.testing.assert_allclose(precision_recall(real, fake, 1), (1 / 4, quarter, 3 / 4, quarter))
    counts = np.array([0, 3, 0, 0])
    np.testing.assert_allclose(density_coverage(real, fake, 1), (3 / 4, np.sqrt(counts.var() / 4), 3 / 4, quarter))
    assert precision_recall(real, fake, 2) == (1, 0, 1, 0)
    counts = np.array([1, 4, 1, 1]) / 2
    np.testing.assert_allclose(density_coverage(real, fake, 2), (7 / 8, np.sqrt(counts.var() / 4), 1, 0))


@pytest.mark.parametrize("points", [on_a_line, far_away])
def test_a_point_is_not_its_own_neighbour_but_its_double_is(points):
    """Real balls [0, 0] twice, [1, 9], [5, 13]: of the fake points 0 is in two, 20 in none."""
    real, fake = points([0.0, 0, 5, 9]), points([0.0, 20])
    assert precision_recall(real, fake, 1).precision == 1 / 2
    found = density_coverage(real, fake, 1)
    assert (found.density, found.coverage) == (1, 2 / 4)


def test_features_far_from_0_and_clusters_far_apart_are_counted_as_by_differences():
    """Against the distances of float64, one by one; the clusters are 1e-3 wide, where float32 has no digits left."""
    rng = np.random.default_rng(0)
    centres = 1e3 + 10 * rng.standard_normal((3, 16))
    real, fake = (centres[rng.integers(0, 3, n)] + 1e-3 * rng.standard_normal((n, 16)) for n in (300, 200))
    apart = lambda x, y: np.linalg.norm(x[:, None] - y, axis=-1)
    radii = lambda x, k: np.sort(apart(x, x), axis=1)[:, k]  # its own distance, 0, is the first
    k = 3
    inside = apart(fake, real) <= radii(real, k)
    recalled = (apart(real, fake) <= radii(fake, k)).any(1)
    found = precision_recall(real, fake, k)
    assert (found.precision, found.recall) == (inside.any(1).mean(), recalled.mean())
    found = density_coverage(real, fake, k)
    np.testing.assert_allclose(found.density, inside.sum() / (k * len(fake)), rtol=1e-14)
    assert found.coverage == inside.any(0).mean()
    assert 0.5 < inside.any(1).mean() < 1


def test_one_law_has_density_1():
    """In expectation at any k < n (Naeem et al. 2020, section 3.3), and coverage 1 - Π_{i<k} (n - i)/(n + m - i)."""
    rng, repeats, n, m, k = np.random.default_rng(1), 200, 40, 30, 2
    draw = lambda n: rng.standard_normal((n, 2))
    found = np.array([density_coverage(draw(n), draw(m), k) for _ in range(repeats)])[:, [0, 2]]
    missed = np.prod([(n - 1 - i) / (n - 1 + m - i) for i in range(k)])
    error = found.std(0, ddof=1) / np.sqrt(repeats)
    assert (np.abs(found.mean(0) - [1, 1 - missed]) < 4 * error).all()


def test_standard_errors_are_the_spread_over_what_is_counted():
    """200 repeats of the points that are counted: their variance has a relative error of √(2/199), of which 4."""
    rng, repeats = np.random.default_rng(2), 200
    draw = lambda n: rng.standard_normal((n, 2))
    fixed, tolerance = draw(60), 4 * np.sqrt(2 / (repeats - 1))
    fakes = [1.5 * draw(50) for _ in range(repeats)]
    precise = np.array([precision_recall(fixed, fake)[:2] for fake in fakes])
    dense = np.array([density_coverage(fixed, fake)[:2] for fake in fakes])
    recalled = np.array([precision_recall(1.5 * draw(50), fixed)[2:] for _ in range(repeats)])
    for value, error in (precise.T, dense.T, recalled.T):
        assert abs(np.mean(error**2) / np.var(value, ddof=1) - 1) < tolerance
        assert 0 < np.mean(error) < np.mean(value)
