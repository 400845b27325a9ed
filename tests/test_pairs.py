"""A number and its label under every process of categories: either given the other, samples, and both bounds."""

import math

import jax
import numpy as np
import pytest
from pairs import MEANS, STD, WEIGHTS, assert_moments, data, joint, mixture, nats

import jaxdiff as jd

KEY = jax.random.key(0)
KERNELS = jd.Absorbing(3), jd.Multinomial(3), jd.DiscretizedGaussian(3)
LABELS = {type(label).__name__: label for label in KERNELS}
X = np.random.default_rng(0).normal(0, 0.6, (6, 2)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
each_label = pytest.mark.parametrize("label", LABELS.values(), ids=LABELS.keys())


def posterior(number):
    """p(label | number), [n, 3], by Bayes' rule."""
    z = (np.asarray(number, np.float64)[:, None] - MEANS) / STD
    density = WEIGHTS * np.prod(np.exp(-(z**2) / 2) / STD, -1)
    return density / density.sum(1, keepdims=True)


@each_label
def test_a_label_given_is_its_component_and_a_number_given_the_classifier(label):
    found, right = jd.Given(joint(label), "label")(X, 0.4, Y), mixture()(X, 0.4, Y)
    np.testing.assert_allclose(found.data, right.data, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.noise, right.noise, rtol=1e-4, atol=1e-5)
    classify = jd.Given(joint(label), "number")
    found = np.exp(classify(label.prior(jax.random.split(KEY, 6), (6,), 1.0), 1.0, X).log_probabilities())
    np.testing.assert_allclose(found, posterior(X), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@each_label
def test_a_label_is_drawn_and_bounded_given_its_number(label):
    """By twelve steps, which for one value are as exact as one; the bound of one label is its cross-entropy."""
    n, pairs = 4000, data(4000)
    classify, p = jd.Given(joint(label), "number"), posterior(pairs["number"])
    drawn = np.asarray(jd.sample(KEY, classify, (n,), jd.samplers.Ancestral(), 12, cond=pairs["number"]))
    for k in range(3):
        away = np.mean((drawn == k) - p[:, k])
        assert abs(away) < 4 * math.sqrt(np.mean(p[:, k] * (1 - p[:, k])) / n), (k, away)
    right = -np.log2(p[np.arange(n), pairs["label"]])
    for bound in (
        jd.continuous_bound(KEY, classify, pairs["label"], 16, cond=pairs["number"], batch_size=n),
        jd.variational_bound(KEY, classify, pairs["label"], 16, cond=pairs["number"], batch_size=n),
    ):
        above = bound.per_example - right
        assert abs(above.mean()) < 4 * above.std() / math.sqrt(n), bound


@pytest.mark.slow
@each_label
def test_pairs_are_drawn_by_their_law(label):
    n = 3000
    x = jd.sample(KEY, joint(label), {"number": (n, 2), "label": (n,)}, jd.samplers.Ancestral(), 300)
    assert_moments(x)


@pytest.mark.slow
@each_label
def test_the_joint_bound_is_near_minus_log_p(label):
    n, levels = 1000, {"number": 256, "label": None}
    pairs = data(n)
    pairs["number"] = np.floor((np.clip(pairs["number"], -1, 0.999) + 1) / 2 * 256).astype(int)
    found = jd.continuous_bound(KEY, joint(label), pairs, 64, levels, batch_size=n).per_example
    away = found - nats(pairs, 256) / (3 * math.log(2))
    error = 4 * away.std() / math.sqrt(n)
    assert -error < away.mean() < error + 0.005  # numbers that are read in cells cost .002 bits each
