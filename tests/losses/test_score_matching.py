"""Score matching against closed forms of affine scores, and against denoising, whose expectation it has."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tables
from conftest import draw_mixture, few, mixture

import jaxdiff as jd
from jaxdiff.losses import Denoising, ScoreMatching, SlicedScoreMatching, times, weightings
from jaxdiff.networks import MLP, initialize

T = 0.35
PROCESSES = {"VP": jd.VP(), "VE": jd.VE(sigma_max=5.0), "Flow": jd.Flow()}
LOSSES = [
    lambda times, loss=row.loss: dataclasses.replace(loss, times=times)
    for name, row in tables.LOSSES.items()
    if "ScoreMatching" in name
]
each_process = pytest.mark.parametrize("process", few(PROCESSES, "VP"))

MEAN = np.array([0.5, -0.2, 0.1])
COVARIANCE = np.array([[0.5, 0.1, 0.0], [0.1, 0.3, -0.1], [0.0, -0.1, 0.2]])
MATRIX = np.array([[0.6, 0.3, -0.2], [-0.4, 0.5, 0.1], [0.2, 0.7, 0.4]])
OFFSET = np.array([0.3, -0.1, 0.2])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine:
    """A denoiser with noise = matrix x + offset."""

    process: jd.processes.Process
    matrix: jax.Array
    offset: jax.Array

    def __call__(self, x, t, cond=None):
        alpha, sigma = (jd.processes.expand_time(c, x) for c in self.process.marginal(t))
        noise = x @ self.matrix.T + self.offset
        return jd.Prediction((x - sigma * noise) / alpha, noise)


def affine(process):
    return Affine(process, jnp.asarray(MATRIX, float), jnp.asarray(OFFSET, float))


def draw_gaussian(seed, n):
    rng = np.random.default_rng(seed)
    return jnp.asarray(MEAN + rng.standard_normal((n, 3)) @ np.linalg.cholesky(COVARIANCE).T, float)


def noised(process, key, x0):
    """x_t as the losses draw it, and σ."""
    return jd.perturb(jax.random.split(key)[1], process, x0, T)[0], float(process.marginal(T)[1])


def check_mean(values, truth):
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values)), (values.mean(), truth)


@each_process
def test_an_affine_score_on_gaussian_data(process):
    """x_t ~ N(α m, S): E|A x + b|² = tr A S Aᵀ + |α A m + b|² and the trace is tr A, so the expected loss is known."""
    alpha, sigma = (float(c) for c in process.marginal(T))
    spread = alpha**2 * COVARIANCE + sigma**2 * np.eye(3)
    square = np.trace(MATRIX @ spread @ MATRIX.T) + np.sum((alpha * MATRIX @ MEAN + OFFSET) ** 2)
    x0 = draw_gaussian(0, 20_000)
    losses = [loss(times.Fixed(T)) for loss in LOSSES]
    for values in jax.jit(lambda denoiser: [loss(denoiser, jax.random.key(1), x0) for loss in losses])(affine(process)):
        check_mean(values, 1 + (square - 2 * sigma * np.trace(MATRIX)) / 3)


@each_process
def test_its_minimum_is_the_maximum_likelihood(process, x64):
    """The best affine score of a sample is that of its own mean and covariance (Hyvärinen 2005, section 3.1).

    The loss is quadratic in an affine model: one step of Newton's from anywhere is at the minimum.
    """
    key, x0 = jax.random.key(2), draw_gaussian(1, 50)
    objective = lambda w: ScoreMatching(times.Fixed(T))(Affine(process, w[:, :3], w[:, 3]), key, x0).mean()
    start = np.column_stack([MATRIX, OFFSET])
    slope, curvature = jax.jit(lambda w: (jax.grad(objective)(w), jax.hessian(objective)(w)))(start)
    best = start - np.linalg.solve(curvature.reshape(12, 12), slope.ravel()).reshape(3, 4)
    x, sigma = noised(process, key, x0)
    matrix = sigma * np.linalg.inv(np.cov(np.asarray(x).T, bias=True))
    np.testing.assert_allclose(best, np.column_stack([matrix, -matrix @ x.mean(0)]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", few(PROCESSES, "VP"))
def test_it_is_denoising_in_expectation(process):
    """For any denoiser, over all t and from the same draws, the mean of the difference is zero."""
    network, params = initialize(jax.random.key(0), lambda rngs: MLP(2, (16,), rngs=rngs))
    params = jax.tree.map(lambda p: p + 0.5 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    x0, key, draws = jnp.asarray(draw_mixture(0, 20_000), float), jax.random.key(3), times.LogNormal()
    for name, weighting in (("edm", weightings.MinSNR(math.inf)), ("noise", weightings.Simple())):
        denoiser = jd.Denoiser(network, params, process, name)
        losses = [loss(draws) for loss in LOSSES[: None if name == "edm" else 1]]

        @jax.jit
        def values(denoiser, losses=(Denoising(weighting, draws), *losses)):
            return [loss(denoiser, key, x0) for loss in losses]

        denoising, *matching = values(denoiser)
        for found in matching:
            check_mean(found - denoising, 0.0)


def test_projections_have_the_variance_of_quadratic_forms(x64):
    """Around the exact trace, at the same x_t: 2 Σ S² (Gaussian) or the same without the diagonal (Rademacher)."""
    process, key, x0 = jd.VP(), jax.random.key(5), draw_gaussian(2, 20_000)
    exact = ScoreMatching(times.Fixed(T))(affine(process), key, x0)
    x, sigma = noised(process, key, x0)
    noise = np.asarray(x) @ MATRIX.T + OFFSET
    trace = -sigma * (MATRIX + MATRIX.T)
    outer = noise[:, :, None] * noise[:, None]
    for reduced, form in ((True, 0 * outer + trace), (False, outer + trace)):
        off_diagonal = form * (1 - np.eye(3))
        for directions, counted in (("gaussian", form), ("rademacher", off_diagonal)):
            for k in (1, 4):
                sliced = SlicedScoreMatching(times.Fixed(T), reduced, k, directions)(affine(process), key, x0)
                residual = np.asarray(sliced - exact)
                check_mean(residual, 0.0)
                check_mean(residual**2 - 2 * np.sum(counted**2, (1, 2)) / 9 / k, 0.0)


def test_near_the_data_its_variance_vanishes_and_that_of_denoising_does_not():
    """The exact score of N(0, 1) under VE: ε̂ = σ x/(1 + σ²), so with k = σ²/(1 + σ²) and χ² of one degree the loss is
    1 + k (χ² - 2), of variance 2k², where that of denoising is χ²/(1 + σ²)."""
    process, t = jd.VE(), 0.1
    sigma = float(process.marginal(t)[1])
    denoiser, k = jd.exact.Gaussian(process, np.zeros(1), np.eye(1)), sigma**2 / (1 + sigma**2)
    x0 = jax.random.normal(jax.random.key(7), (20_000, 1))
    losses = ScoreMatching(times.Fixed(t)), Denoising(weightings.MinSNR(math.inf), times.Fixed(t))
    values, denoising = jax.jit(lambda x0: [loss(denoiser, jax.random.key(8), x0) for loss in losses])(x0)
    values = np.asarray(values, np.float64)
    check_mean(values, 1 - k)
    check_mean((values - (1 - k)) ** 2, 2 * k**2)
    check_mean(denoising, 1 / (1 + sigma**2))
    check_mean((denoising - 1 / (1 + sigma**2)) ** 2, 2 / (1 + sigma**2) ** 2)


@pytest.mark.slow
def test_a_network_learns_a_mixtures_score_by_slices():
    """At three noise levels E|s - exact|² is below 5 % of E|exact|², after 1,000 steps without a target."""
    process = jd.VE(0.1, 3.0)
    network, params = initialize(jax.random.key(9), lambda rngs: MLP(2, (64, 64), rngs=rngs))
    denoiser = jd.Denoiser(network, params, process, "edm", data_std=1.0)
    loss, optimizer = SlicedScoreMatching(), optax.adam(optax.cosine_decay_schedule(5e-3, 1000))
    data = jnp.asarray(draw_mixture(3, 1000 * 128).reshape(1000, 128, 2), jnp.float32)

    @jax.jit
    def fit(params):
        def update(carry, inputs):
            params, state = carry
            objective = lambda p: loss(dataclasses.replace(denoiser, params=p), *inputs).mean()
            updates, state = optimizer.update(jax.grad(objective)(params), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(10), 1000)
        return jax.lax.scan(update, (params, optimizer.init(params)), (keys, data))[0][0]

    fitted, exact = dataclasses.replace(denoiser, params=fit(params)), mixture(process)
    for t in (0.2, 0.5, 0.8):
        x, _ = jd.perturb(jax.random.key(11), process, jnp.asarray(draw_mixture(4, 4000), jnp.float32), t)
        truth = jd.score(exact, x, t)
        assert jnp.sum((jd.score(fitted, x, t) - truth) ** 2) < 0.05 * jnp.sum(truth**2), t


def test_new_numbers_compile_nothing():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(loss, denoiser, key, x0):
        return loss(denoiser, key, x0)

    for t in (0.2, 0.4):
        run(SlicedScoreMatching(times.Fixed(t)), affine(jd.VP(t)), jax.random.key(0), jnp.zeros((2, 3)))


def test_settings_that_make_no_sense_integer_data_and_a_nan_are_refused():
    with pytest.raises(ValueError, match="projections = 0; expected at least one"):
        SlicedScoreMatching(projections=0)
    with pytest.raises(ValueError, match="directions = 'sphere'; expected \"rademacher\""):
        SlicedScoreMatching(directions="sphere")
    with pytest.raises(ValueError, match=r"t = 1.5 is outside \[0, 1\]"):
        times.Fixed(1.5)
    for loss in (ScoreMatching(), SlicedScoreMatching()):
        with pytest.raises(TypeError, match="uint8"):
            loss(affine(jd.VP()), jax.random.key(0), np.zeros((2, 3), np.uint8))
        with pytest.raises(ValueError, match=r"x0\[1\] holds a NaN"):
            loss(affine(jd.VP()), jax.random.key(0), np.array([[0.0] * 3, [np.nan] * 3]))
