"""The parts of U-Nets, over one, two or three axes: [batch, *sides, channels] -> [batch, *sides, channels]."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.arrays import check_batch, check_instance, check_shape, check_whole
from jaxdiff.networks.attention import dot_product_attention
from jaxdiff.networks.convolution import convolution, pointwise
from jaxdiff.networks.normalization import GroupNorm

_zero = nnx.initializers.zeros
_AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}


class Conv(nnx.Conv):
    """A convolution of size 3 along each of `space` axes, padded by zeros."""

    bias: nnx.Param

    def __init__(self, channels_in: int, channels: int, space: int = 2, **options):
        super().__init__(channels_in, channels, kernel_size=(3,) * space, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, *sides, channels_in] -> [batch, *sides, channels]."""
        return convolution(x, self.kernel[...]) + self.bias[...]


class Pointwise(nnx.Linear):
    """A convolution of size 1, for an input in parts along the channels."""

    bias: nnx.Param

    def __call__(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Parts [..., channels] of channels_in in all -> [..., channels]."""
        return pointwise(parts, self.kernel[...]) + self.bias[...]


def halve(x: jax.Array) -> jax.Array:
    """The mean of every two pixels along each axis: [batch, h, w, c] -> [batch, h/2, w/2, c]."""
    batch, *sides, channels = x.shape
    pairs = [size for side in sides for size in (side // 2, 2)]
    return x.reshape(batch, *pairs, channels).mean(tuple(range(2, 2 * len(sides) + 1, 2)))


def double(x: jax.Array) -> jax.Array:
    """Every pixel repeated along each axis: [batch, h, w, c] -> [batch, 2h, 2w, c]."""
    for axis in range(1, x.ndim - 1):
        x = x.repeat(2, axis=axis)
    return x


def check_levels(channels: Sequence[int], blocks: int, heads: int, **attention: Sequence[int]) -> tuple[int, ...]:
    """`channels` as a tuple, one width per level; raises if the levels of `attention`, by name, do not fit them."""
    check_whole("blocks", blocks, least=None)
    if (np.ndim(channels) == 1 and not len(channels)) or blocks < 1:
        raise ValueError(f"channels = {channels}, blocks = {blocks}; expected one level and one block or more")
    channels = check_shape("channels", channels, "one width a level, for example (32, 64)")
    check_whole("heads", heads)
    for name, levels in attention.items():
        check_instance(name, levels, Sequence, "levels, for example (1,)")
        for level in levels:
            if check_whole(name, level, least=None) not in range(len(channels)):
                raise ValueError(f"{name} at level {level}; channels = {channels} has levels 0 to {len(channels) - 1}")
            if channels[level] % heads:
                raise ValueError(f"heads = {heads} does not divide the {channels[level]} channels of level {level}")
    return channels


def check_sides(x: jax.Array, channels: int, levels: int, space: int = 2) -> None:
    """Raise ValueError if x is not [batch, *sides, channels], or its sides cannot be halved between `levels`."""
    check_batch(x)
    if x.ndim != space + 2 or x.shape[-1] != channels:
        raise ValueError(f"x has shape {x.shape}; expected [batch, {_AXES[space]}, {channels}], channels last")
    halvings = levels - 1
    if any(side % 2**halvings for side in x.shape[1:-1]):
        raise ValueError(
            f"images of {' x '.join(map(str, x.shape[1:-1]))} cannot be halved {halvings} times for {levels} levels; "
            f"pad them to multiples of {2**halvings}, or build a network with fewer levels"
        )


def dropped(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """x [batch, ...] with a share `rate` of its values 0 and the others divided by 1 - rate; one key per example."""
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), 0)


def check_keys(keys, x: jax.Array, rate: float) -> None:
    """Raise for keys that are not one per example of x, or for keys without dropout."""
    if keys is not None:
        if not rate:
            raise ValueError("key was given to a network without dropout; leave it out")
        if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != x.shape[:1]:
            raise TypeError(f"key is {keys.dtype}{list(keys.shape)}; expected typed keys [{len(x)}], one per example")


class ResidualBlock(nnx.Module):
    """x + conv(dropout(SiLU(scale · norm(conv(SiLU(norm(x)))) + shift))), scale and shift from the embedding.

    With `modulation` "add" the embedding is added at every position before the norm, as in Ho et al. 2020:
    x + conv(dropout(SiLU(norm(conv(SiLU(norm(x))) + shift)))).
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        features: int,
        space: int = 2,
        dropout: float = 0.0,
        modulation: str = "scale_shift",
        *,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.adds = modulation == "add"
        self.norm_in = GroupNorm(channels_in, rngs=rngs)
        self.conv_in = Conv(channels_in, channels, space, rngs=rngs)
        self.modulate = nnx.Linear(features, channels if self.adds else 2 * channels, rngs=rngs)
        self.norm_out = GroupNorm(channels, rngs=rngs)
        self.conv_out = Conv(channels, channels, space, kernel_init=_zero, rngs=rngs)
        self.skip = Pointwise(channels_in, channels, rngs=rngs) if channels_in != channels else None

    def __call__(self, parts: Sequence[jax.Array], embedding: jax.Array, keys=None) -> jax.Array:
        """Parts [batch, *sides, ...] of channels_in in all -> [batch, *sides, channels]; embedding [batch, features].

        keys: [batch], the keys of dropout; None for no dropout.
        """
        x = jnp.concatenate(parts, axis=-1)
        h = self.conv_in(nnx.silu(self.norm_in(x)))
        modulation = self.modulate(embedding)
        if self.adds:
            h = self.norm_out(h + modulation.reshape(len(h), *[1] * (h.ndim - 2), -1))
        else:
            h = self.norm_out.modulated(h, *jnp.split(modulation, 2, axis=-1))
        h = nnx.silu(h)
        h = self.conv_out(h if keys is None else dropped(h, keys, self.dropout))
        return h + (x if self.skip is None else self.skip(parts))


class Attention(nnx.Module):
    """x + self-attention over the positions of norm(x), with `heads` heads."""

    def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.norm = GroupNorm(channels, rngs=rngs)
        self.qkv = nnx.Linear(channels, 3 * channels, rngs=rngs)
        self.out = nnx.Linear(channels, channels, kernel_init=_zero, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, *sides, channels] -> the same."""
        qkv = self.qkv(self.norm(x)).reshape(len(x), -1, 3, self.heads, x.shape[-1] // self.heads)
        mixed = dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return x + self.out(mixed.reshape(x.shape))


class CrossAttention(nnx.Module):
    """x + attention from the positions of norm(x) to tokens of `width` numbers (Rombach et al. 2022, section 3.3)."""

    def __init__(self, channels: int, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.norm = GroupNorm(channels, rngs=rngs)
        self.q = nnx.Linear(channels, channels, use_bias=False, rngs=rngs)
        self.kv = nnx.Linear(width, 2 * channels, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(channels, channels, kernel_init=_zero, rngs=rngs)

    def __call__(self, x: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """[batch, *sides, channels] -> the same; tokens [batch, length, width], mask [batch, length]."""
        heads = lambda array, *more: array.reshape(len(x), -1, *more, self.heads, x.shape[-1] // self.heads)
        kv = heads(self.kv(tokens), 2)
        mixed = dot_product_attention(heads(self.q(self.norm(x))), kv[:, :, 0], kv[:, :, 1], mask)
        return x + self.out(mixed.reshape(x.shape))


class LearnedToken(nnx.Module):
    """A learned token before all others, which is always read: cross-attention always has something to read."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.token = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (width,)))

    def __call__(self, tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens [batch, 1 + length, width] and their mask, with the learned token first."""
        first = jnp.broadcast_to(self.token[...], (len(tokens), 1, tokens.shape[-1]))
        more = jnp.concatenate([first.astype(tokens.dtype), tokens], axis=1)
        return more, jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)


class Block(nnx.Module):
    """A residual block, then self-attention if `heads` is not 0, then cross-attention if `reads` is not 0.

    heads, reads: the heads of each; tokens: the width of the tokens that cross-attention reads; options: those of the
    residual block.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        features: int,
        heads: int = 0,
        reads: int = 0,
        tokens: int = 0,
        *,
        rngs: nnx.Rngs,
        **options,
    ):
        self.residual = ResidualBlock(channels_in, channels, features, rngs=rngs, **options)
        self.attention = Attention(channels, heads, rngs=rngs) if heads else None
        self.cross = CrossAttention(channels, tokens, reads, rngs=rngs) if reads else None

    def __call__(self, parts: Sequence[jax.Array], embedding: jax.Array, context=(), keys=None) -> jax.Array:
        """Parts [batch, *sides, ...] of channels_in in all -> [batch, *sides, channels]; embedding [batch, features].

        context: tokens and their mask, for cross-attention. keys: as in the residual block.
        """
        x = self.residual(parts, embedding, keys)
        x = x if self.attention is None else self.attention(x)
        return x if self.cross is None else self.cross(x, *context)


def way_down(channels: Sequence[int], blocks: int, block: Callable[..., Block]) -> tuple[nnx.List, nnx.List]:
    """The levels, each of `blocks` blocks, and the middle: two blocks, the second without attention.

    `block(channels_in, level, attend)` builds a block with the width of its level.
    """
    inputs = [channels[0], *channels[:-1]]
    levels = enumerate(zip(inputs, channels))
    down = [nnx.List([block(before if i == 0 else c, at) for i in range(blocks)]) for at, (before, c) in levels]
    middle = [block(channels[-1], len(channels) - 1, attend) for attend in (True, False)]
    return nnx.List(down), nnx.List(middle)
