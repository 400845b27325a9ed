"""The U-Net of Ho et al. 2020 (appendix B) with the residual blocks of Dhariwal and Nichol 2021 (appendix A).

    x ─ conv ─ level 0 ──────────────── level 0 ─ norm, SiLU, conv ─ out
                  └ halve ─ level 1 ──── level 1 ─ double ┘
                               └ ... middle ... ┘

A level is `blocks` residual blocks on the way down and as many on the way up, each of which also reads the
output of its opposite. The middle is two blocks, with attention between them if the last level has it.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.arrays import check_batch, check_flag, check_instance, check_room, check_shape, check_whole
from jaxdiff.networks.attention import dot_product_attention
from jaxdiff.networks.convolution import convolution, pointwise
from jaxdiff.networks.embeddings import NoiseEmbedding, Sinusoidal, Waves, check_rngs
from jaxdiff.networks.normalization import GroupNorm

_zero = nnx.initializers.zeros


class Conv(nnx.Conv):
    """3 x 3, zeros around."""

    bias: nnx.Param

    def __init__(self, channels_in: int, channels: int, **options):
        super().__init__(channels_in, channels, kernel_size=(3, 3), **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, h, w, channels_in] -> [batch, h, w, channels]."""
        return convolution(x, self.kernel[...]) + self.bias[...]


def halve(x: jax.Array) -> jax.Array:
    """The mean of every 2 x 2 pixels: [batch, h, w, c] -> [batch, h/2, w/2, c]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def double(x: jax.Array) -> jax.Array:
    """Every pixel as 2 x 2: [batch, h, w, c] -> [batch, 2h, 2w, c]."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def check_images(x: jax.Array, channels: int, levels: int) -> None:
    """Raise ValueError where x is no batch of images of `channels`, or their size cannot be halved between `levels`."""
    check_batch(x)
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"x has shape {x.shape}; expected [batch, height, width, {channels}], channels last")
    height, width = x.shape[1:3]
    halvings = levels - 1
    if height % 2**halvings or width % 2**halvings:
        raise ValueError(
            f"images of {height} x {width} cannot be halved {halvings} times for {levels} levels; "
            f"pad them to multiples of {2**halvings}, or take a network of fewer levels"
        )


class Pointwise(nnx.Linear):
    """1 x 1, over parts of the channels side by side."""

    bias: nnx.Param

    def __call__(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Parts [..., channels] of channels_in in all -> [..., channels]."""
        return pointwise(parts, self.kernel[...]) + self.bias[...]


class ResidualBlock(nnx.Module):
    """x + conv(SiLU(scale · norm(conv(SiLU(norm(x)))) + shift)), scale and shift from the embedding."""

    def __init__(self, channels_in: int, channels: int, features: int, *, rngs: nnx.Rngs):
        self.norm_in = GroupNorm(channels_in, rngs=rngs)
        self.conv_in = Conv(channels_in, channels, rngs=rngs)
        self.modulate = nnx.Linear(features, 2 * channels, rngs=rngs)
        self.norm_out = GroupNorm(channels, rngs=rngs)
        self.conv_out = Conv(channels, channels, kernel_init=_zero, rngs=rngs)
        self.skip = Pointwise(channels_in, channels, rngs=rngs) if channels_in != channels else None

    def __call__(self, parts: Sequence[jax.Array], embedding: jax.Array) -> jax.Array:
        """Parts [batch, h, w, ...] of channels_in in all -> [batch, h, w, channels]; embedding [batch, features]."""
        x = jnp.concatenate(parts, axis=-1)
        h = self.conv_in(nnx.silu(self.norm_in(x)))
        h = self.conv_out(nnx.silu(self.norm_out.modulated(h, *jnp.split(self.modulate(embedding), 2, axis=-1))))
        return h + (x if self.skip is None else self.skip(parts))


class Attention(nnx.Module):
    """x + self-attention over the pixels of norm(x), with `heads` heads."""

    def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.norm = GroupNorm(channels, rngs=rngs)
        self.qkv = nnx.Linear(channels, 3 * channels, rngs=rngs)
        self.out = nnx.Linear(channels, channels, kernel_init=_zero, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, h, w, channels] -> the same."""
        b, h, w, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, h * w, 3, self.heads, c // self.heads)
        mixed = dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return x + self.out(mixed.reshape(x.shape))


class Block(nnx.Module):
    """A residual block, and attention after it where `heads` is not 0."""

    def __init__(self, channels_in: int, channels: int, features: int, heads: int, *, rngs: nnx.Rngs):
        self.residual = ResidualBlock(channels_in, channels, features, rngs=rngs)
        self.attention = Attention(channels, heads, rngs=rngs) if heads else None

    def __call__(self, parts: Sequence[jax.Array], embedding: jax.Array) -> jax.Array:
        """Parts [batch, h, w, ...] of channels_in in all -> [batch, h, w, channels]; embedding [batch, features]."""
        x = self.residual(parts, embedding)
        return x if self.attention is None else self.attention(x)


def _computed_twice(block: Block) -> Callable[..., jax.Array]:
    """`block`, of which a gradient keeps the inputs alone and computes the rest again."""
    graphdef, params = nnx.split(block)
    again = jax.checkpoint(lambda params, *inputs: nnx.merge(graphdef, params)(*inputs))
    return lambda *inputs: again(params, *inputs)


class UNet(nnx.Module):
    """Images [batch, height, width, channels_in], each level half the size of the one before.

    channels: one entry a level. blocks: residual blocks a level, each way. attention: the levels that have
    it, 0 being the full image, with `heads` heads. classes: how many labels `cond` knows, 0 for none. waves:
    the features of c_noise, `Sinusoidal` or `Fourier`. outputs: values out for each one in, in the last axis (2 for a
    learned variance). remat: whether a gradient computes every block twice rather than keep what it holds: less
    memory for a third more time.

    Raises ValueError for no level or no block, a level in `attention` that does not exist, channels that
    `heads` does not divide, and when called on images of other channels or of a size that cannot be halved so
    often.
    """

    def __init__(
        self,
        channels_in: int,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        attention: Sequence[int] = (),
        heads: int = 4,
        classes: int = 0,
        waves: Waves = Sinusoidal(),
        outputs: int = 1,
        remat: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        check_whole("blocks", blocks, least=None)
        if (np.ndim(channels) == 1 and not len(channels)) or blocks < 1:
            raise ValueError(f"channels = {channels}, blocks = {blocks}; expected one level and one block or more")
        channels = check_shape("channels", channels, "one width a level, for example (32, 64)")
        for name, count in (("channels_in", channels_in), ("heads", heads), ("outputs", outputs)):
            check_whole(name, count)
        check_flag("remat", remat)
        check_room("a convolution", 9, max(channels_in, *channels), max(outputs * channels_in, *channels))
        check_instance("attention", attention, Sequence, "the levels that have it, for example (1,)")
        for level in attention:
            if check_whole("attention", level, least=None) not in range(len(channels)):
                raise ValueError(
                    f"attention at level {level}; channels = {channels} has levels 0 to {len(channels) - 1}"
                )
            if channels[level] % heads:
                raise ValueError(f"heads = {heads} does not divide the {channels[level]} channels of level {level}")
        features = 4 * channels[0]

        def block(channels_in: int, level: int, attend: bool = True) -> Block:
            attend = attend and level in attention
            return Block(channels_in, channels[level], features, heads if attend else 0, rngs=rngs)

        self.channels_in = channels_in
        self.remat = remat
        self.embed = NoiseEmbedding(features, waves, classes, rngs=rngs)
        self.conv_in = Conv(channels_in, channels[0], rngs=rngs)
        self.down = nnx.List()
        width = channels[0]
        for level, c in enumerate(channels):
            self.down.append(nnx.List([block(width if i == 0 else c, level) for i in range(blocks)]))
            width = c
        last = len(channels) - 1
        self.middle = nnx.List([block(width, last), block(width, last, attend=False)])
        self.up = nnx.List()
        for level, c in reversed(list(enumerate(channels))):
            self.up.append(nnx.List([block((width if i == 0 else c) + c, level) for i in range(blocks)]))
            width = c
        self.norm_out = GroupNorm(width, rngs=rngs)
        self.conv_out = Conv(width, outputs * channels_in, kernel_init=_zero, rngs=rngs)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is neither None nor labels of the network's classes."""
        self.embed.check_cond(cond)

    def no_label(self) -> int | None:
        """The label for none, the number of classes; None without classes."""
        return self.embed.no_label()

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array:
        """Return out [batch, height, width, outputs * channels_in] for x [..., channels_in]; c_noise [batch]."""
        check_images(x, self.channels_in, len(self.down))
        embedding = self.embed(x, c_noise, cond)
        apply = _computed_twice if self.remat else lambda block: block
        h = self.conv_in(x)
        skips = []
        for level, blocks in enumerate(self.down):
            h = halve(h) if level else h
            for block in blocks:
                h = apply(block)([h], embedding)
                skips.append(h)
        for block in self.middle:
            h = apply(block)([h], embedding)
        for rise, blocks in enumerate(self.up):
            h = double(h) if rise else h
            for block in blocks:
                h = apply(block)([h, skips.pop()], embedding)
        return self.conv_out(nnx.silu(self.norm_out(h)))
