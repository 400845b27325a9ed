"""DAPS against the recursion that it is on a Gaussian, and its draws against the laws that they have."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few

import jaxdiff as jd
from jaxdiff.denoisers.guidance.measurement import Measurement
from jaxdiff.samplers import DAPS, DDIM, LangevinDraw, LinearDraw

KEY = jax.random.key(0)
MEAN, COVARIANCE = np.array([0.3, -0.2]), np.array([[1.0, 0.9], [0.9, 1.0]])
MATRIX, Y, NOISE = np.array([[0.8, 0.0]]), np.array([1.5]), 0.3
OPERATOR = jax.tree_util.Partial(jnp.matmul, jnp.asarray(MATRIX, jnp.float32))
EYE = np.eye(2)


def flow_end(levels):
    """(L, l) of x̂_0 = L x + l by DDIM through (α, σ) of `levels`, and on to the data."""
    matrix, shift = EYE, np.zeros(2)
    for (a, s), (a_next, s_next) in zip(levels, [*levels[1:], (1.0, 0.0)]):
        gain = a * COVARIANCE @ np.linalg.inv(a**2 * COVARIANCE + s**2 * EYE)
        data = gain, MEAN - a * gain @ MEAN
        step = a_next * data[0] + s_next / s * (EYE - a * data[0])
        matrix, shift = step @ matrix, step @ shift + (a_next - s_next / s * a) * data[1]
    return matrix, shift


def posterior(r2):
    """(precision, information) of N(x_0; 0, r² I) N(y; A x_0, s² I), but for the part of x̂_0/r² in the latter."""
    return MATRIX.T @ MATRIX / NOISE**2 + EYE / r2, MATRIX.T @ Y / NOISE**2


def recursion(process, times, steps, langevin, data_std):
    """(mean, covariance) of the last draw: level by level, by the paper's algorithm 1."""
    at = lambda t: tuple(float(curve) for curve in process.marginal(t))
    m, c = np.zeros(2), float(process.prior_std) ** 2 * EYE
    for i, t in enumerate(times):
        alpha, sigma = at(t)
        matrix, shift = flow_end([at(level) for level in jd.grids.Angle()(process, steps, t)])
        r2 = 1 / (alpha**2 / sigma**2 + 1 / data_std**2)
        precision, information = posterior(r2)
        if langevin is None:
            spread = np.linalg.inv(precision)
            of_guess, rest = spread / r2, spread @ information
        else:
            of_guess, rest, spread = EYE, np.zeros(2), np.zeros((2, 2))
            delta = langevin.size / (1 / r2 + 1 / NOISE**2)
            kept = EYE - delta / 2 * precision
            for _ in range(langevin.steps):
                of_guess, rest = kept @ of_guess + delta / 2 / r2 * EYE, kept @ rest + delta / 2 * information
                spread = kept @ spread @ kept.T + delta * EYE
        draw = of_guess @ matrix
        m, c = draw @ m + of_guess @ shift + rest, draw @ c @ draw.T + spread
        if i + 1 < len(times):
            alpha, sigma = at(times[i + 1])
            m, c = alpha * m, alpha**2 * c + sigma**2 * EYE
    return m, c


def assert_moments(x, mean, covariance):
    """Within four standard errors."""
    x, n, variance = np.asarray(x, float), len(x), np.diag(covariance)
    assert (np.abs(x.mean(0) - mean) < 4 * np.sqrt(variance / n)).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / n)
    assert (np.abs(np.cov(x.T) - covariance) < 4 * error).all()


SHORT = LangevinDraw(8, 0.4)
CASES = {
    "VP exact": (jd.VP(), LinearDraw(), math.inf),
    "VE by Langevin steps": (jd.VE(), SHORT, math.inf),
    "Flow of bounded data, exact": (jd.Flow(), LinearDraw(), 0.9),
    "VP by Langevin steps": (jd.VP(), SHORT, math.inf),
    "VE exact": (jd.VE(), LinearDraw(), math.inf),
    "Flow of bounded data, by Langevin steps": (jd.Flow(), SHORT, 0.9),
}


@pytest.mark.parametrize("case", few(CASES, "VE by Langevin steps"))
def test_its_moments_on_a_gaussian_are_those_of_the_recursion(case):
    process, inner, data_std = case
    n, times = 40_000, np.asarray(jd.grids.Angle()(process, 6))
    sampler = DAPS(OPERATOR, NOISE, 3, inner, data_std)
    denoiser = jd.exact.Gaussian(process, MEAN, COVARIANCE)
    x = jd.sample(KEY, denoiser, (n, 2), sampler, 6, np.broadcast_to(Y, (n, 1)).astype(np.float32))
    langevin = inner if isinstance(inner, LangevinDraw) else None
    assert_moments(x, *recursion(process, times, 3, langevin, data_std))


@pytest.mark.parametrize("inner", few({"solved": LinearDraw(), "Langevin": LangevinDraw(150, 0.4)}, "solved"))
def test_a_draw_has_the_law_of_the_posterior(inner):
    """Of many Langevin steps the stationary law, whose covariance is P⁻¹ (1 - δ P/4)⁻¹ where P⁻¹ is the posterior's."""
    n, r = 40_000, 0.6
    guess = np.array([0.4, -1.0])
    measurement = Measurement(OPERATOR, NOISE)
    observation = measurement.read(np.broadcast_to(Y, (n, 1)).astype(np.float32))
    keys = jd.samplers.example_keys(KEY, n)
    at = jnp.broadcast_to(jnp.asarray(guess, jnp.float32), (n, 2))
    x = jax.jit(lambda at: inner.draw(keys, measurement, observation, at, r))(at)
    precision, information = posterior(r**2)
    mean = np.linalg.solve(precision, information + guess / r**2)
    step = inner.size / (1 / r**2 + 1 / NOISE**2) if isinstance(inner, LangevinDraw) else 0
    assert_moments(x, mean, np.linalg.inv(precision @ (EYE - step / 4 * precision)))


@pytest.mark.slow
def test_phases_that_were_not_measured_are_found():
    """Magnitudes of the spectrum of a picture of 4 x 4, with Gaussian data: the squares fit far better than before."""
    at = np.stack(np.meshgrid(*[np.arange(4)] * 2), -1).reshape(-1, 2)
    covariance = np.exp(-((at[:, None] - at) ** 2).sum(-1) / 4) + 1e-3 * np.eye(16)
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(16), covariance)
    magnitudes = lambda x0: jnp.abs(jnp.fft.rfft2(x0.reshape(4, 4), norm="ortho"))
    truth = np.random.default_rng(0).multivariate_normal(np.zeros(16), covariance, 8)
    y = jax.vmap(magnitudes)(jnp.asarray(truth, jnp.float32))
    misfit = lambda x: float(jnp.mean((jax.vmap(magnitudes)(x) - y) ** 2))
    free = jd.sample(KEY, denoiser, (8, 16), DDIM(), 20)
    found = jd.sample(KEY, denoiser, (8, 16), DAPS(magnitudes, 0.1, 3, LangevinDraw(60, 0.3)), 20, y)
    assert misfit(found) < 0.1 * misfit(free)


def test_other_numbers_compile_nothing_and_labels_and_parameters_are_handed_on():
    traced = []

    def network(params, x, c_noise, cond):
        traced.append(1)
        return params * x + cond[:, None]

    def scaled(x0, factor):
        return factor * x0

    labels, factors = np.arange(3, dtype=np.float32), np.array([1.0, -1.0, 2.0], np.float32)
    counts, results = [], []
    for noise_std, iterations, factor in ((0.1, 64, 1), (0.2, 3, 1), (0.2, 3, 2)):
        cond = {"y": np.ones((3, 2), np.float32), "cond": labels, "operator": factor * factors}
        sampler = DAPS(scaled, noise_std, 2, LinearDraw(iterations))
        results.append(jd.sample(KEY, jd.Denoiser(network, 0.3, jd.VP()), (3, 2), sampler, 3, cond))
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2] > 0
    assert float(jnp.abs(results[1] - results[2]).max()) > 0.05
    np.testing.assert_allclose(factors[:, None] * results[0], 1.0, atol=6 * 0.1)
