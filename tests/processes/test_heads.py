"""Logits that are never whole, against whole ones by NumPy, and the float32 traps of many categories."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few

import jaxdiff as jd
from jaxdiff.processes import heads
from jaxdiff.samplers import example_keys

N, EVENT, D, K = 4, (5, 7), 3, 6
RANDOM = np.random.default_rng(0)
FEATURES, TABLE, BIAS = RANDOM.normal(size=(N, *EVENT, D)), RANDOM.normal(size=(K, D)), RANDOM.normal(size=K)
X0 = RANDOM.integers(0, K, (N, *EVENT))
AT, GAIN = RANDOM.integers(0, K + 1, (N, *EVENT)), RANDOM.choice([0.0, 1.3, np.inf], (N, *EVENT))
GAIN = np.where(AT == K, 0.0, GAIN)  # the mask says nothing
KEYS = example_keys(jax.random.key(3), N)


def law(logits):
    """log p by its definition, with GAIN added at AT."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    for place in np.ndindex(X0.shape):
        if np.isinf(GAIN[place]):
            p[place] *= np.eye(K)[AT[place]]
        elif AT[place] < K:
            p[place][AT[place]] *= np.exp(GAIN[place])
    with np.errstate(divide="ignore"):
        return np.log(p / p.sum(-1, keepdims=True))


@pytest.fixture
def small(monkeypatch):
    """Chunks of 64 tokens: three of these 140, the last filled up."""
    monkeypatch.setattr(heads, "_ASKED", 1)
    monkeypatch.setattr(heads, "_DRAWN", 1)


def head(features=FEATURES, table=TABLE, bias=BIAS):
    return jd.Head(*(jnp.asarray(number, jnp.float32) for number in (features, table, bias)))


HEAD = head()


def told(logits: jax.Array | jd.Head = HEAD):
    return jd.Categorical(logits, jd.Seen(jnp.asarray(AT), jnp.asarray(GAIN, jnp.float32)))


def test_a_head_answers_as_its_whole_logits_do(small):
    log_p = law(FEATURES @ TABLE.T + BIAS)
    p = np.exp(log_p)
    found = told()
    np.testing.assert_allclose(found.probabilities(), p, atol=1e-6)
    np.testing.assert_allclose(np.exp(found.log_prob(X0)), np.take_along_axis(p, X0[..., None], -1)[..., 0], atol=1e-6)
    assert np.isnan(found.log_prob(np.where(X0 > 2, X0 - K, X0 + K))).all()
    rarer = lambda log_p, least: (jnp.sum(log_p < least[..., None], -1), {"largest": log_p.max(-1)})
    least = np.where(X0 > 2, -1.0, -2.0)
    count, other = found.ask(rarer, least)
    np.testing.assert_array_equal(count, np.sum(log_p < least[..., None], -1))
    np.testing.assert_allclose(other["largest"], log_p.max(-1), atol=1e-6)


def test_gradients_of_a_head_are_those_of_its_whole_logits(small):
    """d log p(x_0)/d logits = [x_0] - p, by the chain rule; 0 for what is certain."""
    weight = RANDOM.normal(size=X0.shape)
    possible = np.isfinite(GAIN) | (AT == X0)

    def loss(*numbers):
        return jnp.sum(jnp.where(possible, weight * told(head(*numbers)).log_prob(X0), 0.0))

    found = jax.grad(loss, (0, 1, 2))(*(jnp.asarray(number, jnp.float32) for number in (FEATURES, TABLE, BIAS)))
    slope = np.where(possible, weight, 0.0)[..., None] * (np.eye(K)[X0] - np.exp(law(FEATURES @ TABLE.T + BIAS)))
    axes = ([0, 1, 2], [0, 1, 2])
    expected = slope @ TABLE, np.tensordot(slope, FEATURES, axes), slope.sum((0, 1, 2))
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_token_is_drawn_alike_alone_in_a_smaller_batch_and_from_whole_logits(small):
    draw = jax.jit(lambda prediction, keys, where: prediction.draw(keys, where))
    every, few = np.ones(X0.shape, bool), RANDOM.random(X0.shape) < 0.2
    found = np.asarray(draw(told(), KEYS, every))
    np.testing.assert_array_equal(np.asarray(draw(told(), KEYS, few))[few], found[few])
    whole = jd.Categorical(HEAD.logits(), told().evidence)
    np.testing.assert_array_equal(draw(whole, KEYS, every), found)
    last = jax.tree.map(lambda leaf: leaf[-1:], whole)
    np.testing.assert_array_equal(draw(last, KEYS[-1:], every[-1:]), found[-1:])
    certain = np.isinf(GAIN)
    np.testing.assert_array_equal(found[certain], AT[certain])


def test_few_draws_cost_few_chunks(small):
    chunks = []

    def draw(head, _):
        jax.debug.callback(lambda: chunks.append(head.features.shape[1]))
        return jnp.zeros(head.shape[:-1], jnp.int32)

    for needed, expected in ((0, 0), (3, 1), (64, 1), (65, 2), (140, 3)):
        chunks.clear()
        where = np.random.default_rng(needed).permutation(140) < needed
        heads.where_needed(draw, HEAD, (), jnp.asarray(where.reshape(X0.shape))).block_until_ready()
        jax.effects_barrier()
        assert chunks == [64] * expected


@pytest.mark.parametrize("shared", [True, False], ids=["one table", "two tables"])
def test_guidance_of_heads_is_that_of_their_logits(shared):
    """By the definition, with a scale an example; what is certain stays certain, and nothing is NaN."""
    features, table, bias = (FEATURES[::-1], TABLE, BIAS) if shared else (FEATURES[::-1], TABLE[::-1], BIAS[::-1])
    other = dataclasses.replace(HEAD, features=head(features).features) if shared else head(features, table, bias)
    scale = np.array([0.0, 1.0, -2.0, 7.5])
    guided = told().extrapolated([told(other)], [scale])
    assert isinstance(guided.logits, jd.Head)
    assert guided.logits.features.shape[-1] == (D if shared else 2 * (D + 1))
    weight = scale[:, None, None, None]
    logits = (1 - weight) * (FEATURES @ TABLE.T + BIAS) + weight * (features @ table.T + bias)
    np.testing.assert_allclose(guided.probabilities(), np.exp(law(logits)), atol=1e-5)
    whole = told(HEAD.logits()).extrapolated([told(other)], [scale])
    np.testing.assert_allclose(whole.probabilities(), np.exp(law(logits)), atol=1e-5)


def test_one_batch_of_conditions_leaves_the_table_whole():
    """Guidance by a null asks for all conditions at once and takes the answers apart."""
    process, x, labels = jd.Absorbing(K), jnp.full((2, 4), K), jnp.array([0, 1])

    def network(params, x, c_noise, cond):
        return jd.Head(jnp.ones((*x.shape, 1)) * (1.0 + cond)[:, None, None], params)

    table = np.log(np.arange(1.0, K + 1))[:, None]
    denoiser = jd.guidance.ClassifierFree(jd.Denoiser(network, table, process), 3.0, null=2)
    power = 3.0 + 3.0 * (np.arange(2) - 2)  # 1 + null + scale (cond - null)
    expected = np.arange(1.0, K + 1) ** power[:, None]
    expected /= expected.sum(1, keepdims=True)
    found = jax.jit(lambda: denoiser(x, 1.0, labels).probabilities())()
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], (2, 4, K)), rtol=1e-5)


@pytest.mark.slow
def test_a_thousandth_of_a_step_neither_cools_a_vocabulary_nor_shows_too_few():
    """Zipf's law over 50,257 categories: one draw over them and "stays a mask" in float32 shows 0.63 times as many
    tokens, with 5.2 nats in place of their 7.6."""
    categories, n = 50_257, 120_000
    p = 1 / np.arange(1, categories + 1)
    p /= p.sum()
    entropy, spread = -np.sum(p * np.log(p)), np.sqrt(np.sum(p * np.log(p) ** 2) - np.sum(p * np.log(p)) ** 2)
    process = jd.Absorbing(categories)
    x = jnp.full((1, n), process.mask)
    head = jd.Head(jnp.ones((1, n, 1)), jnp.asarray(np.log(p), jnp.float32)[:, None])
    step = jax.jit(
        lambda keys: process.reverse(keys, jd.Categorical(head, process.evidence(x, 1.0)), x, 1.0, 1 - 1 / 1024)
    )
    after = np.asarray(step(example_keys(jax.random.key(0), 1)))[0]
    shown = after[after != process.mask]
    expected = n / 1024
    assert len(shown) == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert np.mean(-np.log(p[shown])) == pytest.approx(entropy, abs=4 * spread / np.sqrt(len(shown)))


@pytest.mark.parametrize("process", few({"masks": jd.Absorbing(1500), "uniform": jd.Multinomial(1500)}, "uniform"))
def test_no_program_holds_all_tokens_times_all_categories_nor_categories_twice(small, process):
    """Of a gradient of errors and divergences, and of a step back and an answer: no buffer so large in the program."""
    n, length, k = 4, 150, process.categories
    numbers = jax.ShapeDtypeStruct
    features, table = numbers((n, length, 2), jnp.float32), numbers((k, 2), jnp.float32)
    tokens = numbers((n, length), jnp.int32)

    def programs(features, table, x, x0):
        t, s = jnp.full(n, 0.7), jnp.full(n, 0.3)

        def cost(features, table):
            prediction = jd.Categorical(jd.Head(features, table), process.evidence(x, t))
            truth = process.perturb(KEYS, x0, t)[1]
            return jnp.sum(process.error(prediction, truth, x, t) + process.kl(prediction, truth, x, t, s)), prediction

        grads, prediction = jax.grad(cost, (0, 1), has_aux=True)(features, table)
        return grads, process.reverse(KEYS, prediction, x, t, s), process.answer(KEYS, prediction)

    program: Any = jax.jit(programs).lower(features, table, tokens, tokens).compile()
    shapes = [[int(side) for side in sides.split(",")] for sides in re.findall(r"\w\d+\[([\d,]+)\]", program.as_text())]
    assert k * 64 in map(math.prod, shapes), "a chunk"
    assert max(map(math.prod, shapes)) < n * length * k / 4
    assert not [sides for sides in shapes if sides.count(k) > 1]
    assert program.memory_analysis().temp_size_in_bytes < 4 * n * length * k


@pytest.mark.slow
def test_categories_rarer_than_float32_knows_between_0_and_1_are_drawn():
    """All but one of 50,257 have together 0.0057 of the mass: uniform numbers of 23 bits draw a third of them."""
    categories, n = 50_257, 8_000
    logits = jnp.full(categories, -16.0).at[7].set(0.0)
    rare = (categories - 1) * np.exp(-16.0)
    share = rare / (1 + rare)
    head = jd.Head(jnp.ones((1, n, 1)), logits[:, None])
    found = np.sum(np.asarray(jd.Categorical(head).draw(example_keys(jax.random.key(0), 1))) != 7)
    assert found == pytest.approx(n * share, abs=4 * np.sqrt(n * share * (1 - share)))
