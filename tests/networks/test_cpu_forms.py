"""Convolution and attention as CPUs compute them, beside XLA's and JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks import attention as attention_module
from jaxdiff.networks.attention import dot_product_attention
from jaxdiff.networks.convolution import convolution, halving_convolution


def xla(stride, padding=(1, 1)):
    first = lambda x: jnp.moveaxis(x, -1, 1)  # channels, where JAX has them unless told otherwise

    def convolve(x, kernel):
        kernel = jnp.moveaxis(kernel, (-1, -2), (0, 1))
        axes = x.ndim - 2
        return jnp.moveaxis(jax.lax.conv_general_dilated(first(x), kernel, [stride] * axes, [padding] * axes), 1, -1)

    return convolve


def draws(key, *shapes):
    return [jax.random.normal(k, shape) for k, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]


def assert_same_function(ours, theirs, inputs, tolerance=2e-5):
    """Values, products forward and backward, and the gradient of a product forward."""
    tangents = draws(jax.random.key(7), *(x.shape for x in inputs))
    cotangent = jax.random.normal(jax.random.key(8), jax.eval_shape(theirs, *inputs).shape)

    def everything(f):
        forward = lambda *inputs: jax.jvp(f, inputs, tuple(tangents))
        backward = lambda *inputs: jnp.vdot(f(*inputs), cotangent)
        both = lambda *inputs: jnp.vdot(forward(*inputs)[1], cotangent)
        every = tuple(range(len(inputs)))
        return jax.jit(
            lambda *inputs: (forward(*inputs), jax.grad(backward, every)(*inputs), jax.grad(both, every)(*inputs))
        )

    for got, expected in zip(*(jax.tree.leaves(everything(f)(*inputs)) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max() + 1e-12)


SHAPES = {
    "odd": (3, 5, 7, 4),
    "in two parts": (6, 48, 32, 2),
    "a pixel": (1, 1, 1, 3),
    "one axis": (2, 5, 3),
    "three axes": (2, 3, 4, 5, 2),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_convolution_is_xlas(shape):
    x, kernel = draws(jax.random.key(0), shape, (*[3] * (len(shape) - 2), shape[-1], 5))
    assert_same_function(convolution, xla(1), (x, kernel))


@pytest.mark.parametrize("padding", [(1, 1), (0, 1)])
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (2, 7, 5, 3)])
def test_halving_convolution_is_xlas(shape, padding):
    x, kernel = draws(jax.random.key(1), shape, (3, 3, 3, 4))
    ours = lambda x, kernel: halving_convolution(x, kernel, padding)
    assert_same_function(ours, xla(2, padding), (x, kernel))


@pytest.mark.parametrize("weights", [1, 2 * 2 * 9**2, 2**21], ids=["one at a time", "two and a rest", "at once"])
def test_attention_is_jaxs(monkeypatch, weights):
    monkeypatch.setattr(attention_module, "_WEIGHTS", weights)
    parts = draws(jax.random.key(2), *[(5, 9, 2, 4)] * 3)
    assert_same_function(dot_product_attention, jax.nn.dot_product_attention, parts)


def test_attention_of_large_logits_is_finite():
    q = jnp.full((1, 4, 1, 2), 100.0)
    np.testing.assert_allclose(dot_product_attention(q, q, q), q, rtol=1e-6)


def test_a_convolution_and_attention_under_vmap():
    x, kernel = draws(jax.random.key(3), (2, 3, 4, 4, 2), (3, 3, 2, 2))
    together = jax.vmap(convolution, (0, None))(x, kernel)
    np.testing.assert_allclose(together, jnp.stack([convolution(part, kernel) for part in x]), atol=1e-5)
    q = x.reshape(2, 3, 16, 2, 1)
    np.testing.assert_allclose(
        jax.vmap(dot_product_attention)(q, q, q),
        jnp.stack([dot_product_attention(part, part, part) for part in q]),
        atol=1e-5,
    )
