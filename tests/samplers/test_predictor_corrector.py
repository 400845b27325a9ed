"""Langevin dynamics against affine recursions: of a Gaussian its steps are affine, so all moments are known."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import draw_mixture, few, mixture, mixture_moments
from scipy import stats

import jaxdiff as jd
from jaxdiff.losses import Denoising, times, weightings
from jaxdiff.samplers import (
    DDIM,
    AnnealedLangevin,
    DPMSolverPP,
    EulerMaruyama,
    PredictorCorrector,
    ProbabilityFlow,
    langevin,
)

M, C = 0.5, 0.25  # the data N(M, C) of most tests here


def gaussian(process):
    return jd.exact.Gaussian(process, np.array([M]), np.array([[C]]))


def check_moments(x, mean, variance):
    """Of independent Gaussian values, within 4 standard errors."""
    x = np.asarray(x, np.float64).ravel()
    assert abs(x.mean() - mean) < 4 * math.sqrt(variance / len(x)), (x.mean(), mean)
    assert abs(x.var() / variance - 1) < 4 * math.sqrt(2 / len(x)), (x.var(), variance)


def test_langevin_of_a_gaussian_is_known_at_every_step():
    m, s, size, n = 1.5, 0.7, 0.3, 20_000
    score = lambda x: (m - x) / s**2
    path = langevin(jax.random.key(0), score, jnp.zeros((n, 1)), size, 40, trajectory=True)
    shrink, mean, variance = 1 - size / (2 * s**2), 0.0, 0.0
    assert path.shape == (41, n, 1)
    for x in path[1:]:
        mean, variance = m + shrink * (mean - m), shrink**2 * variance + size
        check_moments(x, mean, variance)
    np.testing.assert_allclose(variance, s**2 / (1 - size / (4 * s**2)), rtol=1e-9)  # it has settled, above s²
    lags = np.corrcoef(np.asarray(path[-2, :, 0]), np.asarray(path[-1, :, 0]))[0, 1]
    assert abs(lags - shrink) < 4 / math.sqrt(n)


def test_a_chain_depends_on_its_key_and_index_alone():
    score, key, start = lambda x: -x, jax.random.key(1), jnp.ones((5, 2))
    many = langevin(key, score, start, 0.1, 7)
    np.testing.assert_allclose(langevin(key, score, start[:2], 0.1, 7), many[:2], rtol=1e-5)
    keys = jd.samplers.example_keys(key, 5)[3:]
    np.testing.assert_allclose(langevin(keys, score, start[3:], 0.1, 7), many[3:], rtol=1e-5)
    assert len(np.unique(many)) == 10


PREDICTORS = {"EulerMaruyama": EulerMaruyama(), "DDIM": DDIM(eta=0.5), "DPMSolverPP": DPMSolverPP()}


@pytest.mark.parametrize("predictor", few(PREDICTORS, "DPMSolverPP"))
def test_without_corrections_it_is_its_predictor(predictor):
    run = lambda sampler: jd.sample(jax.random.key(2), mixture(jd.VP()), (3, 2), sampler, 5)
    alone = run(predictor)
    np.testing.assert_allclose(run(PredictorCorrector(predictor, snr=0.0)), alone, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(run(PredictorCorrector(predictor)) - alone).max()) > 1e-2
    if isinstance(predictor, DDIM):
        np.testing.assert_allclose(run(PredictorCorrector(predictor, 0)), alone, rtol=1e-5, atol=1e-6)
    assert PredictorCorrector(predictor).grid == predictor.grid


@pytest.mark.slow
def test_an_adaptive_predictor_goes_from_level_to_level():
    """Of a Gaussian the probability flow keeps (x_t - α M)/√(α² C + σ²), and is corrected at each of the levels."""
    process, grid = jd.VP(), np.array([0.9, 0.6, 0.3])
    alpha, sigma = (np.asarray(c) for c in process.marginal(grid))
    start = jnp.array([[-1.0], [0.5]])
    run = lambda snr: jd.sample(
        jax.random.key(2),
        gaussian(process),
        (2, 1),
        PredictorCorrector(ProbabilityFlow(), snr=snr),
        grid=grid,
        x_start=start,
        trajectory=True,
    )
    kept = [(x - a * M) / np.hypot(a * C**0.5, s) for x, a, s in zip(run(0.0), alpha, sigma)]
    np.testing.assert_allclose(kept, np.broadcast_to(kept[0], (3, 2, 1)), rtol=1e-4)
    assert (jnp.abs(run(0.3) - run(0.0))[1:] > 1e-2).all()


def ancestral_step(a_t, s_t, a_s, s_s):
    """Slope, offset and variance of q(x_s | x_t, E[x_0 | x_t]) for the data N(M, C): Ho et al. 2020, eq. 6 and 7."""
    kept = (a_t * s_s / (a_s * s_t)) ** 2
    to_data = a_t * C / (a_t**2 * C + s_t**2)
    weight = a_s * (1 - kept)
    return kept * a_s / a_t + weight * to_data, weight * M * (1 - a_t * to_data), s_s**2 * (1 - kept)


def ddim_step(a_t, s_t, a_s, s_s):
    spread = a_t**2 * C + s_t**2
    slope = (a_s * a_t * C + s_s * s_t) / spread
    return slope, M * (a_s - slope * a_t), 0.0


def handed_on(a_t, s_t, a_s, s_s):
    return a_s / a_t, 0.0, 0.0


RECURSIONS = {
    "Ancestral on SubVP": (jd.SubVP(), PredictorCorrector(corrector_steps=3, snr=0.4), ancestral_step, 3, 0.64),
    "DDIM on EDM": (jd.EDM(sigma_max=20.0), PredictorCorrector(DDIM(), snr=0.16), ddim_step, 1, 0.1024),
    "AnnealedLangevin on SubVP": (jd.SubVP(), AnnealedLangevin(4, epsilon=0.5), handed_on, 4, 0.5),
    "AnnealedLangevin on EDM": (jd.EDM(sigma_max=20.0), AnnealedLangevin(10, epsilon=0.2), handed_on, 10, 0.2),
}


@pytest.mark.parametrize("case", few(RECURSIONS, "Ancestral on SubVP", "AnnealedLangevin on SubVP"))
def test_a_gaussian_by_its_own_recursion(case):
    """12 levels from the prior; mean and variance at the last level, and after the denoiser's answer there."""
    process, sampler, predictor_step, corrections, tau = case
    n, grid = 40_000, jd.grids.LogSNR()(process, 12)
    curves = np.stack(process.marginal(grid), 1).astype(np.float64)
    mean, variance = 0.0, float(process.prior_std) ** 2
    for (a_t, s_t), (a_s, s_s) in zip(curves[:-1], curves[1:]):
        slope, offset, added = predictor_step(a_t, s_t, a_s, s_s)
        mean, variance = slope * mean + offset, slope**2 * variance + added
        shrink = 1 - tau * s_s**2 / (2 * (a_s**2 * C + s_s**2))
        for _ in range(corrections):
            mean, variance = a_s * M + shrink * (mean - a_s * M), shrink**2 * variance + tau * s_s**2
    path = jd.sample(jax.random.key(3), gaussian(process), (n, 1), sampler, 12, grid=jd.grids.LogSNR(), trajectory=True)
    check_moments(path[-2], mean, variance)
    to_data = a_s * C / (a_s**2 * C + s_s**2)
    check_moments(path[-1], M + to_data * (mean - a_s * M), to_data**2 * variance)


def test_corrections_settle_close_to_the_noised_data():
    """Many at one level: of variance s² they leave s²/(1 - r² σ²/s²), and σ²/(1 - r²) where the data is a point."""
    process, r, n = jd.VP(), 0.5, 20_000
    alpha, sigma = (float(c) for c in process.marginal(0.3))
    denoiser = jd.exact.Gaussian(process, np.array([M, 1.0]), np.diag([C, 0.0]))
    sampler = PredictorCorrector(corrector_steps=40, snr=r)
    x = jd.sample(jax.random.key(4), denoiser, (n, 2), sampler, grid=np.array([0.35, 0.3]))
    spread = alpha**2 * C + sigma**2
    check_moments(x[:, 0], alpha * M, spread / (1 - r**2 * sigma**2 / spread))
    check_moments(x[:, 1], alpha, sigma**2 / (1 - r**2))


@pytest.mark.slow
def test_the_last_step_takes_the_last_levels_noise_away():
    """Data on a line: across it annealed Langevin leaves σ_L²/(1 - ε/4), and the denoiser's answer nothing."""
    process, epsilon, n = jd.VE(0.1, 5.0), 0.4, 20_000
    denoiser = jd.exact.Gaussian(process, np.array([M, 1.0]), np.diag([C, 0.0]))
    sampler = AnnealedLangevin(20, epsilon)
    path = jd.sample(jax.random.key(5), denoiser, (n, 2), sampler, 8, trajectory=True)
    check_moments(path[-2, :, 1], 1.0, 0.1**2 / (1 - epsilon / 4))
    np.testing.assert_allclose(path[-1, :, 1], 1.0, atol=1e-5)


def score_network(params, x, c_noise, cond):
    """A noise-conditional score network s(x, σ), here the mixture's own score under VE; σ and x as the denoiser puts
    them in."""
    sigma = jnp.exp(4 * c_noise)
    x = x * jnp.hypot(0.5, sigma)[:, None]
    return -mixture(params)(x, params.time_at_log_snr(-2 * jnp.log(sigma))).noise / sigma[:, None]


@pytest.mark.slow
def test_a_noise_conditional_score_network():
    """Its loss is Denoising (Song and Ermon 2019, eq. 5 and 6, λ = σ²) and its sampler AnnealedLangevin (algorithm 1).

    Of every step of the sampler, once the drift α_i/2 s(x, σ_i) with α_i = ε σ_i²/σ_L² is taken away and the rest
    divided by √α_i, standard normal noise must remain, independent of x.
    """
    process, n, epsilon, key = jd.VE(0.05, 2.0), 4000, 4e-4, jax.random.key(6)
    denoiser = jd.Denoiser(score_network, process, process, "score")
    x0, t = jnp.asarray(draw_mixture(0, 50), jnp.float32), 0.6
    x, _ = jd.perturb(jax.random.split(key)[1], process, x0, t)
    sigma = float(process.marginal(t)[1])
    score = jax.jit(lambda x, t: jd.score(mixture(process), x, t))
    loss = 0.5 * jnp.sum((score(x, t) + (x - x0) / sigma**2) ** 2, 1)
    losses = Denoising(weightings.MinSNR(math.inf), times.Fixed(t)), Denoising(weightings.Simple(), times.Fixed(t))
    weighted, plain = jax.jit(lambda: [loss(denoiser, key, x0) for loss in losses])()
    np.testing.assert_allclose(weighted, sigma**2 * loss, rtol=1e-4)  # ½ Σ over two values is their mean
    np.testing.assert_allclose(plain, loss, rtol=1e-4)

    levels = np.geomspace(2.0, 0.05, 6)
    sampler = AnnealedLangevin(1, epsilon / 0.05**2)
    path = jd.sample(key, denoiser, (n, 2), sampler, 6, trajectory=True)
    for before, after, level in zip(path[:-2], path[1:-1], levels[1:]):
        step = epsilon * level**2 / 0.05**2
        drift = step / 2 * score(before, process.time_at_log_snr(-2 * np.log(level)))
        noise = np.asarray((after - before - drift) / np.sqrt(step))
        assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
        for i in range(2):
            assert stats.pearsonr(noise[:, i], before[:, i]).pvalue > 1e-3


@pytest.mark.slow
def test_annealed_langevin_draws_the_mixture():
    """Mean and covariance within 4 standard errors: 300 levels a few steps each, from the prior."""
    n, process = 4000, jd.VE(0.02, 20.0)
    x = jd.sample(jax.random.key(9), mixture(process), (n, 2), AnnealedLangevin(4, epsilon=0.5), 300)
    x, (mean, covariance) = np.asarray(x, np.float64), mixture_moments()
    products = np.einsum("ni,nj->nij", x - mean, x - mean)
    assert (np.abs(x.mean(0) - mean) < 4 * x.std(0) / math.sqrt(n)).all()
    assert (np.abs(products.mean(0) - covariance) < 4 * products.std(0) / math.sqrt(n)).all()


@pytest.mark.slow
def test_corrections_improve_a_coarse_predictor():
    """By the mean log-density of the samples under the mixture: 20 steps of Euler-Maruyama spread too wide."""
    denoiser, n = mixture(jd.VP()), 20_000
    density = jax.jit(lambda x: denoiser.log_prob(x).mean())
    truth = density(jnp.asarray(draw_mixture(8, n), jnp.float32))
    error = lambda sampler: abs(density(jd.sample(jax.random.key(7), denoiser, (n, 2), sampler, 20)) - truth)
    assert error(PredictorCorrector(EulerMaruyama(), 3, 0.3)) < error(EulerMaruyama()) / 2


def test_at_clean_data_nothing_is_corrected():
    """σ = 0 at t = 0 of VP: a data set has no score there, and the last step's answer stands."""
    denoiser = jd.exact.Empirical(jd.VP(), jnp.asarray(draw_mixture(1, 20), jnp.float32))
    grid = np.array([1.0, 0.5, 0.2, 0.0])
    path = jd.sample(jax.random.key(8), denoiser, (4, 2), PredictorCorrector(), grid=grid, trajectory=True)
    np.testing.assert_allclose(path[-1], denoiser(path[-2], 0.2).data, rtol=1e-5)


def test_types_are_kept(x64):
    start = jnp.ones((3, 2), jnp.float32)
    for sampler in (PredictorCorrector(), AnnealedLangevin(2)):
        x = jd.sample(jax.random.key(0), mixture(jd.VP()), (3, 2), sampler, 4, x_start=start, t_end=0.1)
        assert x.dtype == jnp.float32
    assert langevin(jax.random.key(0), lambda x: -x.astype(float), start, 0.1, 2).dtype == jnp.float32


def test_new_numbers_compile_nothing():
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def score(x):
        return -x

    for size in (0.1, 0.2):
        langevin(jax.random.key(0), score, jnp.ones((2, 2)), size, 3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(denoiser, samplers):
        return [jd.sample(jax.random.key(0), denoiser, (2, 2), sampler, 3) for sampler in samplers]

    for k in (0.1, 0.2):
        jax.eval_shape(run, mixture(jd.VP(k)), [PredictorCorrector(DDIM(k), snr=k), AnnealedLangevin(2, k)])


def test_steps_that_diverge_and_starts_without_a_score_are_refused():
    key, start = jax.random.key(0), jnp.zeros((2, 2))
    for call, message in (
        (lambda: PredictorCorrector(snr=1.0), r"snr = 1.0; expected a number in \[0, 1\)"),
        (lambda: PredictorCorrector(snr=-0.1), r"snr = -0.1"),
        (lambda: PredictorCorrector(corrector_steps=-1), "corrector_steps = -1"),
        (lambda: AnnealedLangevin(epsilon=4.0), r"epsilon = 4.0; expected a number in \[0, 4\)"),
        (lambda: AnnealedLangevin(-1), "corrector_steps = -1"),
        (lambda: jd.sample(key, mixture(jd.Flow()), (2, 2), AnnealedLangevin()), r"alpha\(1.0\) = 0 for Flow"),
        (
            lambda: jd.sample(key, mixture(jd.Flow()), (2, 2), PredictorCorrector(EulerMaruyama())),
            "SDE of Flow is singular at t = 1",
        ),
        (lambda: langevin(key, lambda x: -x, start, 0.1, 0), "steps = 0; expected at least one"),
        (lambda: langevin(key, lambda x: -x, start, 0.0, 1), "step_size = 0.0; expected a number above 0"),
        (lambda: langevin(key, lambda x: -x, jnp.zeros(2), 0.1, 1), r"expected a batch axis"),
        (lambda: langevin(key, lambda x: -x.sum(1), start, 0.1, 1), r"score returned shape \(2,\) for x of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call, message in (
        (lambda: PredictorCorrector(DDIM), r"expected an instance such as jaxdiff.samplers.DDIM\(\)"),
        (lambda: langevin(0, lambda x: -x, start, 0.1, 1), "not a typed key"),
        (lambda: langevin(key, lambda x: -x, np.zeros((2, 2), int), 0.1, 1), "dtype int"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
