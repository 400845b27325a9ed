"""The U-Net of Ho et al. 2020 (appendix B) with the residual blocks of Dhariwal and Nichol 2021 (appendix A).

    x ─ conv ─ level 0 ──────────────── level 0 ─ norm, SiLU, conv ─ out
                  └ halve ─ level 1 ──── level 1 ─ double ┘
                               └ ... middle ... ┘

A level is `blocks` residual blocks on the way down and as many on the way up, each of which also reads the output of
its opposite. The middle is two blocks, with attention between them if the last level has it. The module `blocks`
defines them.
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
    """The U-Net, for images `[batch, height, width, channels_in]`, or `[batch, *sides, channels_in]` of `space` axes.

    Each level has sides half as long as those of the level before.

    Args:
        channels_in: the channels of the images.
        channels: the width of each level, one entry per level.
        blocks: residual blocks per level, each way.
        attention: the levels that have self-attention; 0 is the full image.
        heads: heads of attention; they divide the channels of these levels.
        classes: the number of labels in cond, 0 for none.
        waves: the features of the noise level, such as `Sinusoidal()` or `Fourier()`.
        outputs: values out for each value in, concatenated along the last axis (2 for a learned variance).
        remat: whether the gradient recomputes each block: less memory for a third more time.
        vector: the size of the vectors in cond, 0 for none.
        image: the channels of the image in cond, which join those of x; 0 for none.
        level: whether that image comes with its log-SNR.
        tokens: the width of the tokens in cond, 0 for none. Their mean modulates the norms, as labels, vectors and
            levels do. See `Conditions` for the parts of cond.
        cross_attention: the levels that read tokens one by one.
        space: the number of spatial axes, 1 to 3.
        dropout: the share of values dropped before the last convolution of a block, if keys are given.
        modulation: "scale_shift", or "add" for an embedding that is added at every position (Ho et al. 2020).
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if there is no level or no block, a level in `attention` or `cross_attention` does not exist,
            `heads` does not divide the channels, or there is cross-attention without tokens; when called, if the images
            have other channels or a size that cannot be halved often enough.

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", appendix B; Dhariwal and Nichol 2021, "Diffusion
        models beat GANs on image synthesis", appendix A.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.UNet(1, channels=(4,), blocks=1, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> jax.eval_shape(network, params, jnp.zeros((3, 8, 8, 1)), jnp.zeros(3)).shape
        (3, 8, 8, 1)
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
        """Raise for a `cond` that does not match the network's parts (see `Conditions.check`)."""
        self.embed.check_cond(cond)

    def no_label(self) -> int | None:
        """The label for "no label", which is the number of classes; None without classes."""
        return self.embed.no_label()

    def takes_key(self) -> bool:
        """Whether it has dropout, and so takes keys in training."""
        return self.dropout > 0

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None, keys=None) -> jax.Array:
        """`[batch, *sides, outputs * channels_in]` for x `[..., channels_in]` and c_noise, a scalar or `[batch]`.

        keys: `[batch]`, the keys of dropout; None, as in sampling, for no dropout.
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
