"""A classifier of noisy images: half a U-Net and attention pooling (Dhariwal and Nichol 2021, section 4.1).

x ─ conv ─ level 0 ─ halve ─ level 1 ─ ... ─ middle ─ norm, SiLU, attention pooling ─ logits
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.arrays import check_flag, check_room, check_whole
from jaxdiff.networks.attention import dot_product_attention
from jaxdiff.networks.blocks import Block, Conv, check_levels, check_sides, halve, way_down
from jaxdiff.networks.embeddings import NoiseEmbedding, Sinusoidal, Waves, check_rngs
from jaxdiff.networks.functional import computed_twice
from jaxdiff.networks.normalization import GroupNorm
from jaxdiff.networks.positions import positions


class AttentionPool(nnx.Module):
    """Attention pooling: one query, the mean over positions, with `heads` heads (Radford et al. 2021, section 2.4)."""

    def __init__(self, channels: int, heads: int, outputs: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.q = nnx.Linear(channels, channels, rngs=rngs)
        self.kv = nnx.Linear(channels, 2 * channels, rngs=rngs)
        self.out = nnx.Linear(channels, outputs, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, *sides, channels] -> [batch, outputs]."""
        return self.out(self.read(x))

    def read(self, x: jax.Array) -> jax.Array:
        """The input of the last layer, [batch, channels]."""
        batch, *sides, channels = x.shape
        pixels = x.reshape(batch, -1, channels)
        mean = pixels.mean(1, keepdims=True)
        pixels = jnp.concatenate([mean, pixels + positions(sides, channels).astype(x.dtype)], axis=1)
        heads = lambda array, *more: array.reshape(batch, -1, *more, self.heads, channels // self.heads)
        kv = heads(self.kv(pixels), 2)
        return dot_product_attention(heads(self.q(mean)), kv[:, :, 0], kv[:, :, 1]).reshape(batch, channels)


class Classifier(nnx.Module):
    """A classifier of noisy images: logits `[batch, classes]` for images and their noise level.

    Half of a `UNet` with attention pooling. The last layer begins at zero, so that all classes are alike. It is the
    network of a `jaxdiff.NoisyClassifier`.

    Args:
        channels_in: the channels of the images.
        classes: the number of classes, 2 or more.
        channels: the width of each level.
        blocks: residual blocks per level.
        attention: the levels that have attention; 0 is the full image.
        heads: heads of attention, also of the pooling; they divide the channels.
        waves: the features of the noise level.
        space: the number of spatial axes, 1 to 3.
        remat: whether the gradient recomputes each block to save memory.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if an argument has another type.
        ValueError: as `UNet` raises it.

    Source:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", section 4.1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.Classifier(1, 10, channels=(4,), blocks=1, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> jax.eval_shape(network, params, jnp.zeros((3, 8, 8, 1)), jnp.zeros(3)).shape
        (3, 10)
    """

    def __init__(
        self,
        channels_in: int,
        classes: int,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        attention: Sequence[int] = (),
        heads: int = 4,
        waves: Waves = Sinusoidal(),
        space: int = 2,
        remat: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        channels = check_levels(channels, blocks, heads, attention=attention)
        if channels[-1] % heads:
            raise ValueError(f"heads = {heads} does not divide the {channels[-1]} channels that are pooled")
        check_whole("channels_in", channels_in)
        check_whole("classes", classes, least=2)
        check_whole("space", space, most=3)
        check_flag("remat", remat)
        check_room("a convolution", 3**space, max(channels_in, *channels), max(channels))
        features = 4 * channels[0]

        def block(channels_in: int, level: int, attend: bool = True) -> Block:
            own = heads if attend and level in attention else 0
            return Block(channels_in, channels[level], features, own, space=space, rngs=rngs)

        self.channels_in = channels_in
        self.space = space
        self.remat = remat
        self.embed = NoiseEmbedding(features, waves, rngs=rngs)
        self.conv_in = Conv(channels_in, channels[0], space, rngs=rngs)
        self.down, self.middle = way_down(channels, blocks, block)
        self.norm_out = GroupNorm(channels[-1], rngs=rngs)
        self.pool = AttentionPool(channels[-1], heads, classes, rngs=rngs)

    def __call__(self, x: jax.Array, c_noise: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` for x `[batch, *sides, channels_in]` and c_noise, a scalar or `[batch]`."""
        return self.pool.out(self.features(x, c_noise))

    def features(self, x: jax.Array, c_noise: jax.Array) -> jax.Array:
        """The input of the last layer, `[batch, channels[-1]]`, for the arguments of a call."""
        check_sides(x, self.channels_in, len(self.down), self.space)
        embedding = self.embed(x, c_noise)
        apply = computed_twice if self.remat else lambda block: block
        h = self.conv_in(x)
        for level, blocks in enumerate(self.down):
            h = halve(h) if level else h
            for block in blocks:
                h = apply(block)([h], embedding)
        for block in self.middle:
            h = apply(block)([h], embedding)
        return self.pool.read(nnx.silu(self.norm_out(h)))
