"""Convolutions of size 3: XLA's own, but on CPU matrix products, which are up to 50 times faster there.

The choice is made when a program is lowered for a platform, not when it is traced, so that a program exported on one
platform is right on another.

Stride 1, padded by zeros, over one, two or three axes, is one product over three shifted views and, for each axis but
the last, a sum of three. For two axes:

    y_r = Σ_j x shifted by j - 1 columns · kernel[r, j]        for each row r of the kernel, in one product
    y   = y_0 one row down + y_1 + y_2 one row up

Stride 2, for two axes only, is one product over nine views. XLA's convolution reaches half of the speed of its product,
and inside a loop, as in gradient accumulation, its gradient takes 30 to 50 times as long: 580 ms in place of 17 ms for
three of them at 16 x 16 x 64. The views are recomputed for a gradient, and on one device the product is cut into
products of about 4096 pixels: the gradient of the kernel, a sum over all pixels, is then a sum of small products.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff.networks.platforms import platform_dependent

_PIXELS = 4096


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[batch, *sides, channels_in] and [3, ..., channels_in, channels] -> [batch, *sides, channels], 1 to 3 sides."""
    return platform_dependent(x, kernel, cpu=_by_product, default=_by_xla)


def halving_convolution(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """The same over two axes with stride 2, and `padding` rows and columns of zeros before and behind."""
    by_patches, by_xla = _halving(padding)
    return platform_dependent(x, kernel, cpu=by_patches, default=by_xla)


@functools.cache
def _halving(padding):
    by_patches = jax.checkpoint(functools.partial(_by_patches, padding=padding))
    return by_patches, functools.partial(_by_xla, stride=2, padding=padding)


def pointwise(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    """[..., channels_in] and [channels_in, channels] -> [..., channels], for x in parts along the channels.

    The parts are not concatenated in memory.
    """
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    return functools.reduce(jnp.add, (part @ rows for part, rows in zip(parts, jnp.split(kernel, ends[:-1]))))


def _by_xla(x, kernel, stride=1, padding=(1, 1)):
    x, kernel = (array.astype(jnp.result_type(x, kernel)) for array in (x, kernel))
    axes = x.ndim - 2
    sides = "DHW"[-axes:]
    dimensions = (f"N{sides}C", f"{sides}IO", f"N{sides}C")
    return jax.lax.conv_general_dilated(x, kernel, [stride] * axes, [padding] * axes, dimension_numbers=dimensions)


@jax.checkpoint
def _by_product(x, kernel):
    batch, *sides, channels_in = x.shape
    padded = jnp.pad(x, _at(x, -2, (1, 1)))
    wide = jnp.concatenate([padded[..., j : j + sides[-1], :] for j in range(3)], axis=-1)
    side_by_side = jnp.moveaxis(kernel, (-3, -2), (0, 1)).reshape(3 * channels_in, -1)
    most = (
        max(1, batch * math.prod(sides) // _PIXELS) if jax.device_count() == 1 else 1
    )  # on several devices it would move data
    parts = max(n for n in range(1, most + 1) if batch % n == 0)
    kernels = jnp.broadcast_to(side_by_side, (parts, *side_by_side.shape))
    y = (wide.reshape(parts, -1, 3 * channels_in) @ kernels).reshape(batch, *sides, -1)
    for axis in range(1, len(sides)):
        before, here, after = jnp.split(y, 3, axis=-1)
        on = jnp.pad(jax.lax.slice_in_dim(before, 0, -1, axis=axis), _at(x, axis, (1, 0)))
        back = jnp.pad(jax.lax.slice_in_dim(after, 1, None, axis=axis), _at(x, axis, (0, 1)))
        y = on + here + back
    return y


def _at(x, axis: int, padding: tuple[int, int]) -> list[tuple[int, int]]:
    """Padding for `axis` of x and none for the others."""
    return [padding if i == axis % x.ndim else (0, 0) for i in range(x.ndim)]


def _by_patches(x, kernel, padding):
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = ((size + sum(padding) - 3) // 2 + 1 for size in x.shape[1:3])
    views = [padded[:, r : r + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for r in range(3) for j in range(3)]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
