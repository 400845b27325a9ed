r"""Group normalisation (Wu and He 2018), whose values and derivatives take two passes over the pixels each.

With m and s the means of x and x² over the pixels and channels of a group,

    y = a x + (β - a m),        a = γ/√(s - m² + ε)

is one pass that sums and one that multiplies and adds, a and β - a m being a number an example and channel. A product
forward needs the sums of dx and x dx beside, a gradient g those of g and g x, which give the gradients of γ and β too.
For the difference s - m² to be right where the variance is small beside the mean, x is taken less one of each group's
values, in float32 at least.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx


class GroupNorm(nnx.GroupNorm):
    """At most 32 groups, of at least four channels."""

    scale: nnx.Param
    bias: nnx.Param

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        super().__init__(channels, num_groups=math.gcd(32, channels, max(1, channels // 4)), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, h, w, channels] -> the same."""
        return group_norm(x, self.scale[...], self.bias[...], self.num_groups, self.epsilon)

    def modulated(self, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        """The same times 1 + scale plus shift, [batch, channels]: FiLM (Perez et al. 2018)."""
        scaled, moved = modulate(self.scale[...], self.bias[...], scale, shift)
        return group_norm(x, scaled, moved, self.num_groups, self.epsilon)


def modulate(scale, bias, factor, shift) -> tuple[jax.Array, jax.Array]:
    """The scale and bias of a norm whose result is multiplied by 1 + factor and moved by shift."""
    return scale * (1 + factor), bias * (1 + factor) + shift


def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float) -> jax.Array:
    """x [batch, ..., channels], each group of channels with mean 0 and variance 1, times scale plus bias.

    scale, bias: [channels], or [batch, channels]. Moments are taken in float32 at least, the result has the type of x.
    """
    batch, channels = len(x), x.shape[-1]
    of_channels = lambda numbers: numbers.repeat(channels // groups, -1)
    everywhere = lambda numbers: numbers.reshape(batch, *[1] * (x.ndim - 2), channels)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(batch, -1, channels)
    wide -= jax.lax.stop_gradient(of_channels(wide[:, :1, :: channels // groups]))
    sums = jnp.stack([wide.mean(1), jnp.square(wide).mean(1)])  # channels later: half the time of both at once on CPU
    mean, square = sums.reshape(2, batch, groups, -1).mean(-1)
    rate = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)
    slope = scale * of_channels(rate)
    offset = bias - of_channels(mean) * slope
    return (wide.reshape(x.shape) * everywhere(slope) + everywhere(offset)).astype(x.dtype)
