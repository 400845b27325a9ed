"""The arrays of a tree in few vectors, so that one kernel does to all of them what would take one kernel for each.

A `Flat` holds a tree in parts: several arrays end to end, or one array as it is. `tree()` gives the arrays back. What
works on each number by itself, such as Adam, is given `thin()`: a tree of the same structure in which the first array of
a part stands for the whole part and the others are empty. It has the paths and the numbers of axes of the tree, by which
masks choose, and sums over it are sums over all numbers.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import pytree

Path = tuple  # the keys that lead to an array


@dataclasses.dataclass(frozen=True)
class Form:
    """Where the arrays of a tree lie: its structure, and of each array its shape and the index of its part."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    @functools.cached_property
    def members(self) -> list[list[int]]:
        """Of each part the arrays that lie in it."""
        members = [[] for _ in range(max(self.places, default=-1) + 1)]
        for i, place in enumerate(self.places):
            members[place].append(i)
        return members


@pytree
@dataclasses.dataclass(frozen=True)
class Flat:
    """A tree in parts, each a vector of several arrays or one array of its own shape."""

    parts: tuple
    form: Form = dataclasses.field(metadata={"static": True})

    def tree(self) -> Any:
        """The tree with all of its arrays, which are copies of those that lie in vectors."""
        arrays: list[Any] = [None] * len(self.form.places)
        for part, members in zip(self.parts, self.form.members):
            shapes = tuple(self.form.shapes[i] for i in members)
            for i, array in zip(members, [part] if len(members) == 1 else _slices(part, shapes)):
                arrays[i] = array
        return self.form.structure.unflatten(arrays)

    def abstract(self) -> Any:
        """The shapes and types of `tree()`, as `jax.ShapeDtypeStruct`; each array lies where its part does."""
        parts = [self.parts[place] for place in self.form.places]
        shape = lambda part, shape: jax.ShapeDtypeStruct(shape, part.dtype, sharding=getattr(part, "sharding", None))
        return self.form.structure.unflatten(map(shape, parts, self.form.shapes))

    def thin(self) -> Any:
        """The tree in which the first array of a part is the whole part, along the first axis, and the others empty."""
        arrays: list[Any] = [None] * len(self.form.places)
        for part, members in zip(self.parts, self.form.members):
            for i in members:
                rest = (1,) * (len(self.form.shapes[i]) - 1)
                arrays[i] = jnp.zeros((0, *rest), part.dtype) if i != members[0] else part
                if i == members[0] and len(members) > 1:
                    arrays[i] = part.reshape(-1, *rest)
        return self.form.structure.unflatten(arrays)

    def of_thin(self, tree) -> "Flat":
        """A tree such as `thin()` gives, in parts that lie as these do."""
        arrays = self.form.structure.flatten_up_to(tree)
        firsts = [arrays[members[0]] for members in self.form.members]
        parts = [
            array if len(members) == 1 else array.reshape(-1) for array, members in zip(firsts, self.form.members)
        ]
        return dataclasses.replace(self, parts=tuple(parts))


def flat(tree, form: Form) -> Flat:
    """`tree` in the parts that `form` says."""
    arrays = form.structure.flatten_up_to(tree)
    together = [[arrays[i] for i in members] for members in form.members]
    return Flat(tuple(part[0] if len(part) == 1 else _end_to_end(part) for part in together), form)


@functools.partial(jax.jit, inline=True)
def _end_to_end(arrays):
    return jnp.concatenate([array.reshape(-1) for array in arrays])


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _slices(vector, shapes):
    arrays, start = [], 0
    for shape in shapes:
        end = start + math.prod(shape)
        arrays.append(vector[start:end].reshape(shape))
        start = end
    return arrays


def form_of_params(params, groups: tuple[int, ...]) -> Form:
    """The form of `params`, of whose arrays those of one group lie in one part."""
    leaves, structure = jax.tree.flatten(params)
    return Form(structure, tuple(leaf.shape for leaf in leaves), _numbered(groups))


def form_of_state(state, params, groups: tuple[int, ...]) -> Form:
    """The form of an optimiser's state: what it keeps of arrays of one group, by one name, lies in one part."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    owners = owners_of(state, params)
    places = [(i,) if owner is None else (owner[0], groups[owner[1]]) for i, owner in enumerate(owners)]
    return Form(structure, tuple(leaf.shape for _, leaf in leaves), _numbered(places))


def owners_of(state, params) -> list[tuple[Path, int] | None]:
    """Of each array of an optimiser's state, (its name, the index of the parameter) where it belongs to one.

    It does where its path ends in the parameter's and it has its shape; what is before that is its name.
    """
    weights = {path: (i, leaf.shape) for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params))}

    def owner(path, leaf):
        for start in range(len(path)):
            i, shape = weights.get(path[start:], (None, None))
            if i is not None and shape == leaf.shape:
                return path[:start], i
        return None

    return [owner(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _numbered(labels) -> tuple[int, ...]:
    """Whole numbers in place of labels, in the order in which labels first occur."""
    numbers: dict = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)
