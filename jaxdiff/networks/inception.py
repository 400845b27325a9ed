"""Inception v3 (Szegedy et al. 2016) as the FID uses it, with the weight names of its PyTorch port.

    images ─ 2 convolutions of 3 ─ 1 padded ─ max ─ 1 of 1 ─ 1 of 3 ─ max         299 -> 35 pixels per side, 192
    channels
           ─ 5b 5c 5d ─ 6a ─ 6b 6c 6d 6e ─ 7a ─ 7b 7c ─ mean over pixels            35 -> 17 -> 8, 2048 channels

A mixed block (5b to 7c) concatenates parallel branches, each a chain of convolutions; 6a and 7a halve the sides. The
FID (Heusel et al. 2017) is defined by a graph of 2015-12-05. It differs from the published network, and from
torchvision's, in two ways: its 3 x 3 average pooling does not count the padding, and the last block uses maximum
pooling.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 299  # images are resized to SIDE x SIDE pixels
EPS = 1e-3  # of batch normalisation


class Convolution(NamedTuple):
    """A convolution without bias, batch normalisation and ReLU; `padding`: zeros around, in rows and columns."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)


def _same(name: str, channels: int, height: int, width: int) -> Convolution:
    """A convolution that preserves the sides."""
    return Convolution(name, channels, (height, width), padding=(height // 2, width // 2))


class Fork(NamedTuple):
    """The end of a branch: several convolutions of the same input, concatenated."""

    convolutions: tuple[Convolution, ...]


class Branch(NamedTuple):
    """A pooling ("average", "max", "halving max" or none), then layers one after another."""

    pooling: str | None
    layers: tuple[Convolution | Fork, ...]


def _branch(*layers: Convolution | Fork, pooling: str | None = None) -> Branch:
    return Branch(pooling, layers)


def _block_a(pooled: int) -> list[Branch]:
    """Figure 5 of the paper."""
    return [
        _branch(Convolution("branch1x1", 64)),
        _branch(Convolution("branch5x5_1", 48), _same("branch5x5_2", 64, 5, 5)),
        _branch(
            Convolution("branch3x3dbl_1", 64), _same("branch3x3dbl_2", 96, 3, 3), _same("branch3x3dbl_3", 96, 3, 3)
        ),
        _branch(Convolution("branch_pool", pooled), pooling="average"),
    ]


def _block_b() -> list[Branch]:
    """Figure 10, from 35 to 17 pixels per side."""
    return [
        _branch(Convolution("branch3x3", 384, (3, 3), 2)),
        _branch(
            Convolution("branch3x3dbl_1", 64),
            _same("branch3x3dbl_2", 96, 3, 3),
            Convolution("branch3x3dbl_3", 96, (3, 3), 2),
        ),
        _branch(pooling="halving max"),
    ]


def _block_c(inner: int) -> list[Branch]:
    """Figure 6 with n = 7."""
    return [
        _branch(Convolution("branch1x1", 192)),
        _branch(Convolution("branch7x7_1", inner), _same("branch7x7_2", inner, 1, 7), _same("branch7x7_3", 192, 7, 1)),
        _branch(
            Convolution("branch7x7dbl_1", inner),
            _same("branch7x7dbl_2", inner, 7, 1),
            _same("branch7x7dbl_3", inner, 1, 7),
            _same("branch7x7dbl_4", inner, 7, 1),
            _same("branch7x7dbl_5", 192, 1, 7),
        ),
        _branch(Convolution("branch_pool", 192), pooling="average"),
    ]


def _block_d() -> list[Branch]:
    """From 17 to 8 pixels per side."""
    return [
        _branch(Convolution("branch3x3_1", 192), Convolution("branch3x3_2", 320, (3, 3), 2)),
        _branch(
            Convolution("branch7x7x3_1", 192),
            _same("branch7x7x3_2", 192, 1, 7),
            _same("branch7x7x3_3", 192, 7, 1),
            Convolution("branch7x7x3_4", 192, (3, 3), 2),
        ),
        _branch(pooling="halving max"),
    ]


def _block_e(pooling: str) -> list[Branch]:
    """Figure 7."""
    fork = lambda name: Fork((_same(f"{name}a", 384, 1, 3), _same(f"{name}b", 384, 3, 1)))
    return [
        _branch(Convolution("branch1x1", 320)),
        _branch(Convolution("branch3x3_1", 384), fork("branch3x3_2")),
        _branch(Convolution("branch3x3dbl_1", 448), _same("branch3x3dbl_2", 384, 3, 3), fork("branch3x3dbl_3")),
        _branch(Convolution("branch_pool", 192), pooling=pooling),
    ]


STEM = [
    _branch(
        Convolution("Conv2d_1a_3x3", 32, (3, 3), 2),
        Convolution("Conv2d_2a_3x3", 32, (3, 3)),
        _same("Conv2d_2b_3x3", 64, 3, 3),
    ),
    _branch(Convolution("Conv2d_3b_1x1", 80), Convolution("Conv2d_4a_3x3", 192, (3, 3)), pooling="halving max"),
    _branch(pooling="halving max"),
]
MIXED = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _block_b(),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _block_d(),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("max"),
}


@dataclasses.dataclass(frozen=True)
class Inception:
    """`network(params, images) -> features` [n, 2048]; params: {name: array} in PyTorch's layout, [out, in, h, w]."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight that is read, by its name."""
        shapes: dict[str, tuple[int, ...]] = {}

        def convolve(layer: Convolution, name: str, channels: int) -> int:
            shapes[f"{name}.conv.weight"] = (layer.channels, channels, *layer.kernel)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.bn.{part}"] = (layer.channels,)
            return layer.channels

        _through(3, convolve, lambda kind, channels: channels, sum)
        return shapes

    def __call__(self, params: dict, images: jax.Array) -> jax.Array:
        """Features of images [n, height, width, 3] with values of 0 to 255, of any size."""
        return self.pooled(params, (resized(images) - 128) / 128)

    def pooled(self, params: dict, x: jax.Array) -> jax.Array:
        """Features of x on [-1, 1], of 75 pixels per side or more, without resizing."""
        join = functools.partial(jnp.concatenate, axis=-1)
        return _through(x, functools.partial(_convolved, params), _pool, join).mean((1, 2))


def _through(x, convolve, pool, join):
    """Run x through the network, given functions for a convolution, a pooling and a concatenation."""

    def along(x, branch: Branch, prefix: str):
        x = x if branch.pooling is None else pool(branch.pooling, x)
        for layer in branch.layers:
            if isinstance(layer, Fork):
                x = join([convolve(part, prefix + part.name, x) for part in layer.convolutions])
            else:
                x = convolve(layer, prefix + layer.name, x)
        return x

    for branch in STEM:
        x = along(x, branch, "")
    for name, branches in MIXED.items():
        x = join([along(x, branch, f"{name}.") for branch in branches])
    return x


def _convolved(params: dict, layer: Convolution, name: str, x: jax.Array) -> jax.Array:
    padding = [(side, side) for side in layer.padding]
    kernel, strides = params[f"{name}.conv.weight"], (layer.stride, layer.stride)
    x = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "OIHW", "NHWC"))
    scale, shift, mean, variance = (params[f"{name}.bn.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
    scale = scale * jax.lax.rsqrt(variance + EPS)
    return jax.nn.relu(x * scale + (shift - mean * scale))


def _pool(kind: str, x: jax.Array) -> jax.Array:
    """Pool over 3 x 3 pixels: "average" and "max" keep the sides and ignore padding, "halving max" has stride 2."""
    around, window = ((0, 0), (1, 1), (1, 1), (0, 0)), (1, 3, 3, 1)
    if kind == "halving max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
    if kind == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 1, 1, 1), around)
    total = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1, 1), around)
    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def resized(images, side: int = SIDE) -> jax.Array:
    """Resize images [n, height, width, channels] to `side` rows and columns, float32, by TensorFlow 1's bilinear rule.

    Row i of the result interpolates the old rows at s = i height/side, without smoothing:

        new[i] = (1 - s + floor(s)) old[floor(s)] + (s - floor(s)) old[min(floor(s) + 1, height - 1)]

    and columns likewise.
    """
    images = jnp.asarray(images, jnp.float32)
    for axis in (2, 1):
        size = images.shape[axis]
        position = np.arange(side, dtype=np.float32) * (np.float32(size) / np.float32(side))
        low = position.astype(np.int32).clip(max=size - 1)
        share = (position - low).astype(np.float32).reshape(-1, *[1] * (images.ndim - 1 - axis))
        before, after = (images.take(index, axis) for index in (low, np.minimum(low + 1, size - 1)))
        images = before + (after - before) * share
    return images
