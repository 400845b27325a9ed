"""The parts of transformers: [batch, length, width] -> [batch, length, width]."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.arrays.dtypes import working
from jaxdiff.networks.attention import dot_product_attention


def layer_norm(
    x: jax.Array, scale: jax.Array | float = 1.0, shift: jax.Array | float = 0.0, epsilon: float = 1e-6
) -> jax.Array:
    """x [..., width] with mean 0 and variance 1 over its last axis (Ba et al. 2016), times scale plus shift.

    Moments are computed in float32 or wider, the result has the dtype of x.
    """
    wide = working(x)
    mean = wide.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    mean, rate = jax.lax.optimization_barrier((mean, rate))  # stored for the gradient, which would sum over rows again
    return ((wide - mean) * rate * scale + shift).astype(x.dtype)


class LayerNorm(nnx.Module):
    """`layer_norm` with a learned scale and shift."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] -> the same."""
        return layer_norm(x, self.scale[...], self.bias[...])


class RMSNorm(nnx.Module):
    """x over the root of the mean of its squares, times a learned scale (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] -> the same."""
        wide = working(x)
        rate = jax.lax.optimization_barrier(jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6))
        return (wide * rate * self.scale[...]).astype(x.dtype)


class Heads(nnx.Module):
    """One linear map to queries, keys and values, or to those named in `parts`, each with `heads` heads.

    qk_norm: whether each query and key is normalised, each head by itself (Henry et al. 2020; Esser et al. 2024,
    5.3.2).
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        heads: int,
        parts: str = "qkv",
        qk_norm: bool = False,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        self.parts = parts
        self.linear = nnx.Linear(width_in, len(parts) * width, use_bias=bias, rngs=rngs)
        norm = lambda part: RMSNorm(width // heads, rngs=rngs) if qk_norm and part in parts else None
        self.norm_q, self.norm_k = norm("q"), norm("k")

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """[batch, length, width_in] -> an array [batch, length, heads, width/heads] for each of the parts."""
        norms = {"q": self.norm_q, "k": self.norm_k}
        arrays = [product(x, kernel) for kernel in jnp.split(self.linear.kernel[...], len(self.parts), axis=-1)]
        if self.linear.bias is not None:  # added to each part, so that its gradient is summed with the part's
            arrays = [array + bias for array, bias in zip(arrays, jnp.split(self.linear.bias[...], len(self.parts)))]
        heads = [array.reshape(*x.shape[:2], self.heads, -1) for array in arrays]
        return [norm(array) if (norm := norms.get(part)) else array for part, array in zip(self.parts, heads)]


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel, [..., m] and [m, n], as one product of two matrices.

    The gradient of the kernel is then one as well: on a CPU, XLA contracts over several axes at half the speed.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


class Dense(nnx.Linear):
    """A dense layer with a bias, by `product`."""

    bias: nnx.Param

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., outputs]."""
        return product(x, self.kernel[...]) + self.bias[...]


class FeedForward(nnx.Module):
    """Two dense layers with GELU between them, inner width 4 `width` (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.dense_in = Dense(width, 4 * width, rngs=rngs)
        self.dense_out = Dense(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, length, width] -> the same."""
        return self.dense_out(_gelu(product(x, self.dense_in.kernel[...]), self.dense_in.bias[...]))


@jax.checkpoint
def _gelu(x: jax.Array, bias: jax.Array) -> jax.Array:
    """GELU(x + bias), whose gradient stores only x and not the tanh."""
    return jax.nn.gelu(x + bias)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Attention with the heads concatenated: [batch, queries, width]."""
    return dot_product_attention(q, k, v, mask).reshape(*q.shape[:2], -1)
