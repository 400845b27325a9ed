r"""Group normalisation (Wu and He 2018), whose values and derivatives take two passes over the pixels each.

With μ and r = 1/√(variance + ε) of each group, x̂ = (x - μ) r and y = γ x̂ + β,

    dy = a dx + x̂ (dγ - a ⟨x̂ dx⟩) + dβ - a ⟨dx⟩,        a = γ r, ⟨⟩ the mean over the pixels of a group.

One pass takes sums over pixels, a number an example and channel, the other is this formula; a gradient, its transpose,
likewise needs the sums of g and of g x̂ over pixels alone, which give those of γ and β too. Moments are of x less
one value of each group, so that a variance which is small beside the mean is right, and in float32 at least.
"""

import functools
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


def _over_pixels(x):
    """The mean over pixels, [batch, channels]: half the time of pixels and channels at once on CPU."""
    return x.mean(tuple(range(1, x.ndim - 1)))


def _over_group(numbers, groups: int):
    """[batch, channels], each the mean of its group."""
    means = numbers.reshape(len(numbers), groups, -1).mean(2)
    return means.repeat(numbers.shape[1] // groups, 1)


def _everywhere(numbers, x):
    """[batch, channels] at every pixel of x."""
    return numbers.reshape(len(numbers), *[1] * (x.ndim - 2), -1)


def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float) -> jax.Array:
    """x [batch, ..., channels], each group of channels with mean 0 and variance 1, times scale plus bias [channels].

    Moments are taken in float32 at least, the result has the type of x.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    scale, bias = (jnp.broadcast_to(each.astype(wide), (len(x), len(each))) for each in (scale, bias))
    return _normed(x, scale, bias, groups, epsilon)


def _moments(x, groups: int, epsilon: float):
    """(x̂, r) in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    first = x.reshape(len(x), -1, groups, x.shape[-1] // groups)[:, 0, :, 0]
    moved = x - _everywhere(first.repeat(x.shape[-1] // groups, 1), x)
    mean, square = (_over_group(_over_pixels(each), groups) for each in (moved, jnp.square(moved)))
    rate = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)
    return (moved - _everywhere(mean, x)) * _everywhere(rate, x), rate


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normed(x, scale, bias, groups, epsilon):
    normal, _ = _moments(x, groups, epsilon)
    return (normal * _everywhere(scale, x) + _everywhere(bias, x)).astype(x.dtype)


@_normed.defjvp
def _jvp(groups, epsilon, arrays, tangents):
    x, scale, bias = arrays
    dx, dscale, dbias = tangents
    normal, rate = _moments(x, groups, epsilon)
    slope = scale * rate
    dx = dx.astype(normal.dtype)
    tilt = dscale - slope * _over_group(_over_pixels(normal * dx), groups)
    shift = dbias - slope * _over_group(_over_pixels(dx), groups)
    y = normal * _everywhere(scale, x) + _everywhere(bias, x)
    dy = dx * _everywhere(slope, x) + normal * _everywhere(tilt, x) + _everywhere(shift, x)
    return y.astype(x.dtype), dy.astype(x.dtype)
