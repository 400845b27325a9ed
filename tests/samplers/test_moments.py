"""Samples against what is known of their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import draw_mixture, mixture, mixture_moments

import jaxdiff as jd
from jaxdiff.samplers import DDIM, Ancestral, DPMSolverPP, EulerMaruyama, Heun, PredictorCorrector

STOCHASTIC = [
    Ancestral(),
    Ancestral("large"),
    DDIM(eta=0.5),
    EulerMaruyama(),
    Heun(churn=40.0),
    DPMSolverPP(sde=True),
    PredictorCorrector(),
]


def check_moments(x, mean, covariance):
    """Mean and covariance within 4 standard errors, those of the samples' own spread."""
    x = np.asarray(x, np.float64)
    products = np.einsum("ni,nj->nij", x - mean, x - mean).reshape(len(x), -1)
    for values, truth in ((x, mean), (products, covariance.ravel())):
        standard_error = values.std(0) / np.sqrt(len(x))
        assert (np.abs(values.mean(0) - truth) < 4 * standard_error).all(), (
            values.mean(0),
            truth,
            standard_error,
        )


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=str)
def test_stochastic_samplers_draw_the_mixture(sampler, process):
    """Started from the true x at t_start, so that only the sampler can be wrong."""
    n, t_start = 4000, 0.97 if isinstance(sampler, EulerMaruyama) else 1.0
    alpha, sigma = process.marginal(t_start)
    noise = jax.random.normal(jax.random.key(1), (n, 2))
    x_start = (alpha * draw_mixture(0, n) + sigma * noise).astype(jnp.float32)
    grid = jd.grids.LogSNR() if isinstance(sampler, EulerMaruyama) else None
    x = jd.sample(
        jax.random.key(2), mixture(process), (n, 2), sampler, 400, grid=grid, t_start=t_start, x_start=x_start
    )
    check_moments(x, *mixture_moments())


def gaussian(process):
    return jd.exact.Gaussian(process, np.array([0.5]), np.array([[0.25]]))


def affine_moments(process, sampler, steps, grid=None):
    """Mean and variance of the result: a deterministic sampler of a Gaussian is affine in its start, N(0, std²)."""
    start = jnp.array([[0.0], [1.0]])
    x = jd.sample(jax.random.key(0), gaussian(process), (2, 1), sampler, steps, grid=grid, x_start=start)
    return float(x[0, 0]), float(((x[1] - x[0])[0] * process.prior_std) ** 2)


def test_edm_heun_of_a_gaussian(x64):
    """Data N(0.5, 0.25), 18 steps from N(0, 80²): the linear recursion of algorithm 2, computed by hand elsewhere."""
    got = affine_moments(jd.EDM(), Heun(), 18, jd.grids.Karras())
    np.testing.assert_allclose(got, (0.496702346018743, 0.278387757570487), rtol=1e-9)


def test_ddim_of_a_gaussian(x64):
    """Data N(0.5, 0.25), the linear table of 1,000 betas at its steps 0, 20, ..., 980 counted from 0, as published."""
    process = jd.from_betas(np.linspace(1e-4, 0.02, 1000))
    grid = np.append(np.arange(981, 0, -20) / 1000, 0.0)
    got = affine_moments(process, DDIM(), 50, grid)
    np.testing.assert_allclose(got, (0.498184986416912, 0.223198715518999), rtol=1e-9)


def test_ddpm_of_a_gaussian():
    """The same data by all 1,000 ancestral steps with the small variance."""
    process, n = jd.from_betas(np.linspace(1e-4, 0.02, 1000)), 20_000
    x = jd.sample(jax.random.key(0), gaussian(process), (n, 1), Ancestral(), 1000, grid=jd.grids.Time())
    check_moments(x, np.array([0.499994955059922]), np.array([[0.246125211360283]]))


def test_euler_maruyama_of_a_gaussian(x64):
    """Mean and variance after each of 20 steps of the VP reverse SDE, by its own affine recursion."""
    process, n, steps = jd.VP(), 40_000, 20
    times = np.linspace(1.0, 0.1, steps + 1)
    mean, variance = 0.0, 1.0
    for t, s in zip(times[:-1], times[1:]):
        h, beta = t - s, 0.1 + 19.9 * t
        bar = np.exp(-(0.1 * t + 19.9 * t**2 / 2))
        spread = 0.25 * bar + 1 - bar  # of x_t for the data N(0.5, 0.25): the score is (0.5 √bar - x) / spread
        slope = 1 + h * beta / 2 - h * beta / spread
        mean = slope * mean + h * beta * 0.5 * np.sqrt(bar) / spread
        variance = slope**2 * variance + h * beta
    x = jd.sample(jax.random.key(0), gaussian(process), (n, 1), EulerMaruyama(), grid=times)
    check_moments(x, np.array([mean]), np.array([[variance]]))


def test_ddim_with_full_noise_is_ancestral(process, x64):
    """Two ways to write q(x_s | x_t, x_0): with the predicted noise, and with x_t."""
    for grid in (None, jd.grids.Time()(process, 5, 1.0, 0.0)):
        runs = [
            jd.sample(jax.random.key(5), mixture(process), (6, 2), sampler, 12, grid=grid)
            for sampler in (DDIM(eta=1.0), Ancestral())
        ]
        np.testing.assert_allclose(*runs, rtol=1e-7, atol=1e-9)


def test_first_order_sde_solver_is_ancestral(process, x64):
    runs = [
        jd.sample(jax.random.key(6), mixture(process), (6, 2), sampler, 12, grid=jd.grids.Angle())
        for sampler in (DPMSolverPP(order=1, sde=True), Ancestral())
    ]
    np.testing.assert_allclose(*runs, rtol=1e-7, atol=1e-9)
