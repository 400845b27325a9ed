r"""Networks of categories: a transformer over tokens, and other networks with tokens at both ends.

    x ─ rows of a table ─ block ─ ... ─ block ─ scale, shift ─ linear ─ rows of a table ─ logits

The blocks are those of DiT (`networks.dit`), adaLN-Zero around attention and an MLP. Places are told by turning queries
and keys (`positions.rotated`; Su et al. 2021), and the two tables are one unless told (Press and Wolf 2017). The mask
has a row too, and no logit.

The "logistic" end of `Tokens` is for ordered values, such as the levels of a pixel (Austin et al. 2021, appendix B.1).
The values are K bins of width w side by side with centres c_v from -1 to 1, and a logistic law of mean μ and scale s is
cut to them,

    p(v) ∝ S((c_v + w/2 - μ)/s) - S((c_v - w/2 - μ)/s),        S(b) - S(a) = S(b) S(-a) (1 - exp(a - b)),

S the sigmoid. The last factor is that of every bin, so that log S(b) + log S(-a) are logits, with no difference of
nearly equal numbers. The network gives log s and what is added to x, in the same units, to give μ through a tanh.
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
"""Up to how many categories logits come as an array: what a head costs beside it is more than it saves."""


class Table(nnx.Module):
    """A row for each of `states` integers; NaN for any other that is traced."""

    def __init__(self, states: int, width: int, *, rngs: nnx.Rngs):
        check_room("the table of tokens", states, width)
        self.rows = nnx.Embed(states, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[...] -> [..., width], of unit variance at the start."""
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"{with_dtype('x', x)}; expected integer categories")
        rows = self.rows.embedding[...]
        found = rows.at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return math.sqrt(rows.shape[1]) * found


class Untold(nnx.Module):
    """Numbers that are learned, in place of those that a layer makes of an embedding."""

    def __init__(self, size: int):
        self.numbers = nnx.Param(jnp.zeros(size))

    def __call__(self, _) -> jax.Array:
        """[1, size]."""
        return self.numbers[...][None]


class Block(nnx.Module):
    """A block of DiT whose queries and keys are turned by their places; told: whether it is given an embedding."""

    def __init__(self, width: int, heads: int, qk_norm: bool, told: bool, *, rngs: nnx.Rngs):
        self.stream = Stream(width, heads, qk_norm, rngs=rngs)
        if not told:
            self.stream.modulate = Untold(6 * width)

    def __call__(self, x: jax.Array, embedding: Any) -> jax.Array:
        """[batch, length, width], with an embedding [batch, width] or None."""
        (q, k, v), rest = self.stream.asks(x, embedding)
        x = self.stream.answered(x, attend(rotated(q), rotated(k), v), rest[0])
        return self.stream.fed(x, *rest[1:])


class Transformer(nnx.Module):
    """Logits [batch, length, categories] of tokens [batch, length], 0 to `categories`, the last of them the mask.

        network, params = initialize(key, lambda rngs: Transformer(27, 128, width=256, depth=6, heads=4, rngs=rngs))
        denoiser = jd.Denoiser(network, params, jd.Absorbing(27))

    length: the longest text. width: numbers a token. depth: how many blocks. heads: of attention. noise: whether it is
    told the noise level, which masks show themselves: without, its law of a token given what is seen is the same at
    every t, as `jaxdiff.likelihood.chain` wants it. classes: how many labels `cond` knows, 0 for none. tied: whether
    tokens are read and written by one table. qk_norm, waves, remat: as in `DiT`.

    Of more than 1,024 categories the logits are a `jaxdiff.Head`. All are 0 at the start. Raises ValueError for a width
    that is no even number a head, and when called on longer texts.
    """

    def __init__(
        self,
        categories: int,
        length: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        noise: bool = True,
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
        for name, flag in (("noise", noise), ("tied", tied), ("qk_norm", qk_norm), ("remat", remat)):
            check_flag(name, flag)
        Conditions(classes)
        if width % (2 * heads):
            raise ValueError(
                f"heads = {heads} does not divide width = {width} into even numbers, whose pairs are turned"
            )
        check_room("a dense layer", width, 6 * width)
        self.categories = categories
        self.length = length
        self.remat = remat
        self.conditions = Conditions(classes)
        self.read = Table(categories + 1, width, rngs=rngs)
        if noise:
            self.embed = NoiseEmbedding(width, waves, classes, rngs=rngs)
        else:
            self.embed = LabelEmbedding(classes, width, rngs=rngs) if classes else None
        told = noise or classes > 0
        self.blocks = nnx.List([Block(width, heads, qk_norm, told, rngs=rngs) for _ in range(depth)])
        self.modulate = nnx.Linear(width, 2 * width, kernel_init=_zeros, rngs=rngs) if told else Untold(2 * width)
        self.out = Dense(width, width, kernel_init=_zeros, rngs=rngs)
        self.write = None if tied else Table(categories, width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(categories))

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is no label of the classes."""
        self.conditions.check(cond)

    def no_label(self) -> int | None:
        """The label for none, the number of classes; None without classes."""
        return self.conditions.classes or None

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None) -> jax.Array | Head:
        """Logits [batch, length, categories], whole or as a head, for integers x, c_noise [batch] and labels."""
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
    """`network`, which maps [batch, *event, features] to the same, with categories at both ends.

        make = lambda rngs: Tokens(UNet(32, (32, 64), rngs=rngs), 11, 32, rngs=rngs)    maps [height, width]
        make = lambda rngs: Tokens(MLP((2, 16), rngs=rngs), 32, 16, rngs=rngs)          two values

    x are integers [batch, *event], 0 to `categories`, the last of them the mask. head: "logits", a linear map of the
    network's output to each logit, or "logistic", to the two numbers of a law of ordered values. cond is the network's.

    Raises TypeError for a network that is no module, and ValueError when called where the network gives another shape.
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
        """Raise for a `cond` that the network does not take."""
        check_cond_of(self.network, cond)

    def no_label(self) -> int | None:
        """The network's label for none, or None."""
        return no_label_of(self.network)

    def takes_key(self) -> bool:
        """Whether the network takes keys in training."""
        return takes_key_of(self.network)

    def __call__(self, x: jax.Array, c_noise: jax.Array, cond=None, *keys) -> jax.Array:
        """Logits [batch, *event, categories] for integers x [batch, *event]."""
        h = self.read(x)
        out = self.network(h, c_noise, cond, *keys)
        check_output("the network", out, h)
        out = self.write(out)
        return out if self.head == "logits" else logistic_logits(x, out, self.categories)


def logistic_logits(x: jax.Array, out: jax.Array, categories: int) -> jax.Array:
    """Logits [..., categories] of the logistic law around x [...] that `out` [..., 2] says; a mask lies in the middle.

    The scale is exp(out - 2), so that one that begins with out = 0 is neither wide nor narrow.
    """
    shift, log_scale = jnp.moveaxis(working(out), -1, 0)[..., None]
    centres = jnp.linspace(-1.0, 1.0, categories, dtype=shift.dtype)
    own = jnp.where(x < categories, 2 * x / (categories - 1) - 1, 0.0).astype(shift.dtype)[..., None]
    away, half = centres - jnp.tanh(own + shift), 1 / (categories - 1)
    narrow = jnp.exp(2 - log_scale)
    return jax.nn.log_sigmoid(narrow * (half + away)) + jax.nn.log_sigmoid(narrow * (half - away))
