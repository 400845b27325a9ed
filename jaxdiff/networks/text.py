"""Text as tokens: an encoder trained together with a denoiser, and a network that reads text through it.

    ids ─ rows of a table ─ + rows of positions ─ block ─ ... ─ block ─ norm ─ tokens

A block is x + attention(norm(x)), then x + MLP(norm(x)) (Vaswani et al. 2017, with the norms of Xiong et al. 2020).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.arrays import as_array, check_instance, check_labels, check_room, check_whole, with_dtype
from jaxdiff.denoisers import no_label_of, takes_key_of
from jaxdiff.networks.embeddings import check_rngs
from jaxdiff.networks.transformer import FeedForward, Heads, LayerNorm, attend


class EncoderBlock(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.norm_in = LayerNorm(width, rngs=rngs)
        self.heads = Heads(width, width, heads, bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.norm_out = LayerNorm(width, rngs=rngs)
        self.mlp = FeedForward(width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[batch, length, width] and [batch, length] -> [batch, length, width]."""
        q, k, v = self.heads(self.norm_in(x))
        x = x + self.out(attend(q, k, v, mask))
        return x + self.mlp(self.norm_out(x))


class TextEncoder(nnx.Module):
    """A transformer from ids of tokens to token embeddings.

    Args:
        vocabulary: the number of ids, 0 to `vocabulary` - 1.
        width: numbers per token.
        depth: the number of blocks.
        heads: heads of attention; they divide `width`.
        length: the largest number of tokens in a text.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if a size is not a whole number; when called, if ids are not integers.
        ValueError: if `heads` does not divide `width`; when called, if a text is too long or an id out of range.

    Source:
        Vaswani et al. 2017, "Attention is all you need", with the norms of Xiong et al. 2020, "On layer normalization
        in the transformer architecture".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.TextEncoder(100, width=8, depth=1, heads=2, length=16, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> jax.eval_shape(network, params, jnp.array([[5, 7, 0], [9, 0, 0]])).shape
        (2, 3, 8)
    """

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, length: int, *, rngs: nnx.Rngs):
        check_rngs(rngs)
        sizes = {"vocabulary": vocabulary, "width": width, "depth": depth, "heads": heads, "length": length}
        for name, size in sizes.items():
            check_whole(name, size)
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}")
        check_room("the table of tokens", max(vocabulary, length, 4 * width), width)
        self.vocabulary = vocabulary
        self.width = width
        self.length = length
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)
        self.blocks = nnx.List([EncoderBlock(width, heads, rngs=rngs) for _ in range(depth)])
        self.norm = LayerNorm(width, rngs=rngs)

    def check_ids(self, ids, name: str = "ids") -> jax.Array:
        """`ids` as integers [batch, length]; TypeError for other values, ValueError for a shape or id out of range."""
        array = as_array(ids)
        if array is None or not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"{with_dtype(name, ids)}; expected ids of tokens, integers [batch, length]")
        if array.ndim != 2 or array.shape[1] > self.length:
            raise ValueError(f"{name} has shape {array.shape}; expected [batch, length], at most {self.length} long")
        return check_labels(array, self.vocabulary, name=name)

    def __call__(self, ids, mask=None) -> jax.Array:
        """Tokens `[batch, length, width]` for ids `[batch, length]`.

        mask: bool `[batch, length]`, True where a token is read; everywhere by default. Tokens that are not read do not
        affect the others. A traced id out of range gives NaN.
        """
        ids = self.check_ids(ids)
        given = as_array(np.ones(ids.shape, bool) if mask is None else mask)
        if given is None or given.dtype != bool or given.shape != ids.shape:
            raise TypeError(f"{with_dtype('mask', mask)}; expected bool {list(ids.shape)}, True where a token is read")
        rows = self.tokens.embedding[...].at[ids]
        x = rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        x = x + self.positions.embedding[...][: ids.shape[1]]
        for block in self.blocks:
            x = block(x, jnp.asarray(given))
        return self.norm(x)


class Encoded(nnx.Module):
    """A network whose tokens are encoded from text by an `encoder` that is trained with it.

    Its weights are those of both, so that checkpoints, averages and exports hold the encoder too. Its cond is that of
    the network with ids in place of tokens: `{"tokens": integers [n, length], "token_mask": bool [n, length], ...}`.

    Args:
        encoder: the encoder.
        network: a module that accepts tokens of the encoder's width.

    Raises:
        TypeError: if `encoder` is not a `TextEncoder`, or `network` is not a module.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> from jaxdiff.networks import DiT, Encoded, TextEncoder
        >>> def make(rngs):
        ...     encoder = TextEncoder(100, width=8, depth=1, heads=2, length=16, rngs=rngs)
        ...     return Encoded(encoder, DiT(1, patch=4, width=8, depth=1, heads=2, tokens=8, rngs=rngs))
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> cond = {"tokens": jnp.array([[5, 7, 0], [9, 0, 0]])}
        >>> jax.eval_shape(network, params, jnp.zeros((2, 8, 8, 1)), jnp.zeros(2), cond).shape
        (2, 8, 8, 1)
    """

    def __init__(self, encoder: TextEncoder, network: Any):
        check_instance("encoder", encoder, TextEncoder, "a TextEncoder")
        check_instance(
            "network", network, nnx.Module, "a module that takes tokens, such as DiT(3, tokens=64, rngs=rngs)"
        )
        self.encoder = encoder
        self.network = network

    def check_cond(self, cond) -> None:
        """Raise for a `cond` whose tokens are not ids of the encoder, or that the network does not accept."""
        if isinstance(cond, dict) and "tokens" in cond:
            ids = self.encoder.check_ids(cond["tokens"], "cond['tokens']")
            cond = cond | {"tokens": np.broadcast_to(np.float32(0), (*ids.shape, self.encoder.width))}
        self.network.check_cond(cond)

    def no_label(self) -> int | None:
        """The network's label for "no label", or None."""
        return no_label_of(self.network)

    def takes_key(self) -> bool:
        """Whether the network has dropout and takes keys for it."""
        return takes_key_of(self.network)

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None, *keys) -> jax.Array:
        """The output of the network for x, c_noise and the encoded cond."""
        self.check_cond(cond)
        if isinstance(cond, dict) and "tokens" in cond:
            cond = cond | {"tokens": self.encoder(cond["tokens"], cond.get("token_mask"))}
        return self.network(x, c_noise, cond, *keys)
