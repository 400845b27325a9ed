"""The chain rule of masks, against enumeration of the orders of a small joint."""

import itertools
import math
from typing import Any

import jax
import letters
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.likelihood import chain

KEY = jax.random.key(0)
K, N = 2, 3
LOGITS = 2 * np.random.default_rng(0).standard_normal((*[K + 1] * N, N, K)).astype(np.float32)
X = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0]])
COUNTED = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0]])  # the others are given
DENOISER = jd.Denoiser(lambda table, x, c_noise, cond: table[x[:, 0], x[:, 1], x[:, 2]], LOGITS, jd.Absorbing(K))


def in_order(x0, order):
    """-log2 p of the values of `order`, one after another; all others are seen."""
    x, bits = np.array([K if i in order else v for i, v in enumerate(x0)]), 0.0
    for i in order:
        logits = LOGITS[tuple(x)][i].astype(np.float64)
        bits += np.log2(np.exp(logits).sum()) - logits[x0[i]] / math.log(2)
        x[i] = x0[i]
    return bits


def orders_of(x0, counted):
    return np.array([in_order(x0, order) for order in itertools.permutations(np.flatnonzero(counted))])


def test_left_to_right_is_the_product_of_its_conditionals():
    found = chain(KEY, DENOISER, X, weight=COUNTED, batch_size=2)
    bits = np.array([in_order(x, np.flatnonzero(counted)) for x, counted in zip(X, COUNTED)])
    np.testing.assert_allclose(found.per_example, bits / COUNTED.sum(1), rtol=1e-5)
    assert found.bits_per_dim == pytest.approx(bits.sum() / COUNTED.sum(), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(bits.sum() * math.log(2) / COUNTED.sum()), rel=1e-6)
    assert found.order_error == 0
    assert found.kind == "left to right, exact, 6 of 9 values, given the others"
    assert str(found).startswith(f"{found.bits_per_dim:.4f} +- {found.standard_error:.4f} bits a value, perplexity ")
    np.testing.assert_allclose(chain(KEY, DENOISER, X).per_example, [in_order(x, range(N)) / N for x in X], rtol=1e-5)


def test_random_orders_are_each_as_probable():
    """Every order of an example as often, within 4 standard errors; and the spread that the report says of them."""
    n, orders = 600, 5
    found = chain(KEY, DENOISER, np.repeat(X[:1], n, 0), "random", orders, batch_size=n)
    truth = orders_of(X[0], COUNTED[0]) / N
    assert found.per_order.shape == (n, orders)
    counts = np.array([np.isclose(found.per_order, value, rtol=1e-4).sum() for value in truth])
    assert counts.sum() == n * orders  # no two orders cost the same
    np.testing.assert_array_less(np.abs(counts - n * orders / 6), 4 * math.sqrt(n * orders * 5 / 36))
    error = truth.std() / math.sqrt(n * orders)
    assert found.order_error == pytest.approx(error, rel=0.1)
    assert found.standard_error == pytest.approx(error, rel=0.15)
    alone = chain(KEY, DENOISER, X, "random", weight=np.ones_like(COUNTED))
    assert np.isnan(alone.order_error)
    assert (found.kind, alone.kind) == ("random order, mean of 5 an example", "random order")


def test_the_mean_over_orders_is_the_bound_of_a_network_that_is_not_told_t():
    n = 1000
    x, weight = np.tile(X, (n, 1)), np.tile(COUNTED, (n, 1))
    bits = sum(orders_of(*both).mean() for both in zip(X, COUNTED)) / COUNTED.sum()
    bound = jd.continuous_bound(KEY, DENOISER, x, 8, batch_size=3 * n, weight=weight)
    by_orders = chain(KEY, DENOISER, x, "random", 2, batch_size=3 * n, weight=weight)
    for found in (bound, by_orders):
        assert abs(found.bits_per_dim - bits) < 4 * found.standard_error
    assert abs(chain(KEY, DENOISER, x[:3]).bits_per_dim - bits) > 0.1  # one order is another number


def test_an_example_depends_on_its_key_and_index_alone(capsys):
    x, weight = np.tile(X, (3, 1)), np.tile(COUNTED, (3, 1))
    whole = chain(KEY, DENOISER, x, "random", 3, batch_size=9, weight=weight)
    part = chain(KEY, DENOISER, x[:5], "random", 3, batch_size=2, weight=weight[:5], progress=True)
    np.testing.assert_allclose(part.per_order, whole.per_order[:5], rtol=1e-6)
    assert "chain" in capsys.readouterr().err


def test_what_has_no_chain_is_refused():
    numbers = jd.exact.Gaussian(jd.VP(), np.zeros(2), np.eye(2))
    with pytest.raises(TypeError, match="chain takes masks, Absorbing.* not VP; take jaxdiff.continuous_bound"):
        chain(KEY, numbers, np.zeros((2, 2), int))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"order": "right to left"}, 'order = \'right to left\'; expected "left to right" or "random"'),
        ({"orders": 2}, 'orders = 2, but left to right is one order; leave it out, or give order="random"'),
        ({"orders": 0, "order": "random"}, "orders = 0; expected at least one"),
        ({"batch_size": 0}, "batch_size = 0"),
    ]
    for settings, message in refused:
        with pytest.raises(ValueError, match=message):
            chain(KEY, DENOISER, X, **settings)
    with pytest.raises(ValueError, match=r"data\[0, 1\] = 2 is out of range"):
        chain(KEY, DENOISER, np.array([[0, 2, 1]]))


def short():
    """(initial, transition) of a chain of four letters."""
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(4, 0.3), 4) + 1e-3
    return rng.dirichlet(np.ones(4)), rows / rows.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("law", "length"),
    [
        pytest.param(short(), 6, id="four letters"),
        pytest.param(
            (letters.LETTERS, letters.TRANSITION), 128, marks=pytest.mark.slow, id="pairs of the King James Bible"
        ),
    ],
)
def test_by_the_truth_every_order_is_the_probability_itself_and_the_bound_is_its_mean(law, length):
    denoiser, (x, bits) = jd.exact.Markov(jd.Absorbing(len(law[0])), *law), letters.drawn(64, length, *law)
    for order in ("left to right", "random"):
        found = chain(KEY, denoiser, x, order)
        np.testing.assert_allclose(found.per_example * length, bits, rtol=2e-4)
    found = jd.continuous_bound(KEY, denoiser, x, 64)
    noise = found.per_example - bits / length  # the bound's alone: that of the data is in both
    assert abs(noise.mean()) < 4 * noise.std() / 8


@pytest.mark.slow
def test_the_bound_of_letters_of_the_king_james_bible_is_their_entropy():
    denoiser = jd.exact.Markov(jd.Absorbing(27), letters.LETTERS, letters.TRANSITION)
    x, _ = letters.drawn(512, 128, seed=1)
    assert float(denoiser.entropy(128)) / math.log(2) == pytest.approx(letters.entropy(128), rel=1e-5)
    found = jd.continuous_bound(KEY, denoiser, x, 16)
    assert abs(found.per_example.mean() - letters.entropy(128) / 128) < 4 * found.standard_error < 0.1
