"""Networks of categories: a transformer over tokens, and other networks with tokens at both ends.

    x ─ rows of a table ─ block ─ ... ─ block ─ scale, shift ─ linear ─ rows of a table ─ logits

The blocks are those of DiT (`networks.dit`), adaLN-Zero around attention and an MLP. Positions enter by rotating
queries and keys (`positions.rotated`; Su et al. 2021), and the two tables are one by default (Press and Wolf 2017). The
mask has a row too, and no logit.

The "logistic" head of `Tokens` is for ordered values, such as the levels of a pixel (Austin et al. 2021, appendix B.1).
The values are K bins of width w side by side with centres c_v from -1 to 1, and a logistic distribution of mean μ and
scale s is cut to them,

    p(v) ∝ S((c_v + w/2 - μ)/s) - S((c_v - w/2 - μ)/s),        S(b) - S(a) = S(b) S(-a) (1 - exp(a - b)),

with S the sigmoid. The last factor is the same for every bin, so that log S(b) + log S(-a) are logits, without a
difference of nearly equal numbers. The network gives log s, and the number that is added to x, in the same units, to
give μ through a tanh.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.arrays import check_choice, check_flag, check_instance, check_output, check_room, check_whole, with_dtype
from jaxdiff.arrays.dtypes import working
from jaxdiff.denoisers import check_cond_of, no_label_of, takes_key_of
from jaxdiff.networks.conditions import Conditions
from jaxdiff.networks.dit import Stream
from jaxdiff.networks.embeddings import LabelEmbedding, NoiseEmbedding, Sinusoidal, Waves, check_rngs
from jaxdiff.networks.functional import computed_twice
from jaxdiff.networks.positions import rotated
from jaxdiff.networks.transformer import Dense, attend, layer_norm
from jaxdiff.processes import Head

_zeros = nnx.initializers.zeros
_WHOLE = 1024
"""The largest number of categories for which logits are an array: up to it a head costs more than it saves."""


class Table(nnx.Module):
    """A row for each of `states` integers; NaN for any other integer that is traced."""

    def __init__(self, states: int, width: int, *, rngs: nnx.Rngs):
        check_room("the table of tokens", states, width)
        self.rows = nnx.Embed(states, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[...] -> [..., width], of unit variance at initialisation."""
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"{with_dtype('x', x)}; expected integer categories")
        rows = self.rows.embedding[...]
        found = rows.at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return math.sqrt(rows.shape[1]) * found


class Untold(nnx.Module):
    """Learned numbers, in place of those that a layer computes from an embedding."""

    def __init__(self, size: int):
        self.numbers = nnx.Param(jnp.zeros(size))

    def __call__(self, _) -> jax.Array:
        """The numbers, [1, size]."""
        return self.numbers[...][None]


class Block(nnx.Module):
    """A block of DiT with rotated queries and keys; modulated: whether by an embedding."""

    def __init__(self, width: int, heads: int, qk_norm: bool, modulated: bool, *, rngs: nnx.Rngs):
        self.stream = Stream(width, heads, qk_norm, rngs=rngs)
        if not modulated:
            self.stream.modulate = Untold(6 * width)

    def __call__(self, x: jax.Array, embedding: Any) -> jax.Array:
        """[batch, length, width] -> the same, with an embedding [batch, width] or None."""
        (q, k, v), rest = self.stream.asks(x, embedding)
        x = self.stream.answered(x, attend(rotated(q), rotated(k), v), rest[0])
        return self.stream.fed(x, *rest[1:])


class Transformer(nnx.Module):
    """A transformer over tokens: logits `[batch, length, categories]` for tokens `[batch, length]`.

    Tokens are integers 0 to `categories`, the last of them the mask. For more than 1,024 categories the logits are a
    `jaxdiff.Head`. All logits begin at 0.

    Args:
        categories: the number of categories, without the mask, 2 or more.
        length: the largest number of tokens in a text.
        width: numbers per token.
        depth: the number of blocks.
        heads: heads of attention; `width` is an even number per head.
        noise: whether the network sees the noise level, which masks show by their number. Without it its distribution
            of a token given the visible ones is the same at every t, as `jaxdiff.likelihood.chain` requires. None means
            True; a run (`jaxdiff.runs`) whose process is masks makes it False.
        classes: the number of labels in cond, 0 for none.
        tied: whether one table both reads and writes tokens.
        qk_norm: whether queries and keys are normalised.
        waves: the features of the noise level.
        remat: whether the gradient recomputes each block to save memory.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if `width` is not an even number per head; when called, if a text is too long.

    Source:
        Peebles and Xie 2023, "Scalable diffusion models with transformers", with rotary positions of Su et al. 2021,
        "RoFormer".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.Transformer(27, 16, width=8, depth=1, heads=2, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> denoiser = jd.Denoiser(network, params, jd.Absorbing(27))
        >>> jax.eval_shape(denoiser, jnp.full((3, 16), 27), 0.5).logits.shape
        (3, 16, 27)
    """

    def __init__(
        self,
        categories: int,
        length: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        noise: bool | None = None,
        classes: int = 0,
        tied: bool = True,
        qk_norm: bool = True,
        waves: Waves = Sinusoidal(),
        remat: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        check_whole("categories", categories, least=2)
        for name, size in (("length", length), ("width", width), ("depth", depth), ("heads", heads)):
            check_whole(name, size)
        noise = True if noise is None else noise
        for name, flag in (("noise", noise), ("tied", tied), ("qk_norm", qk_norm), ("remat", remat)):
            check_flag(name, flag)
        self.conditions = Conditions(classes)
        if width % (2 * heads):
            raise ValueError(
                f"heads = {heads} does not divide width = {width} into even numbers per head, whose pairs are rotated"
            )
        check_room("a dense layer", width, 6 * width)
        self.categories = categories
        self.length = length
        self.remat = remat
        self.read = Table(categories + 1, width, rngs=rngs)
        if noise:
            self.embed = NoiseEmbedding(width, waves, classes, rngs=rngs)
        else:
            self.embed = LabelEmbedding(classes, width, rngs=rngs) if classes else None
        modulated = noise or classes > 0
        self.blocks = nnx.List([Block(width, heads, qk_norm, modulated, rngs=rngs) for _ in range(depth)])
        self.modulate = nnx.Linear(width, 2 * width, kernel_init=_zeros, rngs=rngs) if modulated else Untold(2 * width)
        self.out = Dense(width, width, kernel_init=_zeros, rngs=rngs)
        self.write = None if tied else Table(categories, width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(categories))

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is not labels of the network's classes."""
        self.conditions.check(cond)

    def no_label(self) -> int | None:
        """The label for "no label", which is the number of classes; None without classes."""
        return self.conditions.classes or None

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array | Head:
        """Logits `[batch, length, categories]`, an array or a head, for integers x, c_noise `[batch]` and labels."""
        if x.ndim != 2 or x.shape[1] > self.length:
            raise ValueError(f"x has shape {x.shape}; expected [batch, length], at most {self.length} long")
        h = self.read(x)
        embedding = self._embedding(h, c_noise, cond)
        apply = computed_twice if self.remat else lambda block: block
        for block in self.blocks:
            h = apply(block)(h, embedding)
        shift, scale = jnp.split(self.modulate(embedding)[:, None], 2, axis=-1)
        features = self.out(layer_norm(h, 1 + scale, shift))
        rows = (self.write or self.read).rows.embedding[...]
        head = Head(features, rows[: self.categories], self.bias[...])
        return head.logits() if self.categories <= _WHOLE else head

    def _embedding(self, h: jax.Array, c_noise, cond) -> Any:
        if isinstance(self.embed, NoiseEmbedding):
            return self.embed(h, c_noise, cond)
        self.check_cond(cond)
        return None if self.embed is None else nnx.silu(self.embed(cond, len(h))).astype(h.dtype)


class Tokens(nnx.Module):
    """A network of numbers with categories at both ends.

    `network` maps `[batch, *event, features]` to the same shape. A table in front of it reads integers 0 to
    `categories`, the last of them the mask, and a head after it gives logits `[batch, *event, categories]`. Its cond is
    that of the network.

    Args:
        network: a module, such as a `UNet` for maps or an `MLP` for a few values.
        categories: the number of categories, without the mask, 2 or more.
        features: numbers per token, in the last axis of the network's x.
        head: "logits", a linear map to each logit, or "logistic", to the two numbers of a distribution of ordered
            values.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if `network` is not a module.
        ValueError: if an argument is out of range; when called, if the network returns another shape.

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", appendix B.1, for
        "logistic".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> from jaxdiff.networks import MLP, Tokens
        >>> make = lambda rngs: Tokens(MLP((2, 4), hidden=(8,), rngs=rngs), 32, 4, rngs=rngs)  # two values
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> jax.eval_shape(network, params, jnp.full((3, 2), 32), jnp.zeros(3)).shape
        (3, 2, 32)
    """

    def __init__(
        self,
        network: Any,
        categories: int,
        features: int,
        head: Literal["logits", "logistic"] = "logits",
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        check_instance("network", network, nnx.Module, "a module such as UNet(features, rngs=rngs)")
        check_whole("categories", categories, least=2)
        check_whole("features", features)
        check_choice("head", head, ("logits", "logistic"))
        self.categories = categories
        self.read = Table(categories + 1, features, rngs=rngs)
        self.network = network
        self.head = head
        self.write = nnx.Linear(features, categories if head == "logits" else 2, rngs=rngs)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the network does not accept."""
        check_cond_of(self.network, cond)

    def no_label(self) -> int | None:
        """The network's label for "no label", or None."""
        return no_label_of(self.network)

    def takes_key(self) -> bool:
        """Whether the network has dropout and takes keys for it."""
        return takes_key_of(self.network)

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None, *keys) -> jax.Array:
        """Logits [batch, *event, categories] for integers x [batch, *event]."""
        h = self.read(x)
        out = self.network(h, c_noise, cond, *keys)
        check_output("the network", out, h)
        out = self.write(out)
        return out if self.head == "logits" else logistic_logits(x, out, self.categories)


def logistic_logits(x: jax.Array, out: jax.Array, categories: int) -> jax.Array:
    """Logits [..., categories] of the logistic distribution that `out` [..., 2] gives around x [...]; a mask is at 0.

    The scale is exp(out - 2), which for the initial out = 0 is neither wide nor narrow.
    """
    shift, log_scale = jnp.moveaxis(working(out), -1, 0)[..., None]
    centres = jnp.linspace(-1.0, 1.0, categories, dtype=shift.dtype)
    own = jnp.where(x < categories, 2 * x / (categories - 1) - 1, 0.0).astype(shift.dtype)[..., None]
    away, half = centres - jnp.tanh(own + shift), 1 / (categories - 1)
    narrow = jnp.exp(2 - log_scale)
    return jax.nn.log_sigmoid(narrow * (half + away)) + jax.nn.log_sigmoid(narrow * (half - away))
