"""The bound as a loss, by steps, by numbers of masks and in sums, against enumeration of a small joint."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from scipy import integrate
from tokens import TABLE, data, entropy

import jaxdiff as jd
from jaxdiff.losses import (
    AnyOrder,
    Bound,
    BridgeMatching,
    ConditionDropout,
    Denoising,
    Hybrid,
    LeastVariance,
    Steps,
    Sum,
    times,
    weightings,
)

KEY = jax.random.key(0)
K, N = 2, 3
LOGITS = 2 * np.random.default_rng(0).standard_normal((*[K + 1] * N, N, K)).astype(np.float32)  # of any x_t, at any t
X = np.array([[0, 1, 1], [1, 1, 0]])
COUNTED = np.array([[1, 1, 1], [0, 1, 1]])  # of the second example the first value is given


def looked_up(table, x, c_noise, cond):
    """A network that knows nothing, and is not told t."""
    return jnp.asarray(table)[x[:, 0], x[:, 1], x[:, 2]]


DENOISER = jd.Denoiser(looked_up, LOGITS, jd.Absorbing(K))


def costs(x0, hidden):
    """-log p of each value of x0 where those `hidden` are masked, [N]."""
    logits = LOGITS[tuple(np.where(hidden, K, x0))].astype(np.float64)
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(N), x0]


def by_the_chain_rule(x0, order):
    """-log p of the values of `order`, one after another; all others are seen."""
    return sum(costs(x0, np.isin(range(N), order[j:]))[i] for j, i in enumerate(order))


def orders_of(counted):
    return list(itertools.permutations(np.flatnonzero(counted)))


def in_steps(x0, counted, steps):
    """The bound in `steps` by all patterns of masks: a right Riemann sum, whose last step shows all."""
    total, places = 0.0, np.flatnonzero(counted)
    for sigma in np.arange(1, steps + 1) / steps:
        for pattern in itertools.product([False, True], repeat=len(places)):
            hidden = np.isin(range(N), places[list(pattern)])
            chance = sigma ** sum(pattern) * (1 - sigma) ** (len(places) - sum(pattern))
            total += chance / (steps * sigma) * costs(x0, hidden)[hidden].sum()
    return total


BOTH = list(zip(X, COUNTED))
ORDERS = [np.array([by_the_chain_rule(x, order) for order in orders_of(counted)]) for x, counted in BOTH]
EXPECTED = [values.mean() for values in ORDERS]  # nats an example
FOUR_STEPS = [in_steps(*both, 4) for both in BOTH]
LOSSES = {
    "AnyOrder": (AnyOrder(), EXPECTED),
    "Bound": (Bound(times.Importance(1e-3)), EXPECTED),
    "Bound, uniform times": (Bound(times.Stratified(1e-3)), EXPECTED),
    "Steps": (Steps(4), FOUR_STEPS),
    "Sum": (Sum((AnyOrder(), 0.5), (Steps(4), 2.0)), [0.5 * a + 2 * b for a, b in zip(EXPECTED, FOUR_STEPS)]),
}


def test_the_bound_in_steps_tends_to_the_mean_of_the_chain_rule_over_orders():
    """By enumeration alone, so that what the losses are held to is one number."""
    for both, expected in zip(BOTH, EXPECTED):
        error = [in_steps(*both, steps) - expected for steps in (64, 128)]
        assert error[1] == pytest.approx(error[0] / 2, rel=0.05)
    assert np.std(ORDERS[0]) > 0.3  # the order matters


def test_losses_of_the_bound_have_the_expectation_of_enumeration():
    """For a network that is wrong. Below t_min = 0.001 neither law of times pays, 0.001 of a mask's cost at most."""
    n = 4000
    x, weight = np.tile(X, (n, 1)), np.tile(COUNTED, (n, 1))
    found = jax.jit(lambda x: {name: loss(DENOISER, KEY, x, weight=weight) for name, (loss, _) in LOSSES.items()})(x)
    for name, (_, expected) in LOSSES.items():
        values = N * np.asarray(found[name], np.float64).reshape(n, 2).T
        for value, truth in zip(values, expected):
            below = 2e-3 * truth if name.startswith("Bound") else 0.0
            assert abs(value.mean() - truth) < 4 * value.std() / math.sqrt(n) + below, name


PATTERNS = np.array(list(itertools.product([False, True], repeat=N)))  # which of the values are masked
SQUARES = np.array([costs(X[0], hidden)[hidden].sum() for hidden in PATTERNS]) ** 2


@pytest.mark.slow
def test_the_variance_at_a_noise_level_grows_without_bound_and_by_the_number_of_masks_it_is_finite():
    """With weight 1/t as t -> 0 one mask at most: E of the square grows by Σ cost² log 1/t_min. By number, k even."""
    k = PATTERNS.sum(1)
    at = lambda t: (t**k * (1 - t) ** (N - k) * SQUARES).sum() / t**2
    of_times = lambda low: integrate.quad(at, low, 1)[0] / (1 - low)
    alone = SQUARES[k == 1].sum()
    assert of_times(1e-5) - of_times(1e-3) == pytest.approx(alone * math.log(100), rel=0.02)
    of_number = sum((N / i) ** 2 * SQUARES[k == i].mean() / N for i in range(1, N + 1))
    x = np.tile(X[:1], (4000, 1))
    for loss, truth in ((AnyOrder(), of_number), (Bound(times.Uniform(0.1)), of_times(0.1))):
        found = (N * np.asarray(loss(DENOISER, KEY, x), np.float64)) ** 2
        assert abs(found.mean() - truth) < 4 * found.std() / math.sqrt(len(x)), type(loss)


def at_its_noise_level(params, x, c_noise, cond):
    """Logits that are NaN unless t is that at which so many are masked of the two that count."""
    k = jnp.sum(x == K, 1)
    right = jnp.where(k == 2, c_noise == 3, (k == 1) & (jnp.abs(c_noise) < 1e-6))  # log(σ/α)/4 within 3
    return jnp.where(right[:, None, None], LOGITS[0, 0, 0], jnp.nan)


def test_a_network_that_is_told_t_is_told_that_of_the_share_that_is_masked():
    x, weight = np.repeat(X[1:], 32, 0), np.repeat(COUNTED[1:], 32, 0)
    told = jd.Denoiser(at_its_noise_level, None, jd.Absorbing(K))
    assert np.isfinite(jax.jit(lambda x: AnyOrder()(told, KEY, x, weight=weight))(x)).all()
    assert np.isfinite(jd.likelihood.chain(KEY, told, x, weight=weight).per_example).all()


def test_an_example_of_which_nothing_counts_costs_nothing():
    losses = AnyOrder(), Bound(), Steps(3)
    found = jax.jit(lambda x: [loss(DENOISER, KEY, x, weight=0 * COUNTED) for loss in losses])(X)
    np.testing.assert_array_equal(found, 0.0)


def network(params, x, c_noise, cond):
    return params * jnp.tanh(x)


NUMBERS = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)


@pytest.mark.parametrize("law", [times.Importance(0.1)], ids=["Importance"])
def test_of_numbers_it_is_denoising_under_the_likelihoods_weight(law):
    model = jd.Denoiser(network, 0.7, jd.VP())
    losses = Denoising(weightings.Likelihood(), law), Bound(law)
    expected, found = jax.jit(lambda x: [loss(model, KEY, x) for loss in losses])(NUMBERS)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_steps_of_numbers_have_the_expectation_of_their_divergences():
    """On four levels of VP, whose last is left out: Σ of the KL of two Gaussians with the same variance."""
    process, levels = jd.VP(), np.array([0.9, 0.6, 0.3, 0.1], np.float32)
    model = jd.Denoiser(lambda params, x, c_noise, cond: 0.0 * x, None, process, "data")  # it guesses 0
    x0 = np.full((40_000, 1), 0.5, np.float32)
    found = np.asarray(Steps(grid=levels)(model, KEY, x0), np.float64)
    expected = 0.0
    for t, s in itertools.pairwise(levels):
        _, c_data, std = jd.posterior(process, s, t)
        expected += float((c_data * 0.5 / std) ** 2 / 2)
    assert abs(found.mean() - expected) < 4 * found.std() / 200
    assert (found == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert np.isfinite(Steps(5)(model, KEY, x0[:4])).all()


def test_a_sum_asks_the_network_once():
    model = jd.Denoiser(network, 0.7, jd.Flow())
    compiled = lambda loss: jax.jit(lambda x: loss(model, KEY, x)).lower(NUMBERS).compile().as_text() or ""
    both = Sum((Bound(), 1.0), (Denoising(), 0.01))
    assert compiled(both).count(" tanh(") == compiled(Denoising()).count(" tanh(") == 1
    bound, rest, found = jax.jit(lambda x: [loss(model, KEY, x) for loss in (Bound(), Denoising(), both)])(NUMBERS)
    np.testing.assert_allclose(found, bound + 0.01 * rest, rtol=1e-6)


def test_a_sum_trains_what_its_terms_do():
    process = LeastVariance(Denoising(weightings.Likelihood(), times.Stratified(0.0)))
    for terms, learns in (
        ([Denoising()], "denoiser"),
        ([Denoising(), Hybrid(steps=3)], "variance"),
        ([process, Denoising()], "process"),
        ([BridgeMatching(), BridgeMatching()], "bridge"),
    ):
        assert Sum(*((loss, 1.0) for loss in terms)).learns == learns
        assert ConditionDropout(Sum(*((loss, 1.0) for loss in terms))).learns == learns
    for terms, kinds in (
        ([Hybrid(steps=3), process], "process and variance"),
        ([Denoising(), BridgeMatching()], "bridge and denoiser"),
    ):
        with pytest.raises(ValueError, match=f"the terms train {kinds}; expected losses of one kind of model"):
            Sum(*((loss, 1.0) for loss in terms))
    with pytest.raises(ValueError, match="drops conditions; put it around Sum, not inside"):
        Sum((ConditionDropout(Denoising()), 1.0))


def test_masks_alone_have_a_number_of_masks():
    with pytest.raises(TypeError, match=r"AnyOrder takes masks, Absorbing.*, not VP; take jaxdiff.losses"):
        AnyOrder()(jd.Denoiser(network, 0.7, jd.VP()), KEY, NUMBERS)


STEPS = np.random.default_rng(3).dirichlet(np.ones(3), (4, 3)) * 0.6 + 0.4 * np.eye(3)
OTHERS = {"multinomial": jd.Multinomial(3), "gaussian": jd.DiscretizedGaussian(3), "table": jd.from_transitions(STEPS)}


@pytest.mark.parametrize("name", few_names(OTHERS, "multinomial"))
def test_the_bounds_of_other_noise_are_those_of_the_reports_and_of_the_entropy(name):
    """By the exact denoiser: in continuous time the entropy itself; in steps what the report finds, less its prior."""
    n, model = 4000, jd.exact.Table(OTHERS[name], TABLE)
    x = data(n)
    in_steps = 2 * np.asarray(jax.jit(lambda x: Steps(4)(model, KEY, x))(x), np.float64)
    report = jd.variational_bound(jax.random.key(1), model, x, 4, batch_size=n)
    truth = 2 * math.log(2) * (report.bits_per_dim - report.prior.mean())
    error = math.hypot(in_steps.std() / math.sqrt(n), 2 * math.log(2) * report.standard_error)
    assert abs(in_steps.mean() - truth) < 4 * error
    if name != "table":
        whole = 2 * np.asarray(jax.jit(lambda x: Bound(times.Importance(1e-3))(model, KEY, x))(x), np.float64)
        left = 5e-3  # what is below t_min, and the prior
        assert abs(whole.mean() - entropy(TABLE, [0, 1], [])) < 4 * whole.std() / math.sqrt(n) + left


def test_a_table_of_steps_has_no_bound_in_continuous_time():
    model = jd.exact.Table(OTHERS["table"], TABLE)
    for call in (lambda: Bound()(model, KEY, data(4)), lambda: jd.continuous_bound(KEY, model, data(4))):
        with pytest.raises(ValueError, match="a table of steps has no continuous time; take jaxdiff.variational_bound"):
            call()


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Unsure:
    """It says the same of every value, of one that is seen as well."""

    process: jd.Absorbing = jd.Absorbing(K)

    def __call__(self, x, t, cond=None):
        return jd.Categorical(jnp.zeros((*x.shape, K)))


@pytest.mark.slow
def test_denoising_counts_every_value_and_the_bound_those_that_are_masked():
    """D3PM's auxiliary loss, log K a value here; by the evidence of `Denoiser` what is seen costs nothing of it."""
    at = times.Fixed(0.5)  # where the rate is 2
    every = Denoising(weightings.Likelihood(), at)(Unsure(), KEY, X)
    np.testing.assert_allclose(every, 2 * math.log(K), rtol=1e-6)
    np.testing.assert_array_less(Bound(at)(Unsure(), KEY, np.tile(X, (9, 1))).mean(), 1.6 * math.log(K))
    known = Denoising(times=at)(DENOISER, KEY, X)
    np.testing.assert_allclose(Denoising(weightings.Likelihood(), at)(DENOISER, KEY, X), 2 * known, rtol=1e-6)
    np.testing.assert_array_equal(Bound(at)(DENOISER, KEY, X), 2 * known)
