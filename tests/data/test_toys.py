import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxdiff.data import toys

TOYS = [
    toys.two_moons,
    toys.eight_gaussians,
    toys.checkerboard,
    toys.swiss_roll,
    toys.s_curve,
    toys.pinwheel,
    toys.circles,
    toys.cat,
]
each = pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
N = 4000


def _fractions_agree(count, n, probability):
    return abs(count / n - probability) < 4 * np.sqrt(probability * (1 - probability) / n)


@each
def test_points_are_float32_in_the_plane_and_of_unit_scale(toy, x64):
    points = toy(jax.random.key(0), N)
    assert (points.shape, points.dtype) == ((N, 2), jnp.float32)
    assert np.all(np.abs(np.std(points, axis=0) - 1) < 0.6)


@each
def test_a_point_depends_on_its_key_and_index_alone(toy):
    points = toy(jax.random.key(0), 50)
    np.testing.assert_allclose(toy(jax.random.key(0), 7), points[:7], rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(toy(jax.random.key(1), 50)) != np.asarray(points))
    assert len(np.unique(points, axis=0)) == 50


@each
@pytest.mark.parametrize("n", [0, -3])
def test_no_points_is_an_error(toy, n):
    with pytest.raises(ValueError, match=f"n = {n}; expected at least one point"):
        toy(jax.random.key(0), n)


def test_moons_without_noise_are_two_half_circles():
    x, y = np.asarray(toys.two_moons(jax.random.key(0), N, noise=0.0), float).T + np.array([[0.5], [0.25]])
    upper, lower = np.hypot(x, y), np.hypot(x - 1, y - 0.5)
    np.testing.assert_allclose(np.minimum(abs(upper - 1), abs(lower - 1)), 0, atol=1e-6)
    on_upper = (abs(upper - 1) < 1e-6) & (y >= -1e-6)
    assert np.all(on_upper | (y <= 0.5 + 1e-6))
    assert _fractions_agree(on_upper.sum(), N, 0.5)


def test_eight_gaussians_have_the_mixture_stated():
    weights, means, covariances = toys.eight_gaussians_mixture()
    assert weights.sum() == 1
    points = np.asarray(toys.eight_gaussians(jax.random.key(0), N), float)
    distances = np.linalg.norm(points[:, None] - means, axis=2)
    component = distances.argmin(1)  # the components lie ten standard deviations apart
    residuals = points - means[component]
    for k in range(8):
        assert _fractions_agree((component == k).sum(), N, weights[k])
    for axis in range(2):
        assert stats.kstest(residuals[:, axis], "norm", (0, covariances[0, axis, axis] ** 0.5)).pvalue > 1e-3
    assert stats.pearsonr(*residuals.T).pvalue > 1e-3
    np.testing.assert_array_equal(covariances, np.broadcast_to(covariances[0], (8, 2, 2)))


def test_the_checkerboard_is_uniform_on_squares_that_share_no_side():
    points = np.asarray(toys.checkerboard(jax.random.key(0), N), float)
    counts = np.histogram2d(*points.T, bins=4, range=[[-2, 2], [-2, 2]])[0]
    filled = counts > 0
    assert counts.sum() == N
    assert filled.sum() == 8
    assert not (filled[1:] & filled[:-1]).any()
    assert not (filled[:, 1:] & filled[:, :-1]).any()
    assert all(_fractions_agree(count, N, 1 / 8) for count in counts[filled])
    for axis in range(2):
        assert stats.kstest(points[:, axis] % 1, "uniform").pvalue > 1e-3


def test_the_swiss_roll_without_noise_is_a_spiral():
    x, y = np.asarray(toys.swiss_roll(jax.random.key(0), N, noise=0.0), float).T
    angle = 7 * np.hypot(x, y)
    np.testing.assert_allclose(np.stack([np.cos(angle), np.sin(angle)]), [x, y] / np.hypot(x, y), atol=1e-4)
    assert stats.kstest(angle, "uniform", (1.5 * np.pi, 3 * np.pi)).pvalue > 1e-3


def test_the_s_curve_without_noise_is_two_arcs_of_radius_one():
    x, y = np.asarray(toys.s_curve(jax.random.key(0), N, noise=0.0), float).T
    centre = np.where(y > 0, 1.0, -1.0)
    np.testing.assert_allclose(np.hypot(x, y - centre), 1, atol=1e-5)
    assert _fractions_agree((y > 0).sum(), N, 0.5)
    turned = np.stack([-x, -y])  # the letter is symmetric about its centre
    assert stats.kstest(turned[0], x).pvalue > 1e-3
    assert stats.kstest(turned[1], y).pvalue > 1e-3


def test_the_pinwheel_unwinds_to_five_gaussian_arms():
    points = np.asarray(toys.pinwheel(jax.random.key(0), N), float) / np.sqrt(2)
    z = points[:, 0] + 1j * points[:, 1]
    rng = np.random.default_rng(0)
    arm = 1 + 0.3 * rng.standard_normal(N) + 0.1j * rng.standard_normal(N)
    assert stats.kstest(np.abs(z), np.abs(arm)).pvalue > 1e-3  # turning leaves the radius

    assert abs(z.mean()) < 4 * np.sqrt(1.1 / N)
    unwound = z * np.exp(-1j * np.exp(np.abs(z)) / 4)
    fifth_power = np.mean((unwound / np.abs(unwound)) ** 5)
    assert fifth_power.real > 0.7  # 1 where all points lie on five rays, exp(-0.125) for arms 0.1 wide at radius 1


def test_circles_without_noise_have_two_radii_half_the_points_each():
    points = np.asarray(toys.circles(jax.random.key(0), N, noise=0.0), float)
    radius = np.linalg.norm(points, axis=1)
    outer = radius > 1
    np.testing.assert_allclose(radius, np.where(outer, 1.5, 0.75), rtol=1e-5)
    assert _fractions_agree(outer.sum(), N, 0.5)
    angle = np.arctan2(points[:, 1], points[:, 0])
    assert stats.kstest(angle, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3


def test_the_cat_without_noise_is_a_symmetric_drawing_evenly_drawn():
    x, y = np.asarray(toys.cat(jax.random.key(0), N, noise=0.0), float).T
    assert stats.kstest(x, -x).pvalue > 1e-3
    chin = y < -1.1
    np.testing.assert_allclose((x[chin] / 1.5) ** 2 + ((y[chin] + 0.25) / 1.3) ** 2, 1, atol=1e-3)
    in_eyes = (abs(abs(x) - 0.6) < 0.31) & (abs(y - 0.1) < 0.23)
    across, y = abs(x[in_eyes]) - 0.6, y[in_eyes]
    pupil = abs(across) < 1e-5
    np.testing.assert_allclose(((across / 0.3) ** 2 + ((y - 0.1) / 0.22) ** 2)[~pupil], 1, atol=2e-3)
    assert stats.kstest(y[pupil], "uniform", (-0.08, 0.36)).pvalue > 1e-3
    rim = 4 * 0.3 * special.ellipe(1 - (0.22 / 0.3) ** 2)
    assert _fractions_agree(pupil.sum(), len(pupil), 0.36 / (0.36 + rim))


@pytest.mark.parametrize("toy", [toys.two_moons, toys.swiss_roll, toys.s_curve, toys.circles, toys.cat])
def test_noise_is_gaussian_of_the_stated_size(toy):
    clean, noisy = (np.asarray(toy(jax.random.key(0), N, noise=noise), float) for noise in (0.0, 0.3))
    assert stats.kstest((noisy - clean).ravel(), "norm", (0, 0.3)).pvalue > 1e-3
