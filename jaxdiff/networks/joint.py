"""One transformer for several kinds of data at once: the network of a denoiser of a `Product`.

    x["image"] ─ patches, linear ─┐                               ┌─ linear, patches ─ out["image"]
    x["label"] ─ row of a table  ─┼─ tokens ─ block ─ ... ─ block ─┼─ linear           ─ out["label"], logits
    x["age"]   ─ linear          ─┘                               └─ linear           ─ out["age"]

Each part has a noise level of its own (Bao et al. 2023, "One transformer fits all distributions in multi-modal
diffusion at scale"). Its embedding is added to the tokens of the part, with a learned vector that identifies the part;
the sum of the embeddings of all parts modulates the blocks, which are those of DiT (`networks.dit`). Everything begins
at zero: each block as the identity, and each part of the output as 0, which gives all categories the same probability.
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
from jaxdiff.networks.tokens import Table
from jaxdiff.networks.transformer import layer_norm

_zeros = nnx.initializers.zeros


class End(abc.ABC):
    """How one part of x becomes tokens, and tokens become the network's output for it.

    A subclass defines `outputs`, `reader`, `cut` and `whole`, and may set `noise` to False for a part whose noise level
    the network does not see. `Patches`, `Numbers` and `Categories` are the built-in ones.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> end = jd.networks.Patches(channels=1, patch=2)
        >>> tokens, grid = end.cut("image", jnp.zeros((3, 4, 4, 1)))
        >>> tokens.shape, grid, end.outputs
        ((3, 4, 4), [2, 2], 4)
    """

    noise: bool = True

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """The numbers that come out per token."""

    @abc.abstractmethod
    def reader(self, width: int, rngs: nnx.Rngs) -> nnx.Module:
        """The layer from the result of `cut` to tokens of `width` numbers."""

    @abc.abstractmethod
    def cut(self, name: str, x: jax.Array) -> tuple[jax.Array, list[int]]:
        """x as [batch, length, ...], and the grid on which these tokens lie; ValueError for x of another shape."""

    @abc.abstractmethod
    def whole(self, out: jax.Array, x: jax.Array) -> jax.Array:
        """`out` [batch, length, outputs] in the shape of the network's output for x."""


@dataclasses.dataclass(frozen=True)
class Patches(End):
    """Images `[batch, height, width, channels]`, each patch of `patch` x `patch` pixels a token.

    Args:
        channels: the channels of the images.
        patch: the side of a patch in pixels.

    Raises:
        TypeError: if a size is not a whole number.
        ValueError: if a size is less than 1.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.networks.Patches(channels=3, patch=2).outputs
        12
    """

    channels: int
    patch: int = 2

    def __post_init__(self):
        check_whole("channels", self.channels)
        check_whole("patch", self.patch)
        check_room("a patch", self.outputs)

    @property
    def outputs(self) -> int:
        """The number of values in a patch."""
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
        """The image, from its patches."""
        return together(out, [side // self.patch for side in x.shape[1:3]], self.patch)


@dataclasses.dataclass(frozen=True)
class Numbers(End):
    """Rows of `size` numbers, `[batch, size]`, each row a token.

    Args:
        size: the numbers in a row.

    Raises:
        TypeError: if `size` is not a whole number.
        ValueError: if it is less than 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> tokens, grid = jd.networks.Numbers(5).cut("row", jnp.zeros((3, 5)))
        >>> tokens.shape
        (3, 1, 5)
    """

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
        """One token per row."""
        if x.shape[1:] != (self.size,):
            raise ValueError(f"{name} has shape {x.shape}; expected [batch, {self.size}]")
        return x[:, None], [1]

    def whole(self, out, x):
        """The rows."""
        return out[:, 0]


@dataclasses.dataclass(frozen=True)
class Categories(End):
    """Integers 0 to `categories`, the last of them the mask: one per example, `[batch]`, or a sequence or grid of them.

    Each integer is a token, and logits `[*x.shape, categories]` come out.

    Args:
        categories: the number of categories, 2 or more.
        noise: whether the network sees the noise level. It can be left out for masks (`jaxdiff.Absorbing`), whose
            number shows it.

    Raises:
        TypeError: if `categories` is not a whole number, or `noise` is not a bool.
        ValueError: if `categories` is less than 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> tokens, grid = jd.networks.Categories(10).cut("label", jnp.array([3, 10]))
        >>> tokens.shape
        (2, 1)
    """

    categories: int
    noise: bool = True

    def __post_init__(self):
        check_whole("categories", self.categories, least=2)
        check_flag("noise", self.noise)

    @property
    def outputs(self) -> int:
        """One logit for each category, none for the mask."""
        return self.categories

    def reader(self, width, rngs):
        """A table with a row for each category and one for the mask."""
        return Table(self.categories + 1, width, rngs=rngs)

    def cut(self, name, x):
        """One token for each category."""
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"{name} has dtype {x.dtype}; expected integer categories")
        return x.reshape(len(x), -1), list(x.shape[1:]) or [1]

    def whole(self, out, x):
        """Logits."""
        return out.reshape(*x.shape, self.categories)


class Joint(nnx.Module):
    """The network of a product of named parts: x, c_noise and out are dictionaries with the names of `ends`.

    The network takes no cond: a given part is a part of x (`jaxdiff.Given`).

    Args:
        ends: `{name: end}`, with an end for each part: `Patches` for images, `Numbers` for rows, or `Categories` for
            tokens or a label.
        width: numbers per token.
        depth: the number of blocks.
        heads: heads of attention; they divide `width`.
        qk_norm: whether queries and keys are normalised.
        waves: the features of the noise level.
        remat: whether the gradient recomputes each block to save memory.
        rngs: the keys of the initialisation, as `initialize` gives them.

    Raises:
        TypeError: if `ends` is not a dictionary of ends.
        ValueError: if `ends` is empty or `heads` does not divide `width`; when called, if x or c_noise has other names,
            or a part another shape.

    Source:
        Bao et al. 2023, "One transformer fits all distributions in multi-modal diffusion at scale".

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> from jaxdiff.networks import Categories, Joint, Numbers
        >>> ends = {"age": Numbers(1), "label": Categories(10)}
        >>> make = lambda rngs: Joint(ends, width=8, depth=1, heads=2, rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> joint = jd.Denoiser(network, params, jd.Product({"age": jd.VP(), "label": jd.Absorbing(10)}))
        >>> x = {"age": jnp.zeros((3, 1)), "label": jnp.array([0, 1, 10])}
        >>> jax.eval_shape(joint, x, 0.5)["label"].logits.shape
        (3, 10)
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
        """Raise ValueError for a `cond`: a given part is a part of x."""
        Conditions().check(cond)

    def __call__(self, x: Mapping[str, jax.Array], c_noise: Mapping[str, jax.Array], cond=None) -> dict[str, Any]:
        """out, a dictionary like x, with logits for categories; c_noise has one number per example for each part."""
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
            offset = self.names[...][index] + positions(grid, width).astype(self.names.dtype)
            tokens[index] = tokens[index].astype(dtype) + offset.astype(dtype)
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
        raise ValueError(f"{name} has shape {c_noise.shape}; expected a scalar or {like.shape[:1]}, one per example")
    return embed.of_level(jnp.broadcast_to(c_noise, like.shape[:1])).astype(like.dtype)
