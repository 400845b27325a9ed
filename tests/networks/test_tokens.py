"""Networks with categories at both ends: the transformer by its parts, laws of ordered values by definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from scipy.special import expit

import jaxdiff as jd
from jaxdiff.networks import MLP, Cast, Tokens, Transformer, UNet, initialize
from jaxdiff.networks.functional import shapes
from jaxdiff.networks.positions import rotated
from jaxdiff.networks.tokens import logistic_logits

RNG = np.random.default_rng(0)
K, LENGTH = 5, 6
X = RNG.integers(0, K + 1, (3, LENGTH))
LABELS = np.array([0, 1, 2])
C_NOISE = np.array([-1.0, 0.1, 2.0], np.float32)


def small(rngs, categories=K, **options):
    return Transformer(categories, LENGTH, width=8, depth=2, heads=2, rngs=rngs, **options)


@functools.cache
def built(**options):
    """A network whose weights are moved away from the zeros that it begins with."""
    network, params = initialize(jax.random.key(0), functools.partial(small, **options))
    moved = jax.tree.map(lambda p: p + 0.3 * np.random.default_rng(1).normal(size=p.shape).astype(np.float32), params)
    return jax.jit(network), moved


def test_a_place_is_turned_as_a_complex_number():
    """Numbers i of the two halves are one number, times exp(j p 10000^(-2i/d)) at place p."""
    x = RNG.normal(size=(2, 7, 3, 8))
    found = np.asarray(rotated(jnp.asarray(x, jnp.float32)))
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * np.arange(7)[:, None, None] * 10_000.0 ** (-np.arange(4) / 4))
    np.testing.assert_allclose(found[..., :4] + 1j * found[..., 4:], turned, atol=1e-5)


def test_a_text_knows_the_order_of_its_tokens_and_no_other_text():
    """The last token is told what the first two are: exchanged, its logits change, unlike those of the other texts."""
    network, params = built(classes=3, noise=True)
    x = X.copy()
    x[0, :2] = 0, 1
    other = x.copy()
    other[0, :2] = 1, 0
    one, two = (np.asarray(network(params, x, C_NOISE, LABELS)) for x in (x, other))
    assert np.abs(one[0, -1] - two[0, -1]).max() > 1e-3
    np.testing.assert_allclose(one[1:], two[1:], atol=1e-6)


@pytest.mark.parametrize("noise", few_names([True, False], True))
def test_the_noise_level_and_a_label_are_read_where_they_are_told(noise):
    network, params = built(classes=3, noise=noise)
    out = network(params, X, C_NOISE, LABELS)
    differs = lambda *inputs: np.abs(out - network(params, X, *inputs)).max(axis=(1, 2)) > 1e-4
    np.testing.assert_array_equal(differs(-C_NOISE, LABELS), noise)
    np.testing.assert_array_equal(differs(C_NOISE, np.array([0, 1, 3])), [False, False, True])


@pytest.mark.slow
def test_a_network_that_is_told_nothing_reads_its_tokens_alone():
    bare, params = built(noise=False)
    np.testing.assert_array_equal(bare(params, X, C_NOISE, None), bare(params, X, -C_NOISE, None))


@pytest.mark.parametrize("tied", [pytest.param(True, marks=pytest.mark.slow), False], ids=["tied", "two tables"])
def test_a_large_vocabulary_comes_as_a_head_of_one_table_or_two(tied):
    """All probabilities are equal at the start; the table has no row of the mask's; bfloat16 leaves float32 logits."""
    network, params = initialize(jax.random.key(0), functools.partial(small, categories=1025, tied=tied))
    head = jax.jit(network)(params, X, C_NOISE, None)
    assert isinstance(head, jd.Head)
    np.testing.assert_array_equal(head.logits(), np.zeros((*X.shape, 1025)))
    written = params["read"]["rows"]["embedding"][:1025] if tied else params["write"]["rows"]["embedding"]
    np.testing.assert_array_equal(head.table, written)
    half = jax.eval_shape(Cast(network, jnp.bfloat16), params, X, C_NOISE, None)
    assert (half.table.dtype, half.dtype) == (jnp.bfloat16, jnp.float32)


def test_a_small_vocabulary_comes_in_float32_of_a_network_in_bfloat16():
    network, params = shapes(jax.random.key(0), small)
    assert jax.eval_shape(Cast(network, jnp.bfloat16), params, X, C_NOISE, None).dtype == jnp.float32


@pytest.mark.slow
def test_a_u_net_and_an_mlp_have_categories_at_both_ends():
    x = RNG.integers(0, K + 1, (3, 4, 2))
    for make in (
        lambda rngs: Tokens(UNet(4, (4, 4), blocks=1, classes=3, rngs=rngs), K, 4, rngs=rngs),
        lambda rngs: Tokens(MLP((4, 2, 4), (8,), classes=3, rngs=rngs), K, 4, "logistic", rngs=rngs),
    ):
        network, params = initialize(jax.random.key(0), make)
        assert network(params, x, C_NOISE, LABELS).shape == (*x.shape, K)
        assert network.no_label(params) == 3
        with pytest.raises(ValueError, match="cond"):
            network.check_cond(params, np.array([0, 1, 4]))


def test_ordered_values_have_the_law_of_a_logistic_cut_to_them():
    """By its definition in float64: differences of the distribution function at the edges of bins, normalised."""
    x, out = RNG.integers(0, 18, (40,)), RNG.normal(size=(40, 2))
    out[:, 1] -= 1.0
    centres, width = np.linspace(-1, 1, 17), 2 / 16
    mean = np.tanh(np.where(x < 17, centres[np.minimum(x, 16)], 0.0) + out[:, 0])[:, None]
    scale = np.exp(out[:, 1] - 2)[:, None]
    p = expit((centres + width / 2 - mean) / scale) - expit((centres - width / 2 - mean) / scale)
    p /= p.sum(1, keepdims=True)
    found = jax.nn.log_softmax(logistic_logits(jnp.asarray(x), jnp.asarray(out, jnp.float32), 17))
    np.testing.assert_allclose(np.exp(found), p, atol=1e-5)
    rare = p > 1e-8
    np.testing.assert_allclose(np.asarray(found)[rare], np.log(p[rare]), rtol=1e-3, atol=1e-3)
    far = logistic_logits(jnp.asarray([0]), jnp.asarray([[0.0, -6.0]]), 256)
    assert np.isfinite(jax.nn.log_softmax(far)).all()
