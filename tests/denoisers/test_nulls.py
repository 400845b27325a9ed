"""Guidance away from a value that says nothing, from another model, and by parts of a condition."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import THREE_PROCESSES, few, mixture

import jaxdiff as jd
from jaxdiff.denoisers.guidance import Auto, ClassifierFree, ClassifierFreePP, Interval

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0])


def labelled(sizes, classes=3):
    """A network of labels that notes the size of each batch; `classes` is its label for none, as cond = None is."""

    def network(params, x, c_noise, cond):
        sizes.append(len(x))
        cond = jnp.full(len(x), classes) if cond is None else cond
        return jnp.tanh(x + params * jnp.sin(cond + 1.0)[:, None] + c_noise[:, None])

    return jd.Denoiser(network, 0.7, jd.VP())


@pytest.mark.parametrize("guide", [ClassifierFree, ClassifierFreePP])
def test_under_a_null_both_halves_are_one_batch(guide):
    sizes = []
    model = labelled(sizes)
    for scale in (0.0, 0.4, 1.0, *([Interval(3.0, 0.1, 2.0)] if guide is ClassifierFree else [])):
        apart = guide(model, scale)(X, 0.4, LABELS)
        assert sizes == [4, 4]
        together = guide(model, scale, null=3)(X, 0.4, LABELS)
        assert sizes == [4, 4, 8]
        for one, other in zip(apart, together):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
        sizes.clear()


def test_another_model_makes_the_unconditional_prediction():
    model, other = mixture(jd.VP()), jd.exact.Gaussian(jd.VP(), np.zeros(2), np.eye(2))
    labels = LABELS % 2
    for guide in (ClassifierFree, ClassifierFreePP):
        chex.assert_trees_all_equal(guide(model, 0.0, free=other)(X, 0.4, labels), other(X, 0.4))
    chex.assert_trees_all_equal(ClassifierFree(model, 1.0, free=other)(X, 0.4, labels), model(X, 0.4, labels))
    seen = []

    def network(params, x, c_noise, cond):
        seen.append(cond)
        return params * x

    free = jd.Denoiser(network, 0.5, jd.VP())
    guided = ClassifierFree(labelled([]), 0.0, null=3, free=free)
    chex.assert_trees_all_equal(guided(X, 0.4, LABELS), free(X, 0.4, np.full(4, 3)))
    np.testing.assert_array_equal(seen[0], np.full(4, 3))
    ClassifierFree(labelled([]), 2.0, free=free)(X, 0.4, LABELS)
    assert seen[-1] is None
    start = jd.Denoiser(network, 0.5, jd.Flow(), "noise")
    with pytest.raises(ValueError, match=r"alpha\(1.0\) = 0 for Flow"):
        ClassifierFree(dataclasses.replace(start, parameterization="v"), free=start).check_start(1.0)


def test_the_other_model_and_the_null_are_asked_what_they_take():
    model = jd.exact.Mixture(jd.VP(), np.ones(3), np.eye(3, 2), np.stack([np.eye(2)] * 3))
    sure = jd.exact.Empirical(jd.VP(), X)
    ClassifierFree(model, 2.0, free=sure).check_cond(LABELS)
    with pytest.raises(ValueError, match="null: cond was given to an Empirical denoiser"):
        ClassifierFree(model, 2.0, null=0, free=sure).check_cond(LABELS)
    with pytest.raises(ValueError, match="null: label 3 is out of range; expected 0 to 2"):
        jd.sample(KEY, ClassifierFree(model, 2.0, null=3), (4, 2), cond=LABELS)
    unlearned = jd.Denoiser(lambda params, x, c, cond: x, None, jd.VP(), condition_dropout=0)
    with pytest.warns(UserWarning, match="guidance away from it is arbitrary"):
        ClassifierFree(model, 2.0, free=unlearned)
    ClassifierFree(unlearned, 2.0, free=sure)


# A Gaussian of which two numbers are observed, a and b; an observation is its value and whether there is one.

MEAN, COVARIANCE = np.array([0.3, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])
SEEN = {"b": (np.array([1.0, -0.5]), 0.3), "a": (np.array([0.2, 1.0]), 0.5)}  # direction, variance of its noise
NULL = {"a": np.zeros(2), "b": np.zeros(2)}


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Observing:
    """E[x_0 | x_t, what is seen], by adding up precisions."""

    process: jd.Gaussian

    def __call__(self, x, t, cond):
        alpha, sigma = (jnp.broadcast_to(c, len(x)) for c in self.process.marginal(t))

        def one(x, alpha, sigma, cond):
            precision, pull = np.linalg.inv(COVARIANCE), np.linalg.inv(COVARIANCE) @ MEAN
            precision, pull = precision + alpha**2 / sigma**2 * jnp.eye(2), pull + alpha / sigma**2 * x
            for name, (direction, variance) in SEEN.items():
                value, there = cond[name]
                precision += there * np.outer(direction, direction) / variance
                pull += there * direction * value / variance
            data = jnp.linalg.solve(precision, pull)
            return jd.Prediction(data, (x - alpha * data) / sigma)

        return jax.vmap(one)(x, alpha, sigma, cond)


def posterior(values):
    """Mean and covariance of x_0 given `values` by name, by regression on the joint Gaussian."""
    if not values:
        return MEAN, COVARIANCE
    rows = np.stack([SEEN[name][0] for name in values])
    joint = rows @ COVARIANCE @ rows.T + np.diag([SEEN[name][1] for name in values])
    gain = COVARIANCE @ rows.T @ np.linalg.inv(joint)
    return MEAN + gain @ (np.array([*values.values()]) - rows @ MEAN), COVARIANCE - gain @ rows @ COVARIANCE


@pytest.mark.parametrize("process", few(THREE_PROCESSES, "VP"))
def test_the_parts_of_a_gaussian_are_guided_to_its_tempered_posterior(process, x64):
    """p(x) p(b | x)^2.5 p(a | x, b)^1.5 of noised x: a product of powers of Gaussians, which is one."""
    values = {"b": 1.2, "a": -0.4}
    cond = {name: np.tile([value, 1.0], (4, 1)) for name, value in values.items()}
    guided = jax.tree.map(lambda leaf: leaf, ClassifierFree(Observing(process), {"b": 2.5, "a": 1.5}, NULL))  # sorted
    stages = [posterior({}), posterior({"b": 1.2}), posterior(values)]
    for t in (0.05, 0.4, 0.9):
        alpha, sigma = (float(c) for c in process.marginal(t))
        precisions = [np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(2)) for _, covariance in stages]
        powers = np.array([1 - 2.5, 2.5 - 1.5, 1.5])
        precision = np.einsum("k,kij->ij", powers, precisions)
        pull = sum(power * p @ (alpha * mean) for power, p, (mean, _) in zip(powers, precisions, stages))
        predicted = guided(jnp.asarray(X, float), t, cond)
        np.testing.assert_allclose(-predicted.noise / sigma, pull - X @ precision, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(alpha * predicted.data + sigma * predicted.noise, X, rtol=1e-8, atol=1e-8)


def test_parts_are_revealed_in_the_order_they_are_named_and_a_part_without_a_scale_is_known():
    model, cond = Observing(jd.VP()), {name: np.tile([0.8, 1.0], (4, 1)).astype(np.float32) for name in SEEN}
    none = {name: 0 * value for name, value in cond.items()}
    predict = jax.jit(lambda model, cond: model(X, 0.4, cond).data)
    call = lambda scale: predict(ClassifierFree(model, scale, NULL), cond)
    expected = {  # of the scales of b and a
        (0.0, 0.0): none,
        (1.0, 0.0): none | {"b": cond["b"]},
        (1.0, 1.0): cond,
    }
    for (b, a), known in expected.items():
        np.testing.assert_allclose(call({"b": b, "a": a}), predict(model, known), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(call({"a": 0.0}), predict(model, none | {"b": cond["b"]}), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(call({"b": 2.0, "a": 2.0}), call(2.0), rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(call({"b": 2.0, "a": 1.0}) - call({"a": 1.0, "b": 2.0})).max()) > 0.01
    beyond = {"b": Interval(3.0, 1e3, 2e3), "a": 2.0}
    np.testing.assert_allclose(call(beyond), call({"b": 1.0, "a": 2.0}), rtol=1e-5, atol=1e-6)


def test_tokens_are_revealed_with_their_mask_by_three_conditions_in_one_batch():
    sizes = []

    def network(params, x, c_noise, cond):
        sizes.append(len(x))
        said = jnp.sum(jnp.where(cond["token_mask"], cond["tokens"][..., 0], 0.0), 1)
        return params * x + (said + cond["label"])[:, None]

    model = jd.Denoiser(network, 0.3, jd.VP())
    cond = {"label": LABELS, "tokens": np.ones((4, 3, 1), np.float32), "token_mask": np.ones((4, 3), bool)}
    null = {"label": 7, "tokens": np.zeros((3, 1)), "token_mask": np.zeros(3, bool)}
    data = lambda *scales: ClassifierFree(model, dict(zip(("label", "tokens"), scales)), null)(X, 0.4, cond).data
    found = data(1.0, 0.0)
    assert sizes == [12]
    unmasked = cond | {"token_mask": np.zeros((4, 3), bool)}
    np.testing.assert_allclose(found, model(X, 0.4, unmasked).data, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(data(1.0, 1.0), model(X, 0.4, cond).data, rtol=1e-6, atol=1e-6)


def test_new_nulls_scales_and_shares_compile_nothing():
    sizes = []
    model = labelled(sizes)
    for k in (2, 3):
        guided = ClassifierFree(model, Interval(float(k), 0.1), k, rescale=k / 10)
        guided = Auto(guided, ClassifierFreePP(model, k / 10, k), 1.5)
        x = jd.sample(KEY, guided, (4, 2), jd.samplers.DDIM(), 3, cond=LABELS)
        assert jnp.isfinite(x).all()
        sizes.append(None)
    assert sizes.index(None) == len(sizes) - 2


def test_rescale_takes_back_a_share_of_the_contrast():
    """std(x_0) = share std(conditional) + (1 - share) std(guided), in the direction of the guided x_0."""
    model, x = labelled([]), np.random.default_rng(1).standard_normal((4, 3, 2)).astype(np.float32)
    model = dataclasses.replace(model, network=lambda p, x, c, cond: jnp.tanh(x * (1 if cond is None else 2)))
    t = 0.4
    alpha, sigma = (float(c) for c in model.process.marginal(t))
    conditional, guided = model(x, t, LABELS), ClassifierFree(model, 4.0)(x, t, LABELS)
    std = lambda prediction: np.asarray(prediction.data, np.float64).reshape(4, -1).std(1)
    assert (np.abs(std(guided) / std(conditional) - 1) > 0.05).all()
    for share in (0.0, 0.3, 1.0):
        found = ClassifierFree(model, 4.0, rescale=share)(x, t, LABELS)
        np.testing.assert_allclose(std(found), share * std(conditional) + (1 - share) * std(guided), rtol=1e-5)
        ratio = np.asarray(found.data / guided.data).reshape(4, -1)
        np.testing.assert_allclose(ratio, np.tile(ratio[:, :1], 6), rtol=1e-4)
        np.testing.assert_allclose(alpha * found.data + sigma * found.noise, x, rtol=1e-4, atol=1e-5)
    one_value = dataclasses.replace(model, network=lambda p, x, c, cond: x)  # which has no spread
    flow = jax.jit(lambda x: ClassifierFree(one_value, 4.0, rescale=0.7)(x, t, LABELS).data.sum())
    assert jnp.isfinite(jax.grad(flow)(X[:, :1])).all()
