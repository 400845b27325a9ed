"""Absorbing against enumeration: all tables, all masks, all ways of a small joint of tokens."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few, few_names
from tokens import MASK, SCHEDULES, TABLE, K, N, Squared, conditionals, data, entropy, network, tokens

import jaxdiff as jd
from jaxdiff.losses import Denoising, times, weightings
from jaxdiff.samplers import example_keys

KEY = jax.random.key(0)
PATTERNS = list(itertools.product([False, True], repeat=N))  # which tokens are masked
STATES = np.array(list(itertools.product(range(K + 1), repeat=N)))
schedules = pytest.mark.parametrize("process", few(SCHEDULES, "squared"))


def masked_entropy(masked):
    """Σ over masked tokens of H(token | tokens that are seen), by the table."""
    return sum(entropy(TABLE, [i], [j for j in range(N) if not masked[j]]) for i in range(N) if masked[i])


def mean_cost(sigma):
    """E Σ_masked H(token | seen) where each token is masked with probability sigma."""
    chance = lambda masked: sigma ** sum(masked) * (1 - sigma) ** (N - sum(masked))
    return sum(chance(masked) * masked_entropy(masked) for masked in PATTERNS)


def riemann(sigmas):
    """The bound over masking probabilities that rise from 0: each step shows a share of the masks, the last all."""
    steps = zip(sigmas[1:], sigmas)
    return sum((high - low) / high * mean_cost(high) for high, low in steps)


def law(samples, base=K):
    counts = np.bincount(np.ravel_multi_index(np.asarray(samples).T, (base,) * N), minlength=base**N)
    return counts / len(samples)


def assert_law(samples, expected, base=K):
    """Every frequency within 4 standard errors of its probability."""
    expected = np.ravel(expected)
    error = np.sqrt(expected * (1 - expected) / len(samples))
    np.testing.assert_array_less(np.abs(law(samples, base) - expected), 4 * error + 1e-12)


def noised(table, sigma):
    """q(x_t) over all states, the last value of each axis the mask."""
    result = np.zeros((K + 1,) * N)
    for x0 in np.ndindex(table.shape):
        for masked in PATTERNS:
            state = tuple(MASK if hidden else value for value, hidden in zip(x0, masked))
            result[state] += table[x0] * sigma ** sum(masked) * (1 - sigma) ** (N - sum(masked))
    return result


def stepped(law, high, low):
    """The law of states after a step of the masking probability from high to low, each token shown on its own."""
    shown, after = (high - low) / high, np.zeros_like(law)
    hidden, p = STATES == MASK, np.exp(conditionals(STATES))
    step = np.zeros((*STATES.shape, K + 1))
    step[hidden] = np.concatenate([shown * p[hidden], np.full((hidden.sum(), 1), 1 - shown)], -1)
    step[~hidden] = np.eye(K + 1)[STATES[~hidden]]
    for x, each in zip(STATES, step):
        after += law[tuple(x)] * math.prod(np.ix_(*each))
    return after


@schedules
def test_noised_tokens_follow_their_law(process):
    n, t = 20_000, 0.6
    sigma = 1 - float(process.alpha(t))
    x, _ = jd.perturb(KEY, process, data(n), t)
    assert x.dtype == jnp.int32
    assert_law(x, noised(TABLE, sigma), K + 1)


@schedules
def test_a_step_back_is_bayes_rule(process):
    """From all masks at t, by the truth: each token is shown with q(x_s = x_0, x_t = mask)/q(x_t = mask)."""
    n, t, s = 20_000, 0.7, 0.4
    alpha_s, alpha_t = (float(process.alpha(time)) for time in (s, t))
    to_mask = 1 - alpha_t / alpha_s  # of what is seen at s
    shown = alpha_s * to_mask / (alpha_s * to_mask + (1 - alpha_s))
    x0 = np.broadcast_to(np.array([1, 2, 0])[:N], (n, N))
    truth = process.perturb(example_keys(KEY, n), x0, jnp.ones(n))[1]
    x = jnp.asarray(x0).at[:, 0].set(MASK)
    back = np.asarray(process.reverse(example_keys(KEY, n), truth, x, t, s))
    np.testing.assert_array_equal(back[:, 1:], x0[:, 1:], err_msg="what is seen stays")
    assert set(np.unique(back[:, 0])) == {1, MASK}
    assert np.mean(back[:, 0] == 1) == pytest.approx(shown, abs=4 * math.sqrt(shown * (1 - shown) / n))


@schedules
def test_the_cost_of_a_step_is_its_divergence(process):
    """KL between the two laws of x_s over all K + 1 values of a token, summed; the error is its limit over the rate."""
    x = STATES[(STATES == MASK).any(1)]
    x0 = np.where(x == MASK, np.arange(N) % K, x)
    prediction, cost = jax.jit(lambda model: model(x, 0.7))(tokens(process)), jax.jit(process.kl)
    p = np.exp(conditionals(x))  # [b, N, K], by the table
    truth = process.perturb(example_keys(KEY, len(x)), jnp.asarray(x0), jnp.ones(len(x)))[1]
    for t, s in ((0.7, 0.4), (0.7, 0.0), (1.0, 0.5), (0.7, 0.7)):
        alpha_s, alpha_t = (float(process.alpha(time)) for time in (s, t))
        shown = (alpha_s - alpha_t) / (1 - alpha_t)
        expected = np.zeros(x.shape)
        for at in np.ndindex(x.shape):
            if x[at] == MASK:
                ours = np.append(shown * p[at], 1 - shown)
                right = np.append(shown * np.eye(K)[x0[at]], 1 - shown)
                there = right > 0
                expected[at] = np.sum(right[there] * np.log(right[there] / ours[there]))
        np.testing.assert_allclose(cost(prediction, truth, x, t, s), expected, rtol=1e-4, atol=1e-6)
    expected = np.where(x == MASK, -np.log(np.take_along_axis(p, x0[..., None], -1)[..., 0]), 0.0)
    np.testing.assert_allclose(process.error(prediction, truth, x, 0.7), expected, rtol=1e-4, atol=1e-6)


def test_logits_are_read_with_what_is_seen():
    """Of every state the conditionals of the table; a token that is seen is itself, whatever the logits."""
    prediction = tokens(jd.Absorbing(K))(STATES, 0.5)
    p = np.exp(prediction.log_probabilities())
    np.testing.assert_allclose(p, np.exp(conditionals(STATES)), rtol=1e-4, atol=1e-6)
    seen = STATES != MASK
    np.testing.assert_array_equal(p[seen], np.eye(K)[STATES[seen]])


@pytest.mark.parametrize("process", few(SCHEDULES, "linear"))
def test_the_loss_is_the_term_of_diffusion(process):
    """Its mean is the integral of the rate times the mean cost, here by a fine midpoint sum over sigma."""
    n, t_min = 20_000, 0.01
    low = 1 - float(process.alpha(t_min))
    middle = low + (1 - low) * (np.arange(500) + 0.5) / 500
    expected = (1 - low) * np.mean([mean_cost(sigma) / sigma for sigma in middle])
    for law, length in ((times.Importance(t_min), 1), (times.Stratified(t_min), 1 - t_min)):
        loss = jax.jit(Denoising(weightings.Likelihood(), law))(tokens(process), KEY, data(n))
        found = length * N * np.asarray(loss, np.float64)
        assert found.mean() == pytest.approx(expected, abs=4 * found.std() / math.sqrt(n))


@schedules
def test_ancestral_samples_follow_their_enumerated_law(process):
    """Two steps, then the answer: all ways from all masks, each token shown on its own."""
    n, grid = 10_000, np.array([1.0, 0.55, 0.2])
    draw = lambda grid: jd.sample(KEY, tokens(process), (n, N), jd.samplers.Ancestral(), 3, grid=grid)
    now = np.zeros((K + 1,) * N)
    now[(MASK,) * N] = 1.0
    for high, low in itertools.pairwise(1 - np.asarray(process.alpha(grid), np.float64)):
        now = stepped(now, high, low)
    assert_law(draw(grid), now, K + 1)
    even = 1 - np.asarray(process.alpha(np.arange(3) / 3), np.float64)
    now = np.zeros_like(now)
    now[(MASK,) * N] = 1.0
    for high, low in itertools.pairwise([1.0, *even[::-1]]):
        now = stepped(now, high, low)
    expected = now[(slice(K),) * N]
    assert expected.sum() == pytest.approx(1.0)
    assert np.abs(expected - TABLE).max() > 0.01, "few steps are not the data"
    assert_law(draw(jd.grids.Time()), expected)


@schedules
@pytest.mark.parametrize("steps", few_names([4, 32], 4))
def test_the_bound_in_steps_is_a_riemann_sum(process, steps):
    n = 20_000
    sigmas = 1 - np.asarray(process.alpha(jnp.arange(steps + 1) / steps), np.float64)
    expected, least = riemann(sigmas), entropy(TABLE, range(N), [])
    found = jd.variational_bound(KEY, tokens(process), data(n), steps, batch_size=n)
    scale = N * math.log(2)
    assert expected > least + (0.05 if steps == 4 else 0.0)
    assert scale * found.bits_per_dim == pytest.approx(expected, abs=4 * scale * found.standard_error)
    assert scale * found.standard_error < 0.01
    np.testing.assert_array_equal(found.prior, 0.0)


@pytest.mark.parametrize("process", few(SCHEDULES, "linear"))
def test_the_bound_in_continuous_time_is_the_entropy(process):
    n = 5000
    found = jd.continuous_bound(KEY, tokens(process), data(n), 16, batch_size=n)
    scale, expected = N * math.log(2), entropy(TABLE, range(N), [])
    assert scale * found.bits_per_dim == pytest.approx(expected, abs=4 * scale * found.standard_error)
    assert scale * found.standard_error < 0.02
    assert found.transitions.shape == (n, 16)


@schedules
def test_curves_follow_from_alpha(process):
    t = np.linspace(0.0, 1.0, 21)
    alpha = (1 - t) ** (2 if isinstance(process, Squared) else 1)

    @jax.jit
    def curves(process, t, log_share):
        there_and_back = process.time_at_log_share(log_share), process.time_at_log_snr(process.log_snr(t))
        return process.sigma(t), process.rate(t), *there_and_back, process.angle(t), process.c_noise(t)

    sigma, rate, of_share, of_log_snr, angle, c_noise = curves(process, t, np.log(1 - alpha[1:]))
    np.testing.assert_allclose(sigma, 1 - alpha, rtol=1e-5, atol=1e-7)
    slope = 2 * (1 - t) if isinstance(process, Squared) else np.ones_like(t)
    np.testing.assert_allclose(rate[1:], (slope / np.maximum(1 - alpha, 1e-9))[1:], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(of_share, t[1:], rtol=2e-4)
    np.testing.assert_allclose(of_log_snr, t, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(angle, np.arctan2(1 - alpha, alpha), rtol=1e-5, atol=1e-6)
    assert np.isfinite(c_noise).all()
    process.check_curves()


def uniform_network(params, x, c_noise, cond):
    return jnp.broadcast_to(params, (*x.shape, len(params)))


def test_256_categories_of_uint8_have_a_mask_of_their_own():
    process = jd.Absorbing(256)
    x0 = np.arange(256, dtype=np.uint8)
    x, truth = jd.perturb(KEY, process, x0, 1.0)
    np.testing.assert_array_equal(x, 256)
    np.testing.assert_array_equal(truth.data, np.arange(256))
    denoiser = jd.Denoiser(uniform_network, np.zeros(256, np.float32), process)
    found = jd.variational_bound(KEY, denoiser, x0, 5)
    assert found.bits_per_dim == pytest.approx(8, abs=6 * found.standard_error), "log2 of 256 even categories"


@pytest.mark.slow
def test_an_event_may_be_a_single_category():
    logits = np.log([0.5, 0.3, 0.2]).astype(np.float32)
    denoiser = jd.Denoiser(uniform_network, logits, jd.Absorbing(3))
    n = 5000
    x = jd.sample(KEY, denoiser, (n,), jd.samplers.Ancestral(), 3)
    assert x.shape == (n,)
    assert x.dtype == jnp.int32
    p = np.exp(logits)
    np.testing.assert_array_less(np.abs(np.bincount(x, minlength=3) / n - p), 4 * np.sqrt(p * (1 - p) / n))
    found = jd.continuous_bound(KEY, denoiser, np.array([0, 1, 2]), 4096)
    np.testing.assert_allclose(found.per_example, -np.log2(p), rtol=4 / 64)
    assert Denoising()(denoiser, KEY, np.array([0, 1, 2])).shape == (3,)


def test_what_is_seen_at_the_start_stays():
    """Infilling: the rest follows the table's law given what is seen."""
    n = 4000
    start = np.full((n, N), MASK)
    start[:, 0] = 2
    path = jd.sample(KEY, tokens(), (n, N), jd.samplers.Ancestral(), 16, x_start=start, trajectory=True)
    assert (np.asarray(path)[:, :, 0] == 2).all()
    expected = np.zeros_like(TABLE)
    expected[2] = TABLE[2] / TABLE[2].sum()
    assert_law(path[-1], expected)


def test_a_sample_depends_on_its_key_and_index_alone(tmp_path):
    draw = lambda key, n: np.asarray(jd.sample(key, tokens(), (n, N), jd.samplers.Ancestral(), 4))
    whole = draw(KEY, 12)
    np.testing.assert_array_equal(draw(KEY, 5), whole[:5])
    np.testing.assert_array_equal(draw(example_keys(KEY, 12)[3:8], 5), whole[3:8])
    kept = lambda n: jd.samplers.draw(KEY, tokens(), (n, N), 5, sampler=jd.samplers.Ancestral(), steps=4, keep=tmp_path)
    np.testing.assert_array_equal(kept(7), whole[:7])
    np.testing.assert_array_equal(kept(12), whole)
    keys = jax.random.split(KEY, 3)
    sample = lambda key: jd.sample(key, tokens(), (5, N), jd.samplers.Ancestral(), 4)
    np.testing.assert_array_equal(jax.jit(jax.vmap(sample))(keys), [draw(key, 5) for key in keys])


@pytest.mark.parametrize("weighting", [weightings.Simple(), weightings.Likelihood(), weightings.Sigmoid()])
def test_gradients_of_a_loss_are_finite(weighting):
    """What is seen has evidence -inf, which no gradient may meet; with NaNs looked for where they arise."""
    with jax.debug_nans(True):
        mean = lambda denoiser: Denoising(weighting)(denoiser, KEY, data(64)).mean()
        gradient = jax.jit(jax.grad(mean))(tokens()).params
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_gradients_are_those_of_finite_differences():
    """To the logits of one token, of a loss with x_t held: softmax minus truth, by hand."""
    process, logits = jd.Absorbing(3), np.array([0.3, -0.2, 0.5], np.float32)
    x0 = np.full(4000, 1)
    model = lambda params: jd.Denoiser(uniform_network, params, process)
    loss = jax.jit(lambda params: Denoising(times=times.Fixed(0.5))(model(params), KEY, x0))
    gradient = jax.jit(jax.grad(lambda params: loss(params).mean()))(logits)
    p = np.exp(logits) / np.exp(logits).sum()
    share = np.mean(np.asarray(loss(logits)) > 0)  # of masks
    np.testing.assert_allclose(gradient, share * (p - np.eye(3)[1]), rtol=1e-3)
    assert share == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 4000))


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Leftover(jd.Absorbing):
    def alpha(self, t):
        return 1 - 0.999 * t


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Lossy(jd.Absorbing):
    def alpha(self, t):
        return 0.9 * (1 - t)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Odd(jd.Absorbing):
    """Whose probabilities do not sum to 1."""

    def sigma(self, t):
        return t**2


ANCESTRAL = jd.samplers.Ancestral()
BAD_DATA = {
    "floats": (np.zeros((2, N)), TypeError, "x0 has dtype float64; expected integer categories 0 to 2"),
    "beyond": (np.array([[0, 1], [3, 0]]), ValueError, r"x0\[1, 0\] = 3 is out of range; expected 0 to 2"),
    "negative": (np.array([[0, -1]]), ValueError, r"x0\[0, 1\] = -1"),
    "empty": (np.zeros((0, N), int), ValueError, r"x0 has shape \(0, 2\)"),
}


@pytest.mark.parametrize(("x0", "error", "message"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_what_is_no_category_is_refused(x0, error, message):
    with pytest.raises(error, match=message):
        Denoising()(tokens(), KEY, x0)
    with pytest.raises(error, match=message):
        jd.perturb(KEY, jd.Absorbing(K), x0, 0.5)
    with pytest.raises(error, match=message.replace("x0", "data")):
        jd.variational_bound(KEY, tokens(), x0, 4)


def test_categories_that_do_not_exist_cost_nan_where_they_cannot_be_seen():
    loss = jax.jit(Denoising(times=times.Fixed(0.01)))(tokens(), KEY, np.array([[0, 1], [0, MASK], [-1, 0], [7, 1]]))
    np.testing.assert_array_equal(np.isnan(loss), [False, True, True, True])


def draw(process=jd.Absorbing(K), **settings):
    return jd.sample(KEY, tokens(process), (4, N), **{"sampler": ANCESTRAL, "steps": 3, **settings})


X0 = np.zeros((4, N), int)
WORDS = {
    "one category": (lambda: jd.Absorbing(1), ValueError, "categories = 1; expected at least two"),
    "half a category": (lambda: jd.Absorbing(2.5), TypeError, "categories = 2.5"),
    "data left": (lambda: draw(Leftover(K)), ValueError, r"Leftover: alpha\(1\) = 0.00\d*; expected exactly 0"),
    "data lost": (lambda: draw(Lossy(K)), ValueError, r"Lossy: alpha\(0\) = 0.\d*; expected 1"),
    "odd": (lambda: draw(Odd(K)), ValueError, r"Odd.*sigma.*expected 1 - alpha"),
    "bound": (lambda: jd.continuous_bound(KEY, tokens(Leftover(K)), X0), ValueError, r"alpha\(1\) = 0.00"),
    "loss": (lambda: Denoising()(tokens(Leftover(K)), KEY, X0), ValueError, r"alpha\(1\) = 0.00"),
    "data_std": (lambda: jd.Denoiser(network, None, jd.Absorbing(K), data_std=0.5), ValueError, "data_std = 0.5"),
    "row": (lambda: jd.Denoiser(network, None, jd.Absorbing(K), "v"), ValueError, "parameterization = .*leave_one_out"),
    "variance": (
        lambda: jd.Denoiser(network, None, jd.Absorbing(K), learned_variance=True),
        ValueError,
        "learned_variance",
    ),
    "large variance": (lambda: draw(sampler=jd.samplers.Ancestral("large")), ValueError, 'variance = "large".*small'),
    "width": (
        lambda: jd.Denoiser(uniform_network, np.zeros(K + 1), jd.Absorbing(K))(X0, 0.5),
        ValueError,
        r"network.*\(4, 2, 4\).*\(4, 2, 3\).*none for the mask",
    ),
    "levels": (lambda: jd.variational_bound(KEY, tokens(), X0, 4, levels=3), ValueError, "levels = 3"),
    "bound of floats": (lambda: jd.continuous_bound(KEY, tokens(), X0 + 0.5), TypeError, "data.*float.*categories"),
    "shape": (lambda: jd.sample(KEY, tokens(), (), ANCESTRAL), ValueError, "shape"),
    "start": (lambda: draw(x_start=np.full((4, N), MASK + 1)), ValueError, r"x_start\[0, 0\] = 4.*0 to 3"),
    "start of floats": (lambda: draw(x_start=np.zeros((4, N))), TypeError, "x_start.*float.*categories"),
    "start of another shape": (lambda: draw(x_start=np.zeros((4, N + 1), int)), ValueError, r"x_start has shape"),
    "default sampler": (lambda: jd.sample(KEY, tokens(), (4, N)), TypeError, "DPMSolverPP.*Absorbing.*Ancestral"),
    "score": (lambda: jd.score(tokens(), X0, 0.5), TypeError, "numbers.*Absorbing"),
    "encode": (lambda: jd.encode(tokens(), X0), TypeError, "numbers.*Absorbing"),
    "decode": (lambda: jd.decode(tokens(), X0), TypeError, "numbers.*Absorbing"),
    "invert": (lambda: jd.invert(tokens(), X0), TypeError, "numbers.*Absorbing"),
    "log_likelihood": (lambda: jd.log_likelihood(KEY, tokens(), X0), TypeError, "numbers.*Absorbing.*bound"),
    "bits_per_dim": (lambda: jd.bits_per_dim(KEY, tokens(), X0), TypeError, "numbers.*Absorbing.*bound"),
    "FlowMatching": (
        lambda: jd.losses.FlowMatching()(tokens(), KEY, X0),
        TypeError,
        "FlowMatching.*Absorbing.*Denoising",
    ),
    "ScoreMatching": (
        lambda: jd.losses.ScoreMatching()(tokens(), KEY, X0),
        TypeError,
        "ScoreMatching.*Absorbing.*Denoising",
    ),
    "Hybrid": (lambda: jd.losses.Hybrid()(tokens(), KEY, X0), TypeError, "Hybrid.*Absorbing.*Denoising"),
    "MinSNR": (lambda: Denoising(weightings.MinSNR())(tokens(), KEY, X0), TypeError, "MinSNR.*Absorbing.*Likelihood"),
    "EDM": (lambda: Denoising(weightings.EDM())(tokens(), KEY, X0), TypeError, "EDM.*Absorbing.*Likelihood"),
    "OnProcess": (lambda: jd.OnProcess(tokens(), jd.VP()), TypeError, "OnProcess.*Absorbing"),
    "mixture": (
        lambda: jd.exact.Mixture(jd.Absorbing(K), np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1))),
        TypeError,
        "mixture.*Absorbing",
    ),
    "Classifier": (
        lambda: jd.guidance.Classifier(tokens(), lambda x, t, cond: x.sum(1)),
        TypeError,
        "Classifier.*Absorbing.*ClassifierFree",
    ),
    "ClassifierFreePP": (lambda: jd.guidance.ClassifierFreePP(tokens()), TypeError, "Absorbing.*ClassifierFree"),
    "threshold": (lambda: jd.guidance.DynamicThreshold(tokens()), TypeError, "DynamicThreshold.*Absorbing"),
    "sde": (lambda: jd.forward_sde(jd.Absorbing(K), 0.5), TypeError, "SDE.*Absorbing"),
}


@pytest.mark.parametrize(("call", "error", "message"), WORDS.values(), ids=WORDS.keys())
def test_what_does_not_fit_is_refused_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "sampler",
    [
        jd.samplers.DDIM(),
        jd.samplers.UniPC(),
        jd.samplers.Heun(),
        jd.samplers.ReverseSDE(),
        jd.samplers.EulerMaruyama(),
        jd.samplers.AnnealedLangevin(),
        jd.samplers.ProbabilityFlow(),
        jd.samplers.PredictorCorrector(ANCESTRAL),
        jd.samplers.Switch(ANCESTRAL, jd.samplers.Heun(), 0.5),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers_of_numbers_say_what_to_take(sampler):
    with pytest.raises(TypeError, match=r"numbers.*not Absorbing; take Ancestral\(\)"):
        draw(sampler=sampler)


def test_guidance_of_tokens_acts_on_their_logits():
    """Of a product of two models: p_free^(1 - s) p^s, normalised, and what is seen stays what it is."""

    def guided(params, x, c_noise, cond):
        out = network(params, x, c_noise, None)
        return out if cond is None else out + cond[:, None, None] * jnp.arange(K)

    denoiser = jd.Denoiser(guided, np.log(TABLE).astype(np.float32), jd.Absorbing(K))
    cond, scale = np.full(len(STATES), 0.7, np.float32), 2.5
    found = np.exp(jd.guidance.ClassifierFree(denoiser, scale)(STATES, 0.5, cond).log_probabilities())
    free, given = (np.exp(denoiser(STATES, 0.5, c).log_probabilities()) for c in (None, cond))
    hidden = STATES == MASK
    expected = free[hidden] ** (1 - scale) * given[hidden] ** scale
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(found[hidden], expected, rtol=1e-4)
    np.testing.assert_array_equal(found[~hidden], np.eye(K)[STATES[~hidden]])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_categories_that_cannot_be_stay_so_under_guidance(scale):
    never = jd.Categorical(jnp.array([[0.3, -jnp.inf, 0.1], [-jnp.inf, 0.2, 0.5]]))
    better = jd.Categorical(jnp.array([[0.9, -jnp.inf, 0.4], [-jnp.inf, 0.1, 0.5]]))
    found = np.exp(never.extrapolated([better], [scale]).log_probabilities())
    finite = np.array([[0.3, 0.1], [0.2, 0.5]]) * (1 - scale) + np.array([[0.9, 0.4], [0.1, 0.5]]) * scale
    np.testing.assert_allclose(found[[0, 1], [1, 0]], 0.0)
    expected = np.exp(finite) / np.exp(finite).sum(1, keepdims=True)
    np.testing.assert_allclose([found[0, [0, 2]], found[1, [1, 2]]], expected, rtol=1e-5)
    other = jd.Categorical(jnp.array([[-jnp.inf, 0.2, 0.5]]))
    for end, kept in ((0.0, never), (1.0, other)):
        np.testing.assert_array_equal(never.extrapolated([other], [end]).logits[0], kept.logits[0])


def test_a_schedule_that_starts_flat_costs_nothing_where_float32_masks_nothing():
    """1 - t² is 1 in float32 below t = 0.0002: no mask, no error; above, its rate is 2/t."""

    class Flat(jd.Absorbing):
        def alpha(self, t):
            return 1 - t**2

    model = tokens(jd.pytree(dataclasses.dataclass(frozen=True)(Flat))(K))
    np.testing.assert_allclose(model.process.rate(jnp.array([0.0, 1e-5, 0.1, 1.0])), [0, 0, 20, 2], rtol=1e-5)
    loss = lambda model: Denoising(weightings.Likelihood(), times.Fixed(1e-5))(model, KEY, data(8)).sum()
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), jax.jit(jax.value_and_grad(loss))(model))
    with pytest.raises(ValueError, match="t_min = 1e-05: Flat has no noise left there.* such as t_min = 0.001"):
        Denoising(weightings.Likelihood(), times.Importance())(model, KEY, data(8))
