import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from pairs import MEANS, PROCESS, STD, WEIGHTS, joint, mixture
from tables import SAMPLERS, given
from tokens import MASK, conditionals, tokens

import jaxdiff as jd
from jaxdiff.denoisers.guidance import ClassifierFree

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(0, 0.6, (6, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
GIVEN = jd.Given(joint(), "label")


def near(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("t", [0.01, 0.5, 1.0, np.linspace(0.1, 0.9, 6)], ids=str)
def test_a_part_given_is_the_conditional_model_and_none_the_marginal_one(t):
    assert GIVEN.process == jd.VP()
    predict = jax.jit(lambda model, t, y: model(X, t, y))
    near(predict(GIVEN, t, None), predict(mixture(), t, None))
    near(predict(GIVEN, t, LABELS), predict(mixture(), t, LABELS))
    near(GIVEN(X, t, LABELS), predict(mixture(), t, LABELS))
    near(GIVEN(X, t), predict(mixture(), t, None))


def test_guidance_is_that_of_the_mixture():
    near(ClassifierFree(GIVEN, 2.5)(X, 0.4, LABELS), ClassifierFree(mixture(), 2.5)(X, 0.4, LABELS))
    with pytest.raises(ValueError, match="needs cond"):
        jd.sample(KEY, ClassifierFree(GIVEN, 2.5), (6, 2), steps=2)


@pytest.mark.parametrize("name", few_names(SAMPLERS, "DPMSolverPP"))
def test_every_sampler_draws_what_it_draws_of_the_mixture(name):
    row = SAMPLERS[name]
    start = 0.9 if row.below else 1.0
    cond = given(row.sampler, (6, 2), LABELS)
    ours, right = (jd.sample(KEY, model, (6, 2), row.sampler, 2, cond, t_start=start) for model in (GIVEN, mixture()))
    near(ours, right, 1e-3, 1e-4)


@pytest.mark.slow
def test_none_and_a_scalar_stand_for_all():
    draw = lambda model, cond: jd.sample(KEY, model, (6, 2), jd.samplers.DDIM(), 2, cond)
    near(draw(GIVEN, 1), draw(GIVEN, np.full(6, 1)))
    near(draw(GIVEN, None), draw(mixture(), None), 1e-3, 1e-4)


@pytest.mark.slow
def test_a_likelihood_is_the_density_of_the_component():
    """With one label an example, of which a solve sees one at a time."""
    x0 = (MEANS[LABELS] + STD[LABELS] * np.random.default_rng(1).standard_normal((6, 2))).astype(np.float32)
    flow = jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4)
    found = jd.log_likelihood(KEY, GIVEN, x0, LABELS, flow, jd.likelihood.Exact())
    z = (x0 - MEANS[LABELS]) / STD[LABELS]
    expected = (-(z**2) / 2 - np.log(STD[LABELS] * np.sqrt(2 * np.pi))).sum(1)
    np.testing.assert_allclose(found.log_prob, expected, atol=0.02)


def test_the_number_given_is_the_classifier():
    classify = jd.Given(joint(), "number")
    assert classify.process == jd.Absorbing(3)
    found = classify(np.full(6, 3), 1.0, X).log_probabilities()
    z = (X[:, None] - MEANS) / STD
    density = WEIGHTS * np.prod(np.exp(-(z**2) / 2) / STD, -1)
    np.testing.assert_allclose(np.exp(found), density / density.sum(1, keepdims=True), rtol=1e-3, atol=1e-6)
    n = 4000
    drawn = jd.sample(KEY, classify, (n,), jd.samplers.Ancestral(), 1, cond=np.tile(X[:1], (n, 1)))
    p = np.exp(found[0])
    np.testing.assert_array_less(np.abs(np.bincount(drawn, minlength=3) / n - p), 4 * np.sqrt(p * (1 - p) / n) + 1e-6)
    bound = jd.variational_bound(KEY, classify, np.full(n, 2), 3, cond=np.tile(X[:1], (n, 1)), batch_size=n)
    right = -np.log2(p[2])  # of a single token every way from the mask is one
    assert bound.bits_per_dim == pytest.approx(right, abs=4 * bound.standard_error)


@pytest.mark.slow
def test_a_loss_and_a_derivative_go_through():
    loss = lambda given: jd.losses.Denoising(jd.losses.weightings.Likelihood())(given, KEY, X, LABELS).mean()
    (value, gradients), (right, expected) = (jax.jit(jax.value_and_grad(loss))(model) for model in (GIVEN, mixture()))
    near(value, right)
    near(gradients.denoiser.mixture.means, expected.means, 1e-3, 1e-4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Three:
    """Tokens beside a pair, independent of it."""

    pair: Any
    tokens: Any
    process: jd.Product = jd.Product({**PROCESS.parts, "text": jd.Absorbing(3)})

    def __call__(self, x, t, cond=None):
        x, t = self.process.at(x, t)
        rest = {name: x[name] for name in ("number", "label")}
        pair = self.pair(rest, {name: t[name] for name in rest})
        return {**pair, "text": self.tokens(x["text"], t["text"])}


def three():
    return Three(joint(), tokens())


@pytest.mark.slow
def test_several_parts_are_a_dictionary():
    text = np.array([[0, 1]] * 6)
    both = jd.Given(three(), ("label", "text"), event={"label": (), "text": (2,)})
    assert both.process == jd.VP()
    near(both(X, 0.3, {"label": LABELS, "text": text}), mixture()(X, 0.3, LABELS))
    near(both(X, 0.3), mixture()(X, 0.3))
    ours = jd.sample(KEY, both, (6, 2), jd.samplers.DDIM(), 2, cond={"label": LABELS, "text": text})
    near(ours, jd.sample(KEY, mixture(), (6, 2), jd.samplers.DDIM(), 2, cond=LABELS), 1e-3, 1e-4)
    one = jd.Given(three(), "label")
    masked = np.array([[0, MASK]] * 6)
    left = one({"number": X, "text": masked}, 0.3, LABELS)
    near(left["number"], mixture()(X, 0.3, LABELS))
    np.testing.assert_allclose(np.exp(left["text"].log_probabilities()), np.exp(conditionals(masked)), rtol=1e-4)
    x = jd.sample(KEY, one, {"number": (6, 2), "text": (6, 2)}, jd.samplers.Ancestral(), 2, cond=LABELS)
    assert set(x) == {"number", "text"}
    nested = jd.Given(jd.Given(three(), "text", (2,)), "label")
    near(nested(X, 0.3, LABELS), mixture()(X, 0.3, LABELS))


def test_what_is_given_is_data_at_0_and_what_is_not_is_noise_at_1():
    seen, text = [], np.array([[0, 1]] * 6)
    watched = lambda x, t: seen.append((x, t)) or tokens()(x, t)
    given = jd.Given(dataclasses.replace(three(), tokens=watched), "text", (2,))
    for denoiser, cond in ((given, None), (dataclasses.replace(given, names="text"), None), (given, text)):
        denoiser({"number": X, "label": LABELS}, 0.5, cond)
    for (x, t), (state, clock) in zip(seen, [(np.full((6, 2), MASK), 1.0)] * 2 + [(text, 0.0)], strict=True):
        np.testing.assert_array_equal(x, state)
        np.testing.assert_array_equal(t, np.full(6, clock))
    leaves, structure = jax.tree.flatten(jd.Given(three(), "text", (2,)))
    assert jax.tree.unflatten(structure, leaves).event == jd.Given(three(), "text", (2,)).event


def asked(**settings):
    return lambda: jd.sample(KEY, GIVEN, (6, 2), steps=2, **settings)


WORDS = {
    "no denoiser": (lambda: jd.Given(3, "label"), TypeError, "denoiser = 3"),
    "no product": (lambda: jd.Given(mixture(), "label"), TypeError, "denoiser.process.*Product of a dictionary"),
    "no dictionary": (
        lambda: jd.Given(dataclasses.replace(joint(), process=jd.Product([jd.VP(), jd.Absorbing(3)])), "label"),
        TypeError,
        "Product of a dictionary",
    ),
    "unknown": (
        lambda: jd.Given(joint(), "lable"),
        ValueError,
        "names = 'lable'; expected some but not all of label, number",
    ),
    "all": (lambda: jd.Given(joint(), ("label", "number")), ValueError, "some but not all"),
    "none": (lambda: jd.Given(joint(), ()), ValueError, "some but not all"),
    "event": (lambda: jd.Given(joint(), "label", {"text": (2,)}), ValueError, "event = .*each of label"),
    "number unknown": (
        lambda: jd.sample(KEY, jd.Given(joint(), "number"), (6,), jd.samplers.Ancestral(), 2),
        ValueError,
        "VP: a part of numbers has no value that means unknown; give it as cond",
    ),
    "number unguided": (
        lambda: jd.sample(
            KEY, ClassifierFree(jd.Given(joint(), "number"), 2.0), (6,), jd.samplers.Ancestral(), 2, cond=X
        ),
        ValueError,
        "VP: a part of numbers has no value",
    ),
    "a label beyond": (asked(cond=np.full(6, 3)), ValueError, r"cond \(label\)\[0\] = 3 is out of range"),
    "floats": (asked(cond=np.zeros(6)), TypeError, r"cond \(label\) has dtype float"),
    "length": (asked(cond=np.zeros(5, int)), ValueError, r"cond has shape \(5,\); expected one entry each for 6"),
    "a dictionary of one": (asked(cond={"label": LABELS}), TypeError, r"cond \(label\)"),
    "one of several": (
        lambda: jd.sample(KEY, jd.Given(three(), ("label", "text")), (6, 2), steps=2, cond={"label": LABELS}),
        ValueError,
        "cond = .*expected a dictionary of label, text",
    ),
    "tokens by a sampler of numbers": (
        lambda: jd.sample(KEY, jd.Given(joint(), "number"), (6,), steps=2, cond=X),
        TypeError,
        "DPMSolverPP.*not Absorbing",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), WORDS.values(), ids=WORDS.keys())
def test_what_does_not_fit_is_refused_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_network_of_a_product_with_parts_given_is_a_denoiser_of_the_rest():
    def network(params, x, c_noise, cond):
        return {"number": 0.1 * x["number"], "label": jnp.zeros((*x["label"].shape, 2))}

    process = jd.Product({"number": jd.VP(), "label": jd.Absorbing(2)})
    of = lambda data_std: jd.Denoiser(network, None, process, data_std={"number": data_std, "label": None})
    given = jd.guidance.ClassifierFree(jd.Given(of(0.7), "label"), 2.0)
    assert jd.sample(KEY, given, (4, 2), steps=2, cond=np.array([0, 1, 1, 0])).shape == (4, 2)
    assert jd.Given(of(0.7), "label").data_std == 0.7
    with pytest.warns(UserWarning, match="VP does not cover data of data_std = 100"):
        jd.sample(KEY, jd.Given(of(100.0), "label"), (4, 2), steps=2, cond=1)
    with pytest.raises(TypeError, match=r"DPMSolverPP takes processes of numbers, .* not Product; take Ancestral\(\)"):
        jd.sample(KEY, of(0.7), {"number": (4, 2), "label": (4,)})
