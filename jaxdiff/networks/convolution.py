"""Convolutions of 3 x 3, by XLA, but on CPU by matrix products, as they are there up to 50 times faster.

Stride 1, zeros around, is one product over three shifted views and a sum of three:

    y_r = Σ_j x shifted by j - 1 columns · kernel[r, j]        for each row r of the kernel, in one product
    y   = y_0 one row down + y_1 + y_2 one row up

Stride 2 is one product over nine views. XLA's convolution reaches half of what its product does, and inside of a loop,
as where gradients are accumulated, its gradient takes 30 to 50 times as long: 580 in place of 17 ms for three of them
at 16 x 16 x 64. The views are made again for a gradient, and on one device the product is cut into some of about 4096
pixels: the gradient of the kernel, a sum over all pixels, is then a sum of small products.
"""

import functools

import jax
import jax.numpy as jnp

_PIXELS = 4096


def on_one_cpu() -> bool:
    """Whether all is computed on one CPU, as JAX sees it: then, and only then, cutting a batch moves nothing."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[batch, height, width, channels_in] and [3, 3, channels_in, channels] -> [batch, height, width, channels]."""
    if jax.default_backend() == "cpu":  # lax.platform_dependent computes both under vmap
        return _by_product(x, kernel)
    return _by_xla(x, kernel, 1, (1, 1))


def halving_convolution(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """The same with stride 2, and `padding` rows and columns of zeros before and behind."""
    if jax.default_backend() == "cpu":
        return _by_patches(x, kernel, padding)
    return _by_xla(x, kernel, 2, padding)


def _by_xla(x, kernel, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [padding] * 2, dimension_numbers=dimensions)


@jax.checkpoint
def _by_product(x, kernel):
    batch, height, width, channels_in = x.shape
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    wide = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)], axis=-1)
    side_by_side = kernel.transpose(1, 2, 0, 3).reshape(3 * channels_in, -1)
    most = max(1, batch * height * width // _PIXELS) if on_one_cpu() else 1
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
