"""The U-Net of Ho et al. 2020 (appendix B) with the residual blocks of Dhariwal and Nichol 2021 (appendix A).

    x ─ conv ─ level 0 ──────────────── level 0 ─ norm, SiLU, conv ─ out
                  └ halve ─ level 1 ──── level 1 ─ double ┘
                               └ ... middle ... ┘

A level is `blocks` residual blocks on the way down and as many on the way up, each of which also reads the
output of its opposite. The middle is two blocks, with attention between them if the last level has it. What a block is
stands in `blocks`.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.arrays import check_choice, check_flag, check_room, check_scalar, check_whole, folded
from jaxdiff.networks.blocks import (
    Block,
    Conv,
    LearnedToken,
    check_keys,
    check_levels,
    check_sides,
    double,
    halve,
    way_down,
)
from jaxdiff.networks.conditions import Conditions
from jaxdiff.networks.embeddings import NoiseEmbedding, Sinusoidal, Waves, check_rngs
from jaxdiff.networks.functional import computed_twice
from jaxdiff.networks.normalization import GroupNorm


class UNet(nnx.Module):
    """Images [batch, height, width, channels_in], or [batch, *sides, channels_in] of `space` sides, 1 to 3.

    Each level has sides half as long as those of the level before.

    channels: one entry a level. blocks: residual blocks a level, each way. attention: the levels that have
    it, 0 being the full image, with `heads` heads. classes: how many labels `cond` knows, 0 for none. waves:
    the features of c_noise, `Sinusoidal` or `Fourier`. outputs: values out for each one in, in the last axis (2 for a
    learned variance). remat: whether a gradient computes every block twice rather than keep what it holds: less
    memory for a third more time.

    Further parts of `cond` (`Conditions`), each 0 for none: vector, its size; image, its channels; level, whether that
    image comes with its log-SNR; tokens, their width. All but the image are added into what modulates the norms, tokens
    by their mean; the image joins the channels of x; and the levels in `cross_attention` read tokens one by one.
    dropout: the share of values dropped before a block's last convolution (Dhariwal and Nichol 2021), where keys are
    given. modulation: "scale_shift", or "add" for an embedding that is added at every place (Ho et al. 2020).

    Raises ValueError for no level or no block, a level in `attention` or `cross_attention` that does not exist,
    channels that `heads` does not divide, cross-attention without tokens, and when called on images of other channels
    or of a size that cannot be halved so often.
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
        vector: int = 0,
        image: int = 0,
        level: bool = False,
        tokens: int = 0,
        cross_attention: Sequence[int] = (),
        space: int = 2,
        dropout: float = 0.0,
        modulation: Literal["scale_shift", "add"] = "scale_shift",
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        channels = check_levels(channels, blocks, heads, attention=attention, cross_attention=cross_attention)
        for name, count in (("channels_in", channels_in), ("outputs", outputs)):
            check_whole(name, count)
        check_flag("remat", remat)
        check_whole("space", space, most=3)
        check_scalar("dropout", dropout, least=0, below=1)
        check_choice("modulation", modulation, ("scale_shift", "add"))
        Conditions(classes, vector, image, level, tokens)
        if len(cross_attention) and not tokens:
            raise ValueError(f"cross_attention = {cross_attention}, but tokens = 0; give the width of the tokens")
        width = max(channels_in + image, *channels)
        check_room("a convolution", 3**space, width, max(outputs * channels_in, *channels))
        features = 4 * channels[0]

        def block(channels_in: int, at: int, attend: bool = True) -> Block:
            own, reads = (heads if attend and at in levels else 0 for levels in (attention, cross_attention))
            options = {"space": space, "dropout": float(dropout), "modulation": modulation}
            return Block(channels_in, channels[at], features, own, reads, tokens, rngs=rngs, **options)

        self.channels_in = channels_in
        self.remat = remat
        self.dropout = float(dropout)
        self.space = space
        self.embed = NoiseEmbedding(features, waves, classes, vector, image, level, tokens, rngs=rngs)
        self.conv_in = Conv(channels_in + image, channels[0], space, rngs=rngs)
        self.down, self.middle = way_down(channels, blocks, block)
        self.up, width = nnx.List(), channels[-1]
        for at, c in reversed(list(enumerate(channels))):
            self.up.append(nnx.List([block((width if i == 0 else c) + c, at) for i in range(blocks)]))
            width = c
        self.norm_out = GroupNorm(width, rngs=rngs)
        self.conv_out = Conv(width, outputs * channels_in, space, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.learned = LearnedToken(tokens, rngs=rngs) if len(cross_attention) else None

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is not of the network's parts, as `Conditions.check` says."""
        self.embed.check_cond(cond)

    def no_label(self) -> int | None:
        """The label for none, the number of classes; None without classes."""
        return self.embed.no_label()

    def takes_key(self) -> bool:
        """Whether it has dropout, and so takes keys in training."""
        return self.dropout > 0

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None, keys=None) -> jax.Array:
        """Return out [batch, *sides, outputs * channels_in] for x [..., channels_in]; c_noise [batch].

        keys: [batch], from which dropout draws; None, as in sampling, for no dropout.
        """
        check_sides(x, self.channels_in, len(self.down), self.space)
        check_keys(keys, x, self.dropout)
        parts = self.embed.conditions.read(cond, x.shape)
        embedding = self.embed(x, c_noise, cond)
        context = () if self.learned is None else self.learned(parts["tokens"].astype(x.dtype), parts["token_mask"])
        count = itertools.count()

        def apply(block, h):
            own = None if keys is None else folded(keys, next(count))
            return (computed_twice(block) if self.remat else block)(h, embedding, context, own)

        h = self.conv_in(jnp.concatenate([x, parts["image"].astype(x.dtype)], -1) if self.embed.image else x)
        skips = []
        for level, blocks in enumerate(self.down):
            h = halve(h) if level else h
            for block in blocks:
                h = apply(block, [h])
                skips.append(h)
        for block in self.middle:
            h = apply(block, [h])
        for rise, blocks in enumerate(self.up):
            h = double(h) if rise else h
            for block in blocks:
                h = apply(block, [h, skips.pop()])
        return self.conv_out(nnx.silu(self.norm_out(h)))
