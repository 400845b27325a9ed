"""Convolutions of 3 x 3: XLA's own, but on CPU matrix products, which are up to 50 times faster there.

Which of the two runs is chosen when a program is lowered for a platform, not when it is traced, so that a program that
is exported on one platform is right on another.

Stride 1, zeros around, is one product over three shifted views and a sum of three:

    y_r = Σ_j x shifted by j - 1 columns · kernel[r, j]        for each row r of the kernel, in one product
    y   = y_0 one row down + y_1 + y_2 one row up

Stride 2 is one product over nine views. XLA's convolution reaches half of what its product does, and inside of a loop,
as where gradients are accumulated, its gradient takes 30 to 50 times as long: 580 in place of 17 ms for three of them
at 16 x 16 x 64. The views are made again for a gradient, and on one device the product is cut into some of about 4096
pixels: the gradient of the kernel, a sum over all pixels, is then a sum of small products.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

_PIXELS = 4096


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[batch, height, width, channels_in] and [3, 3, channels_in, channels] -> [batch, height, width, channels]."""
    by_xla = functools.partial(_by_xla, stride=1, padding=(1, 1))
    return jax.lax.platform_dependent(x, kernel, cpu=_by_product, default=by_xla)


def halving_convolution(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """The same with stride 2, and `padding` rows and columns of zeros before and behind."""
    by_patches = lambda x, kernel: _by_patches(x, kernel, padding)
    by_xla = functools.partial(_by_xla, stride=2, padding=padding)
    return jax.lax.platform_dependent(x, kernel, cpu=by_patches, default=by_xla)


def pointwise(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    """[..., channels_in] and [channels_in, channels] -> [..., channels], of parts of the channels side by side.

    They are not put together in memory.
    """
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    return functools.reduce(jnp.add, (part @ rows for part, rows in zip(parts, jnp.split(kernel, ends[:-1]))))


def _by_xla(x, kernel, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [padding] * 2, dimension_numbers=dimensions)


@jax.checkpoint
def _by_product(x, kernel):
    batch, height, width, channels_in = x.shape
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    wide = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)], axis=-1)
    side_by_side = kernel.transpose(1, 2, 0, 3).reshape(3 * channels_in, -1)
    most = max(1, batch * height * width // _PIXELS) if jax.device_count() == 1 else 1  # over a mesh it moves data
    parts = max(n for n in range(1, most + 1) if batch % n == 0)
    kernels = jnp.broadcast_to(side_by_side, (parts, *side_by_side.shape))
    rows = (wide.reshape(parts, -1, 3 * channels_in) @ kernels).reshape(batch, height, width, -1)
    above, here, below = jnp.split(rows, 3, axis=-1)
    down = jnp.pad(above[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
    up = jnp.pad(below[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
    return down + here + up


@functools.partial(jax.checkpoint, static_argnums=2)
def _by_patches(x, kernel, padding):
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = ((size + sum(padding) - 3) // 2 + 1 for size in x.shape[1:3])
    views = [padded[:, r : r + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for r in range(3) for j in range(3)]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
