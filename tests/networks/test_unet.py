import math
import re

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import an_h100
from flax import nnx

from jaxdiff.networks import UNet, initialize
from jaxdiff.networks.blocks import Attention, Conv, ResidualBlock, double, halve
from jaxdiff.networks.functional import shapes
from jaxdiff.networks.normalization import GroupNorm


def test_halve_is_the_mean_and_double_its_inverse():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    mean = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(halve(jnp.asarray(x)), mean, atol=1e-6)
    np.testing.assert_array_equal(double(jnp.asarray(x)), np.kron(x, np.ones((1, 2, 2, 1), np.float32)))
    np.testing.assert_allclose(halve(double(jnp.asarray(x))), x, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (6, 1), (9, 1), (20, 1), (24, 2), (32, 8), (64, 16), (512, 32)]
)
def test_group_norm_divides_its_channels(channels, groups):
    norm = GroupNorm(channels, rngs=nnx.Rngs(0))
    assert norm.num_groups == groups
    x = 5 + 3 * np.random.default_rng(0).normal(size=(2, 4, 4, channels)).astype(np.float32)
    grouped = x.reshape(2, 16, groups, -1)
    expected = (grouped - grouped.mean((1, 3), keepdims=True)) / grouped.std((1, 3), keepdims=True)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected.reshape(x.shape), atol=1e-4)


def test_blocks_begin_as_the_identity():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    residual = jax.jit(lambda x: ResidualBlock(8, 8, 5, rngs=nnx.Rngs(0))([x], jnp.ones((2, 5))))
    attention = jax.jit(lambda x: Attention(8, 2, rngs=nnx.Rngs(0))(x))
    np.testing.assert_array_equal(residual(x), x)
    np.testing.assert_array_equal(attention(x), x)


def test_attention_against_the_formula():
    attention = Attention(8, 2, rngs=nnx.Rngs(0))
    attention.out.kernel[...] = jnp.eye(8)
    x = jax.random.normal(jax.random.key(0), (3, 2, 4, 8))
    qkv = np.asarray(attention.qkv(attention.norm(x)), np.float64).reshape(3, 8, 3, 2, 4)
    q, k, v = np.moveaxis(qkv, 2, 0)
    weights = np.exp(np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(4))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhc->bqhc", weights, v).reshape(x.shape)
    np.testing.assert_allclose(attention(x) - x, expected, atol=1e-5)


def two_levels(attention):
    return lambda rngs: UNet(1, channels=(8, 8), blocks=1, attention=attention, heads=2, rngs=rngs)


@pytest.mark.slow
def test_attention_is_at_the_levels_that_ask_for_it():
    def count(attention):
        make = two_levels(attention)
        state = jax.eval_shape(lambda key: nnx.state(make(nnx.Rngs(key))), jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    one = (8 + 8) + (8 * 24 + 24) + (8 * 8 + 8)  # norm, qkv, out
    assert count((0,)) - count(()) == 2 * one  # one block down, one up
    assert count((1,)) - count(()) == 3 * one  # and one in the middle, at the last level
    assert count((0, 1)) - count(()) == 5 * one


@pytest.mark.slow
def test_the_way_up_reads_the_level_below_and_the_skip():
    network, params = initialize(jax.random.key(0), two_levels(()))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * rng.normal(size=p.shape), jnp.float32), params)
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 1)), jnp.float32)
    last = params["up"][1][0]["residual"]
    kernel, skip = last["conv_in"]["kernel"], last["skip"]["kernel"]
    gradient = jax.jit(jax.grad(lambda params, x: jnp.sum(network(params, x, 0.0) ** 2), argnums=(0, 1)))

    def reach(below, beside):
        """Does the output depend on the middle, and on x, if the last block reads these alone?"""
        keep = jnp.repeat(jnp.array([below, beside], jnp.float32), 8)
        last["conv_in"]["kernel"], last["skip"]["kernel"] = kernel * keep[:, None], skip * keep[:, None]
        by_params, by_x = gradient(params, x)
        middle = by_params["middle"][0]["residual"]["conv_in"]["kernel"]
        return bool(np.any(middle)), bool(np.any(by_x))

    assert reach(True, True) == (True, True)
    assert reach(False, True) == (False, True)
    assert reach(True, False) == (True, True)
    assert reach(False, False) == (False, False)


def test_one_network_takes_images_of_every_size():
    network, params = shapes(jax.random.key(0), two_levels((1,)))
    for shape in [(1, 2, 2, 1), (2, 6, 10, 1)]:
        assert jax.eval_shape(network, params, jnp.ones(shape), 0.0).shape == shape


def test_sizes_that_cannot_be_halved_are_refused():
    network, params = shapes(jax.random.key(0), lambda rngs: UNet(1, channels=(4, 4, 4), blocks=1, rngs=rngs))
    with pytest.raises(
        ValueError, match="images of 8 x 6 cannot be halved 2 times for 3 levels; pad them to multiples of 4"
    ):
        jax.eval_shape(network, params, jnp.ones((2, 8, 6, 1)), 0.0)
    for shape in [(2, 8, 8, 3), (8, 8, 1)]:
        with pytest.raises(ValueError, match=r"expected \[batch, height, width, 1\]"):
            jax.eval_shape(network, params, jnp.ones(shape), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": (2,)}, "attention at level 2; channels = (8, 8) has levels 0 to 1"),
        ({"attention": (1,), "heads": 3}, "heads = 3 does not divide the 8 channels of level 1"),
        ({"blocks": 0}, "expected one level and one block or more"),
        ({"channels": ()}, "expected one level and one block or more"),
    ],
)
def test_structures_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        UNet(1, **{"channels": (8, 8), **options}, rngs=nnx.Rngs(0))


def test_outputs_are_blocks_of_channels():
    network, params = shapes(jax.random.key(0), lambda rngs: UNet(3, (8,), 1, outputs=2, rngs=rngs))
    out = jax.eval_shape(network, params, jnp.zeros((2, 4, 4, 3)), jnp.zeros(2))
    assert out.shape == (2, 4, 4, 6)


@pytest.mark.slow
def test_rematerialisation_keeps_less_and_changes_no_gradient(capsys):
    x, c_noise = jax.random.normal(jax.random.key(0), (4, 4, 4, 1)), jnp.linspace(-2, 2, 4)

    def gradient(remat):
        """(the gradient, how many values are kept for it beside weights and inputs)."""
        make = lambda rngs: UNet(1, (8,), 1, (0,), heads=2, remat=remat, rngs=rngs)
        network, params = initialize(jax.random.key(1), make)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda p: p + jnp.asarray(0.1 * rng.normal(size=p.shape), jnp.float32), params)
        loss = lambda params: jnp.square(network(params, x, c_noise)).mean()
        jax.ad_checkpoint.print_saved_residuals(loss, params)
        kept = [line for line in capsys.readouterr().out.splitlines() if "from the argument" not in line]
        shapes = [re.match(r"\w+\[([\d,]*)\]", line)[1] for line in kept if line]
        values = sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)
        return jax.jit(jax.grad(loss))(params), values

    (grads, kept), (grads_again, kept_again) = gradient(False), gradient(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * abs(b).max()), grads_again, grads)
    assert kept_again < kept / 3


def test_on_a_gpu_every_layer_is_one_product_and_every_norm_three_sums():
    """A norm: two sums over pixels and one over channels. Halving is a sum, a shortcut of two parts is two products."""
    make = lambda rngs: UNet(1, (8, 16), 1, (1,), 2, rngs=rngs)
    module, (network, params) = nnx.eval_shape(lambda: make(nnx.Rngs(0))), shapes(jax.random.key(0), make)
    x, c_noise = jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)
    with an_h100():
        text = jax.jit(network).trace(params, x, c_noise).lower(lowering_platforms=("cuda",)).as_text()
    kinds = [type(node) for _, node in nnx.iter_graph(module)]
    norms, convolutions = kinds.count(GroupNorm), kinds.count(Conv)
    linear = sum(issubclass(kind, nnx.Linear) for kind in kinds)
    parts = len([block for level in module.up for block in level])
    assert text.count("stablehlo.reduce(") == 3 * norms + len(module.down) - 1
    assert text.count("stablehlo.convolution(") == convolutions
    assert text.count("stablehlo.dot_general") == linear + parts
