"""One transformer for several things at once: the network of a denoiser of a `Product`.

    x["image"] ─ patches, linear ─┐                               ┌─ linear, patches ─ out["image"]
    x["label"] ─ row of a table  ─┼─ tokens ─ block ─ ... ─ block ─┼─ linear           ─ out["label"], logits
    x["age"]   ─ linear          ─┘                               └─ linear           ─ out["age"]

Each part has a noise level of its own (Bao et al. 2023, "One transformer fits all distributions in multi-modal
diffusion at scale"). An embedding of it is added to the tokens of the part, beside a learned vector that says which
part they are of; the sum of the embeddings of all parts modulates the blocks, which are those of DiT (`networks.dit`).
All begins at zero: each block as the identity, each part of the output as 0, which for a category is the same
probability for all.
"""

import abc
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.arrays import check_flag, check_instance, check_room, check_whole, said
from jaxdiff.networks.conditions import Conditions
from jaxdiff.networks.dit import DiTBlock, check_patches, cut, together
from jaxdiff.networks.embeddings import LevelEmbedding, Sinusoidal, Waves, check_rngs
from jaxdiff.networks.functional import computed_twice
from jaxdiff.networks.positions import positions
from jaxdiff.networks.transformer import layer_norm

_zeros = nnx.initializers.zeros


class End(abc.ABC):
    """How one part of x becomes tokens, and tokens become the network's output for it.

    noise: whether the network is told the part's noise level.
    """

    noise: bool = True

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """How many numbers come out a token."""

    @abc.abstractmethod
    def reader(self, width: int, rngs: nnx.Rngs) -> nnx.Module:
        """The layer from what `cut` gives to tokens of `width` numbers."""

    @abc.abstractmethod
    def cut(self, name: str, x: jax.Array) -> tuple[jax.Array, list[int]]:
        """(x as [batch, length, ...] a token, the grid the tokens lie on); ValueError for x of another shape."""

    @abc.abstractmethod
    def whole(self, out: jax.Array, x: jax.Array) -> jax.Array:
        """`out` [batch, length, outputs] in the shape of the network's output for x."""


@dataclasses.dataclass(frozen=True)
class Patches(End):
    """Images [batch, height, width, channels], each patch of `patch` x `patch` pixels a token."""

    channels: int
    patch: int = 2

    def __post_init__(self):
        check_whole("channels", self.channels)
        check_whole("patch", self.patch)
        check_room("a patch", self.outputs)

    @property
    def outputs(self) -> int:
        """The values of a patch."""
        return self.patch**2 * self.channels

    def reader(self, width, rngs):
        """A linear map of a patch."""
        check_room("a patch", self.outputs, width)
        return nnx.Linear(self.outputs, width, rngs=rngs)

    def cut(self, name, x):
        """Patches, row by row."""
        check_patches(x, self.channels, self.patch)
        return cut(x, self.patch), [side // self.patch for side in x.shape[1:3]]

    def whole(self, out, x):
        """Patches put together."""
        return together(out, [side // self.patch for side in x.shape[1:3]], self.patch)


@dataclasses.dataclass(frozen=True)
class Numbers(End):
    """Rows of `size` numbers, [batch, size], each row a token."""

    size: int = 1

    def __post_init__(self):
        check_whole("size", self.size)

    @property
    def outputs(self) -> int:
        """The numbers of a row."""
        return self.size

    def reader(self, width, rngs):
        """A linear map of a row."""
        check_room("a row", self.size, width)
        return nnx.Linear(self.size, width, rngs=rngs)

    def cut(self, name, x):
        """A token a row."""
        if x.shape[1:] != (self.size,):
            raise ValueError(f"{name} has shape {x.shape}; expected [batch, {self.size}]")
        return x[:, None], [1]

    def whole(self, out, x):
        """The rows."""
        return out[:, 0]


@dataclasses.dataclass(frozen=True)
class Categories(End):
    """Integers 0 to `categories`, the last of them the mask: one an example, [batch], or a sequence or grid of them.

    Each is a token; logits [*x.shape, categories] come out. noise=False does not tell the network the noise level,
    which masks (`jaxdiff.Absorbing`) show themselves.
    """

    categories: int
    noise: bool = True

    def __post_init__(self):
        check_whole("categories", self.categories, least=2)
        check_flag("noise", self.noise)

    @property
    def outputs(self) -> int:
        """A logit for each category, none for the mask."""
        return self.categories

    def reader(self, width, rngs):
        """A row of a table for each category, and one for the mask."""
        check_room("a table of categories", self.categories + 1, width)
        return _Table(self.categories + 1, width, rngs=rngs)

    def cut(self, name, x):
        """A token for each category."""
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"{name} has dtype {x.dtype}; expected integer categories")
        return x.reshape(len(x), -1), list(x.shape[1:]) or [1]

    def whole(self, out, x):
        """Logits."""
        return out.reshape(*x.shape, self.categories)


class _Table(nnx.Module):
    """A row for each of `states` integers; NaN for any other."""

    def __init__(self, states: int, width: int, *, rngs: nnx.Rngs):
        self.rows = nnx.Embed(states, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = self.rows.embedding[...]
        return rows.at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


class Joint(nnx.Module):
    """The network of a product of named parts: x, c_noise and out are dictionaries with the names of `ends`.

        ends = {"image": Patches(1, patch=2), "label": Categories(10, noise=False)}
        network, params = initialize(key, lambda rngs: Joint(ends, width=96, depth=4, heads=4, rngs=rngs))
        joint = jd.Denoiser(network, params, jd.Product({"image": jd.VP(), "label": jd.Absorbing(10)}))

    An end is `Patches` of images, `Numbers` of rows, or `Categories` of tokens or a label. width: numbers a token.
    depth: how many blocks. heads: of attention, which divide the width. qk_norm, remat, waves: as in `DiT`. What is
    given of a joint model is a part of x (`jaxdiff.Given`); the network takes no cond.

    Raises TypeError for ends that are none or no dictionary, ValueError for an empty one and for heads that do not
    divide the width; when called, for x or c_noise of other names, and for parts of another shape.
    """

    def __init__(
        self,
        ends: Mapping[str, End],
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        qk_norm: bool = True,
        waves: Waves = Sinusoidal(),
        remat: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        form = "a dictionary such as {'image': Patches(1), 'label': Categories(10)}"
        check_instance("ends", ends, Mapping, form)
        if not ends:
            raise ValueError(f"ends = {said(ends)}; expected {form}")
        for name, end in ends.items():
            check_instance("a name in ends", name, str, "a string")
            check_instance(f"ends[{name!r}]", end, End, "one of Patches, Numbers and Categories")
        for name, size in (("width", width), ("depth", depth), ("heads", heads)):
            check_whole(name, size)
        check_flag("qk_norm", qk_norm)
        check_flag("remat", remat)
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}")
        check_room("a dense layer", width, 6 * width)
        self.ends = tuple(sorted(ends.items()))
        self.remat = remat
        parts = [end for _, end in self.ends]
        self.readers = nnx.List([end.reader(width, rngs) for end in parts])
        self.names = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (len(parts), width)))
        self.levels = nnx.List([LevelEmbedding(width, waves, rngs=rngs) for end in parts if end.noise])
        self.blocks = nnx.List([DiTBlock(width, heads, qk_norm, False, rngs=rngs) for _ in range(depth)])
        self.modulate = nnx.Linear(width, 2 * width, kernel_init=_zeros, rngs=rngs)
        self.writers = nnx.List([nnx.Linear(width, end.outputs, kernel_init=_zeros, rngs=rngs) for end in parts])

    def check_cond(self, cond) -> None:
        """Raise ValueError for a `cond`: what is given is a part of x."""
        Conditions().check(cond)

    def __call__(self, x: Mapping[str, jax.Array], c_noise: Mapping[str, jax.Array], cond=None) -> dict[str, Any]:
        """out, a dictionary as x is; of categories logits. c_noise has a number an example of each part."""
        self.check_cond(cond)
        names = [name for name, _ in self.ends]
        for called, tree in (("x", x), ("c_noise", c_noise)):
            if not isinstance(tree, Mapping) or sorted(tree) != names:
                raise ValueError(f"{called} = {said(tree)}; expected a dictionary of {', '.join(names)}")
        pieces, grids = zip(*(end.cut(f"x[{name!r}]", x[name]) for name, end in self.ends))
        tokens = [reader(piece) for reader, piece in zip(self.readers, pieces)]
        dtype = max((part.dtype for part in tokens), key=lambda dtype: dtype.itemsize)
        width, levels = tokens[0].shape[-1], iter(self.levels)
        embedding = jnp.zeros((len(tokens[0]), width), dtype)
        for index, ((name, end), grid) in enumerate(zip(self.ends, grids)):
            place = self.names[...][index] + positions(grid, width).astype(self.names.dtype)
            tokens[index] = tokens[index].astype(dtype) + place.astype(dtype)
            if end.noise:
                level = _level(next(levels), c_noise[name], f"c_noise[{name!r}]", tokens[index])
                tokens[index] += level[:, None]
                embedding += level
        h, embedding = jnp.concatenate(tokens, axis=1), nnx.silu(embedding)
        apply = computed_twice if self.remat else lambda block: block
        for block in self.blocks:
            h, _ = apply(block)(h, None, None, embedding)
        shift, scale = jnp.split(self.modulate(embedding)[:, None], 2, axis=-1)
        lengths = itertools.accumulate(math.prod(grid) for grid in grids[:-1])
        parts = jnp.split(layer_norm(h, 1 + scale, shift), list(lengths), axis=1)
        written = zip(self.ends, self.writers, parts)
        return {name: end.whole(writer(part), x[name]) for (name, end), writer, part in written}


def _level(embed: LevelEmbedding, c_noise, name: str, like: jax.Array) -> jax.Array:
    """The embedding of a noise level [batch, width], in the type of `like` [batch, ...]."""
    c_noise = jnp.asarray(c_noise, jnp.float32 if like.dtype.itemsize < 4 else like.dtype)
    if c_noise.shape not in ((), like.shape[:1]):
        raise ValueError(f"{name} has shape {c_noise.shape}; expected a scalar or {like.shape[:1]}, one an example")
    return embed.of_level(jnp.broadcast_to(c_noise, like.shape[:1])).astype(like.dtype)
