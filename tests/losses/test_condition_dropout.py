"""Dropped conditions: their shares, and that exact denoisers, given and without, are what the loss is least at."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.losses import ConditionDropout, Denoising, FlowMatching, Hybrid, LeastVariance, times
from jaxdiff.networks import MLP, initialize

KEY, PROCESS = jax.random.key(0), jd.VP()
N = 20_000


def kept(loss, denoiser, x0, cond):
    """The cond that the loss inside of `loss` is given."""
    seen = []

    def look(denoiser, key, x0, cond):
        seen.append(cond)
        return jnp.zeros(len(x0))

    dataclasses.replace(loss, loss=look)(denoiser, KEY, x0, cond)
    return jax.tree.map(np.asarray, seen[0])


@dataclasses.dataclass(frozen=True)
class Network:
    """Takes any condition, of labels one that means none."""

    def no_label(self, params):
        return 256

    def __call__(self, params, x, c_noise, cond):
        return x


DENOISER = jd.Denoiser(Network(), None, PROCESS)
X = jnp.zeros((N, 1))
RNG = np.random.default_rng(0)
CONDITIONS = {  # without the null
    "label": RNG.integers(0, 256, N).astype(np.uint8),  # of which no byte holds the null
    "vector": RNG.normal(size=(N, 3)).astype(np.float32),
    "tokens": RNG.normal(size=(N, 2, 3)).astype(np.float32),
    "token_mask": np.ones((N, 2), bool),
    "image": RNG.normal(size=(N, 2, 2, 1)).astype(np.float32),
}
NULLS = {
    "label": 256,
    "vector": np.full(3, 9.0),
    "tokens": np.full((2, 3), 9.0),
    "token_mask": np.zeros(2, bool),
    "image": np.zeros((2, 2, 1)),
}


def gone(cond, name):
    """Which examples have the null in a part; all of it, and the others nothing of it."""
    every = (cond[name] == np.asarray(NULLS[name])).reshape(N, -1)
    assert (every.all(1) | (cond[name] == CONDITIONS[name]).reshape(N, -1).all(1)).all()
    return every.all(1)


def is_share(found, share):
    return abs(found.mean() - share) < 4 * np.sqrt(share * (1 - share) / N)


def test_a_whole_condition_is_dropped_by_one_draw_an_example():
    cond = kept(ConditionDropout(Denoising(), NULLS, 0.2), DENOISER, X, CONDITIONS)
    first = gone(cond, "label")
    assert is_share(first, 0.2)
    for name in CONDITIONS:
        np.testing.assert_array_equal(gone(cond, name), first)


def test_parts_are_dropped_at_rates_of_their_own_by_draws_of_their_own_and_masks_along_with_tokens():
    rates = {"label": 0.3, "tokens": 0.6, "vector": 0.1}
    nulls = {name: null for name, null in NULLS.items() if name != "image"}
    cond = kept(ConditionDropout(Denoising(), nulls, rates), DENOISER, X, CONDITIONS)
    parts = {name: gone(cond, name) for name in CONDITIONS}
    for name, rate in rates.items():
        assert is_share(parts[name], rate)
        for other in rates.keys() - {name}:
            assert is_share(parts[name] & parts[other], rate * rates[other])
    np.testing.assert_array_equal(parts["token_mask"], parts["tokens"])
    np.testing.assert_array_equal(cond["image"], CONDITIONS["image"])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_labels_alone_are_dropped_for_the_networks_own_whatever_their_type(dtype):
    label = CONDITIONS["label"].astype(dtype)
    for cond in (kept(ConditionDropout(Denoising(), rate=0.2), DENOISER, X, label),
                 kept(ConditionDropout(Denoising(), rate={"label": 0.2}), DENOISER, X,
                      {"label": label, "vector": CONDITIONS["vector"]})["label"]):  # fmt: skip
        assert is_share(gone({"label": cond}, "label"), 0.2)


def test_the_loss_inside_draws_what_it_draws_alone():
    """At rate 0 it is that loss, and at 1 that of examples that all have the null, to the bit."""
    network = lambda params, x, c_noise, cond: x * jnp.tanh(cond)
    denoiser, x0, cond = jd.Denoiser(network, None, PROCESS), CONDITIONS["vector"][:, :2], CONDITIONS["vector"][:, :2]
    null = np.array([0.3, -0.7], np.float32)
    for loss in (Denoising(), FlowMatching()):
        few = x0[:64]
        at = lambda rate, loss=loss, few=few: ConditionDropout(loss, null, rate)(denoiser, KEY, few, cond[:64])
        np.testing.assert_array_equal(at(0.0), loss(denoiser, KEY, few, cond[:64]))
        np.testing.assert_array_equal(at(1.0), loss(denoiser, KEY, few, np.tile(null, (64, 1))))


# Exact denoisers


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Bent:
    """An exact denoiser `of(x, t, cond) -> E[x_0 | x_t, cond]`, off by `bend` [groups, 2] times 1 and x in a group."""

    of: Any = dataclasses.field(metadata={"static": True})
    group: Any = dataclasses.field(metadata={"static": True})  # (cond) -> which parts are null, 0, 1, ...
    bend: jax.Array
    process = PROCESS

    def __call__(self, x, t, cond=None):
        alpha, sigma = (jd.processes.expand_time(c, x) for c in self.process.marginal(t))
        bend = self.bend[self.group(cond)].reshape(len(x), 2, *[1] * (x.ndim - 1))
        data = self.of(x, alpha, sigma, cond) + bend[:, 0] + bend[:, 1] * x
        return jd.Prediction(data, (x - alpha * data) / sigma)


MEANS = np.array([[1.0, 0.3], [-0.8, 0.5], [0.1, -1.0], [-0.4, -0.2], [0.9, -0.6], [-0.2, 1.1]])  # 3 labels x 2 texts
WEIGHTS, STD = np.array([0.1, 0.2, 0.25, 0.15, 0.1, 0.2]), 0.3


def of_a_mixture(x, alpha, sigma, possible):
    """E[x_0 | x_t, one of the components that are `possible` [n, k]], each N(m_k, STD²)."""
    spread = alpha**2 * STD**2 + sigma**2
    away = x[:, None] - alpha[:, None] * MEANS
    log = jnp.log(WEIGHTS) - jnp.sum(away**2, -1) / (2 * spread)
    shares = jax.nn.softmax(jnp.where(possible, log, -jnp.inf), -1)
    return jnp.sum(shares[..., None] * (MEANS + (alpha * STD**2 / spread)[:, None] * away), 1)


def labelled(x, alpha, sigma, cond):
    k = np.arange(6) // 2
    return of_a_mixture(x, alpha, sigma, (cond[:, None] == k) | (cond[:, None] == 3))


def told(x, alpha, sigma, cond):
    """A label, and tokens whose first number names one of two texts where the mask has it."""
    label, text, seen = cond["label"][:, None], cond["tokens"][:, 0, :1], cond["token_mask"][:, :1]
    k = np.arange(6)
    return of_a_mixture(x, alpha, sigma, ((label == k // 2) | (label == 3)) & ((text == k % 2) | ~seen))


COVARIANCE = np.array([[0.6, 0.3], [0.3, 0.4]])
COPIED = 0.5  # the standard deviation of the noise on a copy of x_0


def of_a_gaussian(x, alpha, sigma, mean, covariance):
    """E[x_0 | x_t] of N(mean, covariance)."""
    gain = (
        alpha[..., None]
        * covariance
        @ jnp.linalg.inv(alpha[..., None] ** 2 * covariance + sigma[..., None] ** 2 * np.eye(2))
    )
    return mean + jnp.einsum("nij,nj->ni", gain, x - alpha * mean)


def regressed(x, alpha, sigma, y):
    """y = x_0 + COPIED n: given y, x_0 is N(K y, C - K C)."""
    gain = COVARIANCE @ np.linalg.inv(COVARIANCE + COPIED**2 * np.eye(2))
    given = of_a_gaussian(x, alpha, sigma, y @ gain.T, COVARIANCE - gain @ COVARIANCE)
    without = of_a_gaussian(x, alpha, sigma, jnp.zeros(2), COVARIANCE)
    return jnp.where((y == 7.0).all(1, keepdims=True), without, given)


def copied(x, alpha, sigma, cond):
    """The same of pictures of 1 x 2 pixels."""
    flat = lambda a: a.reshape(len(a), -1)
    return regressed(flat(x), flat(alpha), flat(sigma), flat(cond["image"])).reshape(x.shape)


def exact(name):
    """(exact denoiser, groups, x_0, cond, null, rate)."""
    rng = np.random.default_rng(1)
    component = rng.choice(6, N, p=WEIGHTS / WEIGHTS.sum())
    mixed = MEANS[component] + STD * rng.standard_normal((N, 2))
    normal = rng.standard_normal((N, 2)) @ np.linalg.cholesky(COVARIANCE).T
    copy = normal + COPIED * rng.standard_normal((N, 2))
    label, text = component // 2, (component % 2)[:, None, None].repeat(2, 1).astype(float)
    tokens = {"label": label, "tokens": text, "token_mask": np.ones((N, 2), bool)}
    none = {"label": 3, "tokens": np.zeros((2, 1)), "token_mask": np.zeros(2, bool)}
    both = lambda cond: (cond["label"] == 3) + 2 * ~cond["token_mask"][:, 0]
    pixels = lambda a: a.reshape(N, 1, 2, 1)
    return {
        "label": (labelled, lambda cond: (cond == 3).astype(int), mixed, label, 3, 0.3),
        "label, tokens": (told, both, mixed, tokens, none, {"label": 0.4, "tokens": 0.3}),
        "vector": (regressed, lambda y: (y == 7.0).all(1).astype(int), normal, copy, np.full(2, 7.0), 0.3),
        "image": (
            copied, lambda cond: (cond["image"] == 7.0).all((1, 2, 3)).astype(int), pixels(normal),
            {"image": pixels(copy)}, {"image": np.full((1, 2, 1), 7.0)}, 0.3,
        ),
    }[name]  # fmt: skip


def slopes(name, of=None):
    """By how much the loss changes with each bend of the exact denoiser, in standard errors of that."""
    right, group, x0, cond, null, rate = exact(name)
    loss = ConditionDropout(Denoising(jd.losses.weightings.MinSNR(), times.Uniform(0.1)), null, rate)
    groups = 4 if isinstance(rate, dict) else 2
    narrow = {"f": np.float32, "i": np.int32, "b": bool}
    x0, cond = jax.tree.map(lambda a: a.astype(narrow[a.dtype.kind]), (x0, cond))
    values = lambda bend, x0, cond: loss(Bent(of or right, group, bend), KEY, x0, cond)
    slope = np.asarray(jax.jit(jax.jacfwd(values))(jnp.zeros((groups, 2)), x0, cond)).reshape(N, -1)
    assert (slope.std(0) > 0).all()  # every group has been drawn
    return slope.mean(0) / (slope.std(0) / np.sqrt(N))


@pytest.mark.parametrize("name", ["label", "label, tokens", "vector", "image"])
def test_exact_denoisers_given_and_without_are_what_the_loss_is_least_at(name):
    """The loss is a square, so that where no bend has a slope none makes it smaller."""
    assert np.abs(slopes(name)).max() < 4


def test_a_denoiser_that_takes_the_null_for_a_value_is_not():
    """The test above can fail: where the null is read as an example that is (7, 7) the loss slopes."""
    read = lambda x, alpha, sigma, y: regressed(x, alpha, sigma, y * (1 + 1e-6))
    found = np.abs(slopes("vector", read))
    assert found[2:].max() > 20  # the bends of those without
    assert (found[:2] < 4).all()


# What it hands on, and what it refuses


def test_what_a_loss_learns_and_checks_is_handed_on():
    assert ConditionDropout(Denoising()).learns == "denoiser"
    assert ConditionDropout(Hybrid()).learns == "variance"
    likelihood = Denoising(jd.losses.weightings.Likelihood(), times.Stratified(0.0))
    assert ConditionDropout(LeastVariance(likelihood)).learns == "process"
    with pytest.raises(ValueError, match="put it around LeastVariance"):
        LeastVariance(ConditionDropout(likelihood))

    class Refusing:
        def check(self, denoiser, x0, cond):
            raise ValueError("not these")

        def __call__(self, denoiser, key, x0, cond=None):
            return jnp.zeros(len(x0))

    jax.tree_util.register_static(Refusing)
    with pytest.raises(ValueError, match="not these"):
        ConditionDropout(Refusing()).check(DENOISER, X, CONDITIONS["label"])


LABELLED = jd.Denoiser(*initialize(KEY, lambda rngs: MLP(1, hidden=(4,), classes=3, rngs=rngs)), PROCESS)
PLAIN = jd.Denoiser(lambda params, x, c_noise, cond: x, None, PROCESS)
PART = {"label": CONDITIONS["label"], "tokens": CONDITIONS["tokens"]}
REFUSED = {  # settings, denoiser, cond, words
    "no condition": ({}, LABELLED, None, "nothing to drop"),
    "no label for none": ({}, PLAIN, PART["label"], "the network has no label that means none"),
    "more than a label": ({}, LABELLED, PART, "what is dropped is label, tokens; give null"),
    "vectors without a null": ({}, PLAIN, CONDITIONS["vector"], "what is dropped is vector; give null"),
    "an unknown part": ({"rate": {"image": 0.1}}, DENOISER, PART, "rate has 'image'; expected a part of cond"),
    "a part of a bare array": ({"rate": {"tokens": 0.1}}, DENOISER, PART["label"], "expected .* which has label"),
    "a null without a part": ({"null": {"label": 3}}, DENOISER, PART, "what is dropped: label, tokens"),
    "a null with one more": ({"null": NULLS, "rate": {"label": 0.1}}, DENOISER, PART, "what is dropped: label"),
    "a null with names": ({"null": {"label": 3}}, DENOISER, PART["label"], r"expected one example of cond, uint8 \[\]"),
    "a null without names": ({"null": 3}, DENOISER, PART, "what is dropped: label, tokens"),
    "a batch of nulls": ({"null": np.zeros((1, 3))}, DENOISER, CONDITIONS["vector"],
        r"null has shape \(1, 3\); expected \(3,\), that of one example of cond, without a batch axis"),
    "another length": ({"null": {"label": 3, "tokens": np.zeros((5, 3))}}, DENOISER, PART,
        r"null\['tokens'\] has shape \(5, 3\); expected \(2, 3\)"),
    "a null out of range": ({"null": 7}, LABELLED, CONDITIONS["label"] % 3, "label 7 is out of range"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_condition_that_cannot_be_dropped_so_is_refused_before_training(name):
    given, denoiser, cond, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        ConditionDropout(Denoising(), **given).check(denoiser, X, cond)


@pytest.mark.parametrize(("null", "kind"), [(0.0, "integers"), (True, "integers"), ("none", "numbers")])
def test_a_null_of_another_type_is_refused(null, kind):
    with pytest.raises(TypeError, match=f"null.*expected {kind}"):
        ConditionDropout(Denoising(), null).check(DENOISER, X, CONDITIONS["label"])
