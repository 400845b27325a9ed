"""Learned reverse variances, from their loss to samples and the bound, on data whose best variances are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff.losses import Hybrid
from jaxdiff.processes import Prediction

MEAN, VARIANCE = 0.1, 0.04
VP = jd.VP()
LEVELS = jd.grids.LogSNR()(VP, 5, 1.0, 0.01)  # six of them


def snr(process, t):
    return np.exp(np.asarray(process.log_snr(t), np.float64))


def best_shares(process, times):
    """Of N(m, c): Var[x_0 | x_t] = c/(1 + c S_t), so that the best variance over β̃ is (1 + c S_s)/(1 + c S_t)."""
    t, s = times[:-1], times[1:]
    ratio = (1 + VARIANCE * snr(process, s)) / (1 + VARIANCE * snr(process, t))
    sigma_t, sigma_s = (np.asarray(process.marginal(u)[1], np.float64) for u in (t, s))
    return np.log(ratio) / (2 * np.log(sigma_t / sigma_s))


@dataclasses.dataclass(frozen=True)
class GaussianNetwork:
    """E[x_0 | x] of N(MEAN, VARIANCE), moved by params["shift"], and a u for each noise level: params["u"]."""

    process: jd.VP

    def __call__(self, params, x, c_noise, cond):
        process = self.process
        alpha, sigma = process.marginal(process.time_at_log_snr(-8 * c_noise))
        x = x * jnp.hypot(alpha * 0.5, sigma)[:, None]
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        out = MEAN + gain[:, None] * (x - alpha[:, None] * MEAN) + params["shift"]
        levels = process.c_noise(LEVELS)
        u = jnp.interp(c_noise, levels[::-1], params["u"][::-1])
        return jnp.concatenate([out, jnp.broadcast_to(u[:, None], out.shape)], -1)


def learned(shares, shift=0.0):
    """A denoiser of `shares` [T] at LEVELS, the last of which no step needs."""
    params = {"shift": jnp.float32(shift), "u": jnp.asarray(2 * shares - 1, jnp.float32)}
    return jd.Denoiser(GaussianNetwork(VP), params, VP, "data", learned_variance=True)


BEST = np.append(best_shares(VP, LEVELS), 0.5)


@pytest.mark.parametrize("process", [jd.VP(), jd.VE(), jd.Flow()], ids=["VP", "VE", "Flow"])
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_kl_is_the_integral(process, variance, x64):
    """∫ q log q/p of two normal densities, theirs by Bayes' rule and by eq. 15 of Nichol and Dhariwal as printed."""
    s, t, x0, noise, guess, share = 0.4, 0.55, 0.3, -0.7, -0.2, 0.3
    (alpha_s, sigma_s), (alpha_t, sigma_t) = ([float(c) for c in process.marginal(u)] for u in (s, t))
    a = alpha_t / alpha_s
    beta = sigma_t**2 - (a * sigma_s) ** 2
    gain = a * sigma_s**2 / sigma_t**2
    small = sigma_s**2 * (1 - gain * a)
    x_t = alpha_t * x0 + sigma_t * noise
    mean = lambda x0: alpha_s * x0 + gain * (x_t - alpha_t * x0)
    v = {"small": 0.0, "large": 1.0, "learned": share}[variance]
    std = np.exp((v * np.log(beta) + (1 - v) * np.log(small)) / 2)
    q, p = norm(mean(x0), np.sqrt(small)), norm(mean(guess), std)
    truth, _ = integrate.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), *q.interval(1 - 1e-14), epsabs=1e-12, epsrel=1e-10
    )
    full = lambda value: jnp.full((1, 1), value)
    prediction = Prediction(full(guess), full((x_t - alpha_t * guess) / sigma_t), full(share))
    got = process.kl(prediction.with_variance(variance), Prediction(full(x0), full(noise)), full(x_t), t, s)
    np.testing.assert_allclose(got, truth, rtol=1e-8)


def test_the_mean_of_the_loss_is_the_closed_form():
    """E|out error|² = c/(1 + c S), and each step back costs (ρ + e^{-ρ} (1 + c S_s)/(1 + c S_t) - 1)/2."""
    n, weight = 60_000, 0.7
    shares = np.array([0.2, 0.9, 0.5, 0.4, 0.1, 0.0])
    x0 = MEAN + np.sqrt(VARIANCE) * jax.random.normal(jax.random.key(0), (n, 1))
    s = snr(VP, LEVELS)
    rho = 2 * shares[:-1] * -np.diff(np.log(np.asarray(VP.marginal(LEVELS)[1])))
    steps = (rho + np.exp(-rho) * (1 + VARIANCE * s[1:]) / (1 + VARIANCE * s[:-1]) - 1) / 2
    truth = np.mean(VARIANCE / (1 + VARIANCE * s)) + weight * steps.sum()
    values = jax.jit(Hybrid(weight, grid=LEVELS).__call__)(learned(shares), jax.random.key(1), x0)
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / np.sqrt(n)


def test_only_the_variance_learns_from_the_bound():
    x0 = jnp.linspace(-0.5, 0.5, 64)[:, None]
    denoiser = learned(BEST, shift=0.1)

    @jax.jit
    def gradient(weight):
        loss = lambda params: Hybrid(weight, grid=LEVELS)(
            dataclasses.replace(denoiser, params=params), jax.random.key(0), x0
        ).mean()
        return jax.grad(loss)(denoiser.params)

    without, with_bound = gradient(0.0), gradient(3.0)
    np.testing.assert_allclose(without["shift"], with_bound["shift"], rtol=1e-6)
    np.testing.assert_array_equal(without["u"], 0)
    assert (with_bound["u"][:-1] != 0).all()
    assert abs(with_bound["u"][-1]) < 1e-5  # the last level has no step of its own


@pytest.mark.slow
def test_training_finds_the_best_variance():
    """On one draw of n examples and noises its minimum is log of the mean of n/T squares, each 1 ± √2."""
    n = 48_000
    x0 = MEAN + np.sqrt(VARIANCE) * jax.random.normal(jax.random.key(2), (n, 1))
    start = learned(np.full(6, 0.5))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 150))

    def step(carry, _):
        params, state = carry
        loss = lambda p: Hybrid(1.0, grid=LEVELS)(dataclasses.replace(start, params=p), jax.random.key(3), x0).mean()
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=150))(start.params)
    ratio = -2 * np.diff(np.log(np.asarray(VP.marginal(LEVELS)[1])))
    error = ((params["u"] + 1) / 2 - BEST)[:-1] * ratio  # of the log of the variance
    assert (np.abs(error) < 4 * np.sqrt(2 * 6 / n)).all()


def test_samples_have_the_datas_variance_in_five_steps():
    """By its own recursion for every variance; of the three only the learned one ends at the variance of the data."""
    n = 40_000
    alpha, sigma = (np.asarray(c, np.float64) for c in VP.marginal(LEVELS))
    truth = alpha[-1] ** 2 * VARIANCE + sigma[-1] ** 2
    for variance in ("small", "large", "learned"):
        spread = 1.0
        for k in range(5):
            a = alpha[k] / alpha[k + 1]
            beta = sigma[k] ** 2 - (a * sigma[k + 1]) ** 2
            slope = a * sigma[k + 1] ** 2 / sigma[k] ** 2
            small = sigma[k + 1] ** 2 * beta / sigma[k] ** 2
            knows = alpha[k] * VARIANCE / (alpha[k] ** 2 * VARIANCE + sigma[k] ** 2)  # d E[x_0 | x]/dx
            pull = alpha[k + 1] * beta / sigma[k] ** 2
            best = small + pull**2 * VARIANCE * sigma[k] ** 2 / (alpha[k] ** 2 * VARIANCE + sigma[k] ** 2)
            spread = (slope + pull * knows) ** 2 * spread + {"small": small, "large": beta, "learned": best}[variance]
        x = jd.sample(jax.random.key(0), learned(BEST), (n, 1), jd.samplers.Ancestral(variance), grid=LEVELS)
        assert abs(float(x.var()) - spread) < 4 * np.sqrt(2 / n) * spread
        assert (abs(spread - truth) < 1e-4 * truth) == (variance == "learned")


def test_the_bound_is_tight_at_any_number_of_levels():
    """With the best variances the model's own joint is the data's: prior and transitions are the information of x_1,
    log(1 + c S_1)/2, and the mismatch of the prior; with another variance they are that and its closed-form excess."""
    n, levels = 20_000, 2**16
    x = MEAN + np.sqrt(VARIANCE) * jax.random.normal(jax.random.key(4), (n, 1))
    images = jd.quantize(x, levels)
    alpha, sigma = (np.asarray(c, np.float64) for c in VP.marginal(LEVELS))
    s = snr(VP, LEVELS)
    end = alpha[0] ** 2 * VARIANCE + sigma[0] ** 2
    mismatch = (end + (alpha[0] * MEAN) ** 2 - 1 - np.log(end)) / 2
    best = np.log((1 + VARIANCE * s[1:]) / (1 + VARIANCE * s[:-1]))
    # the reading of the integers: N(x̂_0, sin² φ) for the posterior of variance c/(1 + c S)
    reading, posterior = np.sin(np.asarray(VP.angle(LEVELS[-1]))) ** 2, VARIANCE / (1 + VARIANCE * s[-1])
    gap = (posterior / reading - 1 - np.log(posterior / reading)) / 2
    entropy = (np.log(2 * np.pi * np.e * VARIANCE)) / 2 - np.log(2 / levels)
    for variance in ("learned", "small"):
        rho = {"learned": best, "small": 0.0}[variance]
        excess = (rho - best + np.expm1(best - rho)).sum() / 2
        bound = jd.variational_bound(
            jax.random.key(5), learned(BEST), images, levels=levels, variance=variance, grid=LEVELS, batch_size=n
        )
        truth = (entropy + mismatch + gap + excess) / np.log(2)
        assert abs(bound.bits_per_dim - truth) < 4 * bound.standard_error
        known = (bound.prior + bound.transitions.sum(1)) * np.log(2)
        inner = np.log(1 + VARIANCE * s[-1]) / 2 - np.log(1 + VARIANCE * s[0]) / 2 + excess
        prior = (alpha[0] ** 2 * (VARIANCE + MEAN**2) + sigma[0] ** 2 - 1 - 2 * np.log(sigma[0])) / 2
        assert abs(known.mean() - inner - prior) < 4 * known.std() / np.sqrt(n)


@pytest.mark.slow
def test_everything_else_takes_a_denoiser_with_a_learned_variance():
    denoiser, plain = learned(BEST), jd.exact.Gaussian(VP, [MEAN], [[VARIANCE]])
    x = jnp.linspace(-1.0, 1.0, 8)[:, None]
    predict = jax.jit(lambda model: (model(x, 0.3), jd.denoisers.angular_velocity(model, x, 0.3)))
    (ours, velocity), (theirs, of_plain) = predict(denoiser), predict(plain)
    assert ours.share.shape == x.shape
    for got, expected in zip(ours, theirs):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(velocity, of_plain, rtol=1e-4, atol=1e-5)
    keys = jd.samplers.example_keys(jax.random.key(0), 8)
    step = jax.jit(lambda model: jd.samplers.DDIM(0.5).step(keys, model, x, 0.3, 0.2, (), None)[0])
    np.testing.assert_allclose(step(denoiser), step(plain), rtol=1e-3, atol=1e-5)
    guided = jd.guidance.ClassifierFree(denoiser, 2.0)  # its two predictions agree
    reverse = jax.jit(lambda model: VP.step_back(model(x, 0.3, 0), x, 0.3, 0.2))
    for one, other in zip(reverse(guided), reverse(denoiser)):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_too_few_levels_and_denoisers_without_a_variance_are_refused():
    plain, key, x = jd.exact.Gaussian(VP, [MEAN], [[VARIANCE]]), jax.random.key(0), jnp.zeros((3, 1))
    echo = jd.Denoiser(lambda params, x, c, cond: x, None, VP, learned_variance=True)
    for call, message in (
        (lambda: Hybrid(steps=1), "steps = 1; expected at least two noise levels"),
        (lambda: Hybrid(steps=3)(plain, key, x), "predicts none; expected a Denoiser.*learned_variance=True"),
        (lambda: Hybrid(grid=LEVELS[::-1])(plain, key, x), "grid must decrease strictly"),
        (lambda: echo(x, 0.5), r"returned shape \(3, 1\) for x of shape \(3, 1\); expected \(3, 2\)"),
        (lambda: jd.sample(key, plain, (3, 1), jd.samplers.Ancestral("learned"), 3), "predicts none"),
        (lambda: Hybrid()(echo, key, x.at[1].set(jnp.nan)), r"x0\[1\] holds a NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
