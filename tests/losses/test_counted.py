"""What counts and what is given: the loss and the bound of p(values that count | values that are given)."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few, few_names
from tokens import TABLE, K, N, data, entropy, tokens

import jaxdiff as jd
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.losses import (
    BridgeMatching,
    ConditionDropout,
    Denoising,
    FlowMatching,
    Hybrid,
    LeastVariance,
    ScoreMatching,
    SlicedScoreMatching,
    couplings,
    times,
)

KEY = jax.random.key(0)
ONES = np.ones((4, 3), np.float32)
SOME = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32) / 2
AT = times.Fixed(0.4)
COUNTING = {  # (the loss, what it trains)
    "Denoising": (Denoising(times=AT), "numbers"),
    "ScoreMatching": (ScoreMatching(AT), "numbers"),
    "SlicedScoreMatching": (SlicedScoreMatching(AT), "numbers"),
    "SlicedScoreMatching plain": (SlicedScoreMatching(AT, False), "numbers"),
    "FlowMatching": (FlowMatching(sigma=0.1, times=AT), "numbers"),
    "BridgeMatching": (BridgeMatching(couplings.Independent(), AT), "bridge"),
    "Hybrid": (Hybrid(0.1, 2, np.array([0.5, 0.3])), "variance"),
}


def pointwise(params, x, c_noise, cond):
    """An answer for each value by itself; NaN where params["held"] says that it is given and it is not 0."""
    return params["scale"] * x + jnp.where((params["held"] == 0) & (x != 0), jnp.nan, 0.0)


def wide(params, x, c_noise, cond):
    return jnp.concatenate([pointwise(params, x, c_noise, cond), params["scale"] * x], -1)


def pair(params, x, c_noise, cond):
    out = pointwise(params, x, c_noise, cond)
    return out, 0.5 * out


def model_of(kind, held):
    params = {"scale": jnp.float32(0.7), "held": held}
    if kind == "bridge":
        return jd.Bridge(pair, params)
    learned = kind == "variance"
    return jd.Denoiser(wide if learned else pointwise, params, jd.Flow(), "velocity", learned_variance=learned)


@jax.jit
def values_of_all(weights, helds, x):
    """{name: (the loss without a weight, those under `weights` [k, n, d], where the network looks at `helds`)}."""

    def of(loss, kind):
        one = lambda weight, held, x: loss(model_of(kind, held), KEY, x, weight=weight)
        return loss(model_of(kind, ONES), KEY, X), jax.vmap(one)(weights, helds, x)

    return {name: of(*row) for name, row in COUNTING.items()}


def test_losses_pay_for_what_counts_alone_and_show_the_rest_as_it_is():
    weights, given_is_zero = np.stack([ONES, SOME, 1 - SOME, SOME]), np.where(SOME, X, 0.0)
    found = values_of_all(weights, np.stack([ONES, ONES, ONES, SOME]), np.stack([X, X, X, given_is_zero]))
    for name, (alone, (all_count, some, others, held)) in found.items():
        np.testing.assert_allclose(all_count, alone, rtol=1e-5, atol=1e-6, err_msg=name)
        if "plain" not in name:  # there a product along a direction mixes the values
            np.testing.assert_allclose(some + others, alone, rtol=2e-5, atol=1e-6, err_msg=name)
        assert np.abs(some - alone)[:3].max() > 1e-3, name
        assert np.isfinite(held).all(), f"{name} noises what is given"


def counting(denoiser, key, x0, cond=None, weight=None):
    """A loss of one's own, which takes a weight: the sum of it."""
    return jnp.full(len(x0), -1.0) if weight is None else weight.sum(1)


def weightless(denoiser, key, x0, cond=None):
    return jnp.zeros(len(x0))


def test_a_loss_around_another_hands_the_weight_on():
    both = jd.denoisers.WithProcess(jd.Denoiser(lambda p, x, c, y: x, {}, jd.LearnedVP()))
    for loss, cond in ((LeastVariance(counting), None), (ConditionDropout(counting, np.float32(0.0), 0.5), X[:, 0])):
        np.testing.assert_array_equal(loss(both, KEY, X, cond, weight=SOME), SOME.sum(1))
        np.testing.assert_array_equal(loss(both, KEY, X, cond), -1.0)


def test_a_weight_is_refused_by_name_where_nothing_would_read_it():
    model = model_of("numbers", ONES)
    with pytest.raises(TypeError, match=r"weight was given, but loss = .*weightless.*takes none; leave weight"):
        ConditionDropout(weightless, np.float32(0.0))(model, KEY, X, X[:, 0], weight=SOME)
    for coupling in (couplings.OptimalTransport(), couplings.Entropic()):
        with pytest.raises(ValueError, match=rf"weight was given, but coupling = {type(coupling).__name__}.*Independ"):
            FlowMatching(coupling)(model, KEY, X, weight=SOME)
    with pytest.raises(ValueError, match=r"weight was given, but coupling = Entropic\("):
        BridgeMatching()(model_of("bridge", ONES), KEY, X, weight=SOME)


BAD = {
    "float32 \\(4,\\)": (SOME[:, 0], ValueError, r"weight has shape \(4,\); expected the shape of x0, \(4, 3\)"),
    "a half": (SOME / 2, ValueError, "weight holds 0.5; expected 0 for what is given, 1 for what counts"),
    "NaN": (np.where(SOME, SOME, np.nan), ValueError, "weight holds nan; expected 0"),
    "words": (np.full((4, 3), "a"), TypeError, "weight has dtype <U1; expected 0 for a value that is given, 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_weight_is_refused(name):
    weight, error, message = BAD[name]
    with pytest.raises(error, match=message):
        Denoising()(model_of("numbers", ONES), KEY, X, weight=weight)


def test_a_traced_weight_that_is_neither_0_nor_1_gives_nan():
    loss = jax.jit(lambda weight: Denoising(times=AT)(model_of("numbers", ONES), KEY, X, weight=weight))
    np.testing.assert_array_equal(np.isnan(loss(SOME.astype(bool))), False)
    np.testing.assert_array_equal(np.isnan(loss(SOME * np.array([[1], [0.5], [1], [2]]))), [False, True, False, True])


BOUNDS = jd.variational_bound, jd.continuous_bound
COUNTS = np.array([[1, 1], [1, 0], [0, 1]])  # of the two tokens
EXPECTED = np.array([entropy(TABLE, [0, 1], []), entropy(TABLE, [0], [1]), entropy(TABLE, [1], [0])])  # nats


@pytest.mark.parametrize("bound", few({of.__name__: of for of in BOUNDS}, "continuous_bound"))
def test_the_bound_of_tokens_is_the_entropy_of_those_that_count_given_the_others(bound):
    """By the truth. In T steps that of two tokens is the right Riemann sum of σ H(both)/2 + ..., the limit H itself."""
    n = 3000
    x, weight = data(n), COUNTS[np.arange(n) % 3]
    settings = {"steps": 4} if bound is jd.variational_bound else {"draws": 16}
    found = bound(KEY, tokens(), x, weight=weight.astype(bool), batch_size=n, **settings)
    expected = EXPECTED.copy()
    if bound is jd.variational_bound:  # Σ over steps of (share shown) E Σ_masked H(token | seen)
        alone, sigma = [entropy(TABLE, [i], []) for i in range(N)], np.arange(1, 5) / 4
        cost = sigma * (1 - sigma) * EXPECTED[1:].sum() + sigma**2 * sum(alone)
        expected[0] = (0.25 / sigma * cost).sum()
    nats = found.per_example * found.counted * np.log(2)
    np.testing.assert_array_equal(found.counted, weight.sum(1))
    for kind in range(3):
        group = nats[kind::3]
        assert abs(group.mean() - expected[kind]) < 4 * group.std() / np.sqrt(len(group)), kind
    assert found.bits_per_dim == pytest.approx(nats.sum() / np.log(2) / weight.sum())
    assert f"{weight.sum()} of {2 * n} values, given the others" in str(found)
    part = bound(KEY, tokens(), x[:7], weight=weight[:7], batch_size=4, **settings)
    np.testing.assert_allclose(part.per_example, found.per_example[:7], rtol=1e-5)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Split:
    """The two tokens as parts of a product."""

    process: jd.Product = jd.Product({"a": jd.Absorbing(K), "b": jd.Absorbing(K)})

    def __call__(self, x, t, cond=None):
        x, t = self.process.at(x, t)
        found = tokens()(jnp.stack([x["a"], x["b"]], -1), t["a"])
        of = lambda i, name: jd.Categorical(found.logits[:, i], self.process.parts[name].evidence(x[name], t[name]))
        return {name: of(i, name) for i, name in enumerate("ab")}


@pytest.mark.slow
def test_a_product_counts_part_by_part():
    """None counts all of a part; of the other the first half is given, so that half pays H(b | a) and half H(a, b)."""
    x, half = data(2000), np.arange(2000) >= 1000
    tree, weight = {"a": x[:, 0], "b": x[:, 1]}, {"a": half, "b": None}
    found = jd.continuous_bound(KEY, Split(), tree, 16, batch_size=2000, weight=weight)
    nats = found.per_example * found.counted * np.log(2)
    for group, expected in ((nats[:1000], entropy(TABLE, [1], [0])), (nats[1000:], EXPECTED[0])):
        assert abs(group.mean() - expected) < 4 * group.std() / np.sqrt(1000)
    with pytest.raises(ValueError, match="weight has another form than the product"):
        Denoising()(Split(), KEY, tree, weight=half)


@pytest.mark.slow
def test_the_bound_of_numbers_that_are_inpainted_is_that_of_the_conditional():
    """For (x, y) Gaussian and y given: the mutual information log(1 + v S)/2 with v = Var[x | y] (Guo et al. 2005)."""
    process, n, t_min = jd.Flow(), 4000, 0.05
    images = np.asarray(jd.quantize(0.2 * np.random.default_rng(1).standard_normal((n, 2)) @ [[1, 0.8], [0, 0.6]], 256))
    slope, variance = 0.8, 0.04 * 0.36  # of y given x, the first

    @jd.pytree
    @dataclasses.dataclass(frozen=True)
    class Inpainting:
        process: jd.Flow = jd.Flow()

        def __call__(self, x, t, cond=None):
            x, t = self.process.at(x, t)
            alpha, sigma = (c[:, None] for c in self.process.marginal(t))
            mean = slope * x[:, :1]
            noise = sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
            return jd.Prediction(mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean), noise)

    weight = np.tile([0, 1], (n, 1))
    found = jd.continuous_bound(KEY, Inpainting(), images, 16, 256, t_min, batch_size=n, weight=weight)
    nats = found.transitions.sum(1) * np.log(2)
    truth = np.log(1 + variance * np.exp(float(process.log_snr(t_min)))) / 2
    assert abs(nats.mean() - truth) < 4 * nats.std() / np.sqrt(n)


def test_the_error_of_a_ratio_is_its_spread_over_data_sets():
    rng = np.random.default_rng(0)
    counted = rng.integers(1, 20, (3000, 200))
    values = 1 + 0.1 * counted + rng.standard_normal(counted.shape)  # so that long examples cost more
    found = [mean_of(*both) for both in zip(values, counted.astype(float))]
    means, errors = np.array(found).T
    assert means.mean() == pytest.approx((values * counted).sum() / counted.sum(), abs=4 * means.std() / np.sqrt(3000))
    assert errors.mean() == pytest.approx(means.std(), rel=4 / np.sqrt(2 * 3000) + 0.01)


def test_an_example_of_which_nothing_counts_is_refused_in_a_bound():
    with pytest.raises(ValueError, match="weight is 0 throughout example 2: nothing of it counts; leave it out"):
        jd.continuous_bound(KEY, tokens(), data(4), weight=np.array([[1, 0], [0, 1], [0, 0], [1, 1]]))


def by_place(params, x, c_noise, cond):
    return params["w"] * x


@pytest.mark.parametrize("accumulate", few_names([1, 2], 2))
def test_training_learns_what_counts_of_a_batch(accumulate, tmp_path):
    model = jd.Denoiser(by_place, {"w": np.zeros(3, np.float32)}, jd.Flow(), "velocity")
    batches = jd.data.batches({"x": np.tile(X, (2, 1)), "weight": np.tile([0, 1, 0], (8, 1))}, 8, seed=0)
    settings = {"steps": 2, "checkpoint_every": 2, "progress": False, "accumulate": accumulate}
    trained = jd.training.train(KEY, tmp_path, model, Denoising(), batches, **settings)
    np.testing.assert_array_equal(np.asarray(trained.params["w"]) != 0, [False, True, False])


def test_training_refuses_a_weight_that_its_loss_does_not_take(tmp_path):
    model = jd.Denoiser(by_place, {"w": np.zeros(3, np.float32)}, jd.Flow(), "velocity")
    for weight, loss, message in (
        (ONES, weightless, "loss = .*weightless.* takes none; leave weight out"),
        (ONES[:, :2], Denoising(), re.escape("weight has shape (4, 2); expected the shape of x0, (4, 3)")),
        (ONES / 2, Denoising(), "weight holds 0.5"),
    ):
        batches = jd.data.batches({"x": X, "weight": weight}, 4, seed=0)
        with pytest.raises((TypeError, ValueError), match=message):
            jd.training.train(KEY, tmp_path, model, loss, batches, steps=1, progress=False)
