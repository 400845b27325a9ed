import dataclasses

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import optax
import pytest
import test_processes as common
from scipy import integrate

import jaxdiff as jd
from jaxdiff.losses import Denoising, times, weightings

WAVY = np.array([0.7, -1.2, 0.3, 1.1, -0.4])
LOSS = Denoising(weightings.Likelihood(), times.Stratified(t_min=0.0))


def by_hand(t, logits, high=mp.mpf("13.3"), low=mp.mpf(-5)):
    """λ(t): the integral of the line through exp(logits), divided by its total, to fifty digits."""
    heights = [mp.exp(mp.mpf(float(u))) for u in logits]
    parts = len(heights) - 1

    def area(t):
        total = mp.mpf(0)
        for k in range(parts):
            d = min(max(t * parts - k, 0), 1)
            total += heights[k] * d + (heights[k + 1] - heights[k]) * d**2 / 2
        return total

    return high + (low - high) * area(t) / area(mp.mpf(1))


@pytest.mark.parametrize("logits", [np.zeros(33), WAVY], ids=["straight", "wavy"])
def test_curves_are_exact_in_float32(logits):
    t = np.array([*common.ENDS, 0.25, 0.49], np.float32)
    with mp.workdps(50):
        truth = [by_hand(mp.mpf(float(u)), logits) for u in t]
        alpha, sigma = (np.array([mp.sqrt(1 / (1 + mp.exp(s * u))) for u in truth], float) for s in (-1, 1))
    process, eps = jd.LearnedVP(logits=logits), np.finfo(np.float32).eps
    np.testing.assert_allclose(process.log_snr(t), np.array(truth, float), rtol=4 * eps, atol=40 * eps)
    np.testing.assert_allclose(process.marginal(t)[0], alpha, rtol=20 * eps)
    np.testing.assert_allclose(process.marginal(t)[1], sigma, rtol=20 * eps)


def test_ends_are_kept_and_the_path_falls():
    t = jnp.linspace(0.0, 1.0, 2000)
    curve = jax.jit(lambda process: process.log_snr(t))
    for seed in range(5):
        logits = 2 * jax.random.normal(jax.random.key(seed), (33,))
        process = jd.LearnedVP(8.1, -3.3, logits)
        log_snr = curve(process)
        np.testing.assert_array_equal(log_snr[jnp.array([0, -1])], np.array([8.1, -3.3], np.float32))
        np.testing.assert_array_equal(process.time_at_log_snr(jnp.array([8.1, 20.0, -3.3, -20.0])), [0, 0, 1, 1])
        assert (jnp.diff(log_snr) <= 0).all()


@pytest.mark.slow
def test_it_is_a_process(x64):
    """What holds for every process: its maps, its SDE beside its curves, its conditionals."""
    process = jd.LearnedVP(logits=WAVY)
    common.test_maps_between_t_angle_and_log_snr(process)
    common.test_sde_is_the_derivative_of_the_curves(process, x64)
    common.test_posterior_is_bayes_rule(process, x64)


def gaussian(logits, high=6.0, low=-3.0):
    """Data N(0, 1) under VP: at signal-to-noise S the error of x_0 has the variance 1/(1 + S)."""
    return jd.exact.Gaussian(jd.LearnedVP(high, low, logits), np.zeros(1), np.eye(1))


def softplus(x):
    return np.logaddexp(0, x)


def test_the_mean_of_the_loss_knows_only_the_ends():
    """∫ 1/2 S/(1 + S) dλ = (log(1 + S_0) - log(1 + S_1))/2 (Guo et al. 2005), by quadrature over t and by draws."""
    truth = (softplus(6.0) - softplus(-3.0)) / 2
    t = jnp.linspace(0.0, 1.0, 4 * 64 + 1)  # Simpson's rule, its panels within the parts of the schedule
    n = 20_000
    x0 = jax.random.normal(jax.random.key(0), (n, 1))
    loss, weights = jax.jit(LOSS), jax.jit(lambda denoiser: LOSS.weighting(denoiser, t))
    for logits in (np.zeros(5), WAVY):
        denoiser = gaussian(logits)
        weight = weights(denoiser)  # on the error of v, of variance 1 here at every t
        np.testing.assert_allclose(integrate.simpson(weight, x=t), truth, rtol=1e-5)
        values = np.asarray(loss(denoiser, jax.random.key(1), x0))
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(n)


@pytest.mark.slow
def test_the_squared_loss_teaches_the_best_path():
    """The loss at t is -λ' h χ²/2, h = S/(1 + S): its second moment 3/4 ∫ (λ' h)² dt is least, 3 times the squared
    mean, where -λ' h is the same at every t: log(1 + S) falls on a straight line."""
    n, parts = 2048, 32
    truth = (softplus(6.0) - softplus(-3.0)) / 2
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))

    def spread(logits, key):
        data_key, loss_key = jax.random.split(key)
        process = dataclasses.replace(start.process, logits=logits)
        moved = dataclasses.replace(start, process=process)
        return (LOSS(moved, loss_key, jax.random.normal(data_key, (n, 1))) ** 2).mean()

    def step(carry, key):
        logits, state = carry
        updates, state = optimizer.update(jax.grad(spread)(logits, key), state)
        return (optax.apply_updates(logits, updates), state), None

    steep = np.linspace(1.5, -1.5, parts + 1, dtype=np.float32)  # at the wrong end
    start = gaussian(steep)
    keys = jax.random.split(jax.random.key(0), 400)
    (logits, _), _ = jax.jit(lambda *a: jax.lax.scan(step, *a))((steep, optimizer.init(steep)), keys)
    t = jnp.linspace(0.0, 1.0, 8 * parts + 1)

    def second_moment(logits):
        rate = np.asarray(LOSS.weighting(gaussian(logits), t), np.float64)  # -λ' h/2
        return 3 * integrate.simpson(rate**2, x=t)

    least = 3 * truth**2
    assert second_moment(steep) > 2 * least
    assert second_moment(logits) < 1.01 * least
    best = softplus(6.0) + np.asarray(t) * (softplus(-3.0) - softplus(6.0))
    error = softplus(gaussian(logits).process.log_snr(t)) - best
    assert np.abs(error).max() < 0.01 * (best[0] - best[-1])


def test_ends_that_do_not_fall_and_too_few_logits_are_refused():
    for wrong, message in (
        (lambda: jd.LearnedVP(-5.0, 13.3), "log_snr_max = -5.0 is not above log_snr_min = 13.3; swap them"),
        (lambda: jd.LearnedVP(logits=np.zeros((2, 2))), r"logits have shape \(2, 2\); expected \[K \+ 1\]"),
        (lambda: jd.LearnedVP(logits=np.zeros(1)), r"shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
