"""The diffusion transformer, DiT (Peebles and Xie 2023), optionally with the streams of MM-DiT and the skips of U-ViT.

    x ─ patches, linear ─ + positions ─ block ─ ... ─ block ─ scale, shift ─ linear, patches ─ out

A block has adaLN-Zero (figure 3 there): six numbers per channel from the embedding of noise level and condition,

    x + gate · attention(scale · norm(x) + shift)        then        x + gate · MLP(scale · norm(x) + shift)

which begin at 0, so that a block begins as the identity. Tokens are read in one of two ways:

    cross-attention    x + attention from norm(x) to the tokens, between the two (Chen et al. 2024, "PixArt-alpha")
    joint              tokens are a second stream with weights of its own, and both streams attend to both: MM-DiT
                       (Esser et al. 2024, figure 2b); the last block only reads them

With skips a block of the second half also reads the output of its opposite in the first half (Bao et al. 2023, figure
1): linear(x, opposite).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.arrays import check_batch, check_flag, check_room, check_whole
from jaxdiff.networks.blocks import LearnedToken
from jaxdiff.networks.conditions import Conditions
from jaxdiff.networks.embeddings import NoiseEmbedding, Sinusoidal, Waves, check_rngs
from jaxdiff.networks.functional import computed_twice
from jaxdiff.networks.positions import positions
from jaxdiff.networks.transformer import Dense, FeedForward, Heads, attend, layer_norm

_zeros = nnx.initializers.zeros


class Stream(nnx.Module):
    """adaLN-Zero around attention and an MLP, without the attention itself."""

    modulate: Callable[[Any], jax.Array]

    def __init__(self, width: int, heads: int, qk_norm: bool, *, rngs: nnx.Rngs):
        self.modulate = nnx.Linear(width, 6 * width, kernel_init=_zeros, rngs=rngs)
        self.heads = Heads(width, width, heads, "qkv", qk_norm, rngs=rngs)
        self.out = Dense(width, width, rngs=rngs)
        self.mlp = FeedForward(width, rngs=rngs)

    def asks(self, x: jax.Array, embedding: Any) -> tuple[list[jax.Array], list[jax.Array]]:
        """Queries, keys and values of scale · norm(x) + shift, and the remaining numbers of the embedding."""
        shift, scale, *rest = jnp.split(self.modulate(embedding)[:, None], 6, axis=-1)
        return self.heads(layer_norm(x, 1 + scale, shift)), rest

    def answered(self, x: jax.Array, mixed: jax.Array, gate: jax.Array) -> jax.Array:
        """x + gate · the output of attention."""
        return x + gate * self.out(mixed)

    def fed(self, x: jax.Array, shift: jax.Array, scale: jax.Array, gate: jax.Array) -> jax.Array:
        """x + gate · MLP(scale · norm(x) + shift)."""
        return x + gate * self.mlp(layer_norm(x, 1 + scale, shift))


class LastText(nnx.Module):
    """Text in the last block, which reads its keys and values and returns nothing for it."""

    def __init__(self, width: int, heads: int, qk_norm: bool, *, rngs: nnx.Rngs):
        self.modulate = nnx.Linear(width, 2 * width, kernel_init=_zeros, rngs=rngs)
        self.heads = Heads(width, width, heads, "kv", qk_norm, rngs=rngs)

    def asks(self, text: jax.Array, embedding: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """Keys and values of scale · norm(text) + shift."""
        shift, scale = jnp.split(self.modulate(embedding)[:, None], 2, axis=-1)
        return self.heads(layer_norm(text, 1 + scale, shift)), []


class Text(nnx.Module):
    """Tokens after a learned one, with the width of the network."""

    def __init__(self, tokens: int, width: int, *, rngs: nnx.Rngs):
        self.learned = LearnedToken(tokens, rngs=rngs)
        self.linear = Dense(tokens, width, rngs=rngs)

    def __call__(self, tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[batch, length, tokens] -> [batch, 1 + length, width], and the mask of the result."""
        tokens, mask = self.learned(tokens, mask)
        return self.linear(tokens), mask


class DiTBlock(nnx.Module):
    """A block of DiT, with cross-attention to tokens if `reads`."""

    def __init__(self, width: int, heads: int, qk_norm: bool, reads: bool, *, rngs: nnx.Rngs):
        self.stream = Stream(width, heads, qk_norm, rngs=rngs)
        self.reads = reads
        if reads:
            self.queries = Heads(width, width, heads, "q", qk_norm, bias=False, rngs=rngs)
            self.keys = Heads(width, width, heads, "kv", qk_norm, bias=False, rngs=rngs)
            self.out = Dense(width, width, kernel_init=_zeros, rngs=rngs)

    def __call__(self, x: jax.Array, text, mask, embedding: jax.Array) -> tuple:
        """(x, text) for x [batch, patches, width], text [batch, length, width] or None, embedding [batch, width]."""
        heads, rest = self.stream.asks(x, embedding)
        x = self.stream.answered(x, attend(*heads), rest[0])
        if self.reads:
            (q,), (k, v) = self.queries(layer_norm(x)), self.keys(text)
            x = x + self.out(attend(q, k, v, mask))
        return self.stream.fed(x, *rest[1:]), text


class JointBlock(nnx.Module):
    """A block of MM-DiT: an image and its text, each with weights of its own, through one attention.

    last: the text is only read, and not changed.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, last: bool = False, *, rngs: nnx.Rngs):
        self.image = Stream(width, heads, qk_norm, rngs=rngs)
        self.text = LastText(width, heads, qk_norm, rngs=rngs) if last else Stream(width, heads, qk_norm, rngs=rngs)

    def __call__(self, x: jax.Array, text: jax.Array, mask: jax.Array, embedding: jax.Array) -> tuple:
        """(x, text) for x [batch, patches, width], text [batch, length, width], its mask, embedding [batch, width]."""
        heads, rest = self.image.asks(x, embedding)
        heads_of_text, rest_of_text = self.text.asks(text, embedding)
        q, k, v = heads
        *q_text, k_text, v_text = heads_of_text
        queries, keys, values = (jnp.concatenate(both, axis=1) for both in ([q, *q_text], [k, k_text], [v, v_text]))
        seen = jnp.pad(mask, ((0, 0), (x.shape[1], 0)), constant_values=True)
        mixed = attend(queries, keys, values, seen)
        x = self.image.fed(self.image.answered(x, mixed[:, : x.shape[1]], rest[0]), *rest[1:])
        if isinstance(self.text, Stream):
            text = self.text.answered(text, mixed[:, x.shape[1] :], rest_of_text[0])
            text = self.text.fed(text, *rest_of_text[1:])
        return x, text


class DiT(nnx.Module):
    """The diffusion transformer, for images of any size that `patch` divides.

    Sizes of the paper: S, B, L and XL are (width, depth, heads) = (384, 12, 6), (768, 12, 12), (1024, 24, 16) and
    (1152, 28, 16).

    Args:
        channels_in: the channels of the images.
        patch: the side of a patch in pixels; each patch is one token of the transformer.
        width: numbers per patch.
        depth: the number of blocks.
        heads: heads of attention; they divide `width`.
        classes: the number of labels in cond, 0 for none.
        vector: the size of the vectors in cond, 0 for none.
        image: the channels of the image in cond, which join those of x; 0 for none.
        level: whether that image comes with its log-SNR.
        tokens: the width of the tokens in cond, 0 for none. See `Conditions` for the parts of cond.
        joint: whether tokens are a stream of their own, as in MM-DiT, in place of cross-attention.
        skips: whether blocks of the second half read their opposites in the first, as in U-ViT.
        qk_norm: whether queries and keys are normalised, without which large models diverge.
        waves: the features of the noise level.
        outputs: values out for each value in, concatenated along the last axis (2 for a learned variance).
        remat: whether the gradient recomputes each block to save memory.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if `heads` does not divide `width`, or `joint` is set without tokens; when called, if the images
            have other channels or a size that `patch` does not divide.

    Source:
        Peebles and Xie 2023, "Scalable diffusion models with transformers".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.DiT(1, patch=4, width=8, depth=1, heads=2, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> jax.eval_shape(network, params, jnp.zeros((3, 8, 8, 1)), jnp.zeros(3)).shape
        (3, 8, 8, 1)
    """

    def __init__(
        self,
        channels_in: int,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        classes: int = 0,
        vector: int = 0,
        image: int = 0,
        level: bool = False,
        tokens: int = 0,
        joint: bool = False,
        skips: bool = False,
        qk_norm: bool = True,
        waves: Waves = Sinusoidal(),
        outputs: int = 1,
        remat: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        sizes = {"channels_in": channels_in, "patch": patch, "width": width, "depth": depth, "heads": heads}
        for name, size in (sizes | {"outputs": outputs}).items():
            check_whole(name, size)
        for name, flag in (("joint", joint), ("skips", skips), ("qk_norm", qk_norm), ("remat", remat)):
            check_flag(name, flag)
        Conditions(classes, vector, image, level, tokens)
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}")
        if joint and not tokens:
            raise ValueError("joint = True, but tokens = 0; give the width of the tokens")
        check_room("a dense layer", width, 6 * width)
        check_room("a patch", patch**2 * max(channels_in + image, outputs * channels_in), width)

        def block(index: int) -> DiTBlock | JointBlock:
            if joint:
                return JointBlock(width, heads, qk_norm, last=index == depth - 1, rngs=rngs)
            return DiTBlock(width, heads, qk_norm, reads=tokens > 0, rngs=rngs)

        self.channels_in = channels_in
        self.patch = patch
        self.remat = remat
        self.embed = NoiseEmbedding(width, waves, classes, vector, image, level, tokens, rngs=rngs)
        self.patch_in = Dense(patch**2 * (channels_in + image), width, rngs=rngs)
        self.text_in = Text(tokens, width, rngs=rngs) if tokens else None
        self.blocks = nnx.List([block(index) for index in range(depth)])
        # one for each block of the second half; none for the one or two blocks in the middle
        self.skips = nnx.List([Dense(2 * width, width, rngs=rngs) for _ in range((depth - 1) // 2 * skips)])
        self.modulate = nnx.Linear(width, 2 * width, kernel_init=_zeros, rngs=rngs)
        self.patch_out = Dense(width, patch**2 * outputs * channels_in, kernel_init=_zeros, rngs=rngs)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that does not match the network's parts (see `Conditions.check`)."""
        self.embed.check_cond(cond)

    def no_label(self) -> int | None:
        """The label for "no label", which is the number of classes; None without classes."""
        return self.embed.no_label()

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array:
        """`[batch, height, width, outputs * channels_in]` for x `[..., channels_in]` and c_noise `[batch]`."""
        check_patches(x, self.channels_in, self.patch)
        parts = self.embed.conditions.read(cond, x.shape)
        embedding = self.embed(x, c_noise, cond)
        text = mask = None
        if self.text_in is not None:
            text, mask = self.text_in(parts["tokens"].astype(x.dtype), parts["token_mask"])
        x = jnp.concatenate([x, parts["image"].astype(x.dtype)], -1) if self.embed.image else x
        grid = [side // self.patch for side in x.shape[1:-1]]
        h = self.patch_in(cut(x, self.patch))
        h = h + positions(grid, h.shape[-1]).astype(h.dtype)
        apply = computed_twice if self.remat else lambda block: block
        kept, opposite = [], len(self.blocks) - len(self.skips)
        for index, block in enumerate(self.blocks):
            if index >= opposite:
                h = self.skips[index - opposite](jnp.concatenate([h, kept.pop()], -1))
            h, text = apply(block)(h, text, mask, embedding)
            if index < len(self.skips):
                kept.append(h)
        shift, scale = jnp.split(self.modulate(embedding)[:, None], 2, axis=-1)
        return together(self.patch_out(layer_norm(h, 1 + scale, shift)), grid, self.patch)


def check_patches(x: jax.Array, channels: int, patch: int) -> None:
    """Raise ValueError if x is not a batch of images of `channels`, or `patch` does not divide their sides."""
    check_batch(x)
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"x has shape {x.shape}; expected [batch, height, width, {channels}], channels last")
    height, width = x.shape[1:3]
    if height % patch or width % patch:
        near = lambda side: " or ".join(str(n) for n in sorted({side // patch * patch, -(-side // patch) * patch}) if n)
        raise ValueError(
            f"images of {height} x {width} cannot be cut into patches of {patch} x {patch}; the nearest sizes are "
            f"{near(height)} by {near(width)}"
        )


def cut(x: jax.Array, patch: int) -> jax.Array:
    """[batch, height, width, channels] -> [batch, patches, patch * patch * channels], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def together(patches: jax.Array, grid: list[int], patch: int) -> jax.Array:
    """[batch, patches, patch * patch * channels] -> [batch, height, width, channels], the inverse of `cut`."""
    rows, columns = grid
    x = patches.reshape(len(patches), rows, columns, patch, patch, -1).swapaxes(2, 3)
    return x.reshape(len(patches), rows * patch, columns * patch, -1)
