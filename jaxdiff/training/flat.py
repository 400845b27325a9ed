"""The arrays of a tree in a few vectors, so that one kernel replaces one kernel per array.

A `Flat` holds a tree in parts: several arrays end to end, or one array as it is. `tree()` returns the arrays. An
elementwise optimiser, such as Adam, takes `thin()`: a tree of the same structure in which the first array of a part is
the whole part and the others are empty. It keeps the paths and the numbers of axes of the tree, by which masks select
arrays, and a sum over its arrays is the sum over all numbers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.arrays import pytree
from jaxdiff.arrays.mesh import place


@dataclasses.dataclass(frozen=True)
class Form:
    """The layout of a tree: its structure, and the shape and the index of the part of each array."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    @functools.cached_property
    def members(self) -> list[list[int]]:
        """For each part, the indices of the arrays in it."""
        members = [[] for _ in set(self.places)]
        for i, part in enumerate(self.places):
            members[part].append(i)
        return members


@pytree
@dataclasses.dataclass(frozen=True)
class Flat:
    """A tree in parts, each a vector of several arrays or one array of its own shape."""

    parts: tuple
    form: Form = dataclasses.field(metadata={"static": True})

    def tree(self) -> Any:
        """The tree with all of its arrays. Arrays that share a part are copied."""
        return self._tree(lambda part, shapes: [part] if len(shapes) == 1 else _slices(part, shapes))

    def abstract(self) -> Any:
        """The shapes and types of `tree()`, as `jax.ShapeDtypeStruct`; each array has the sharding of its part."""
        shape = lambda part, shape: jax.ShapeDtypeStruct(shape, part.dtype, sharding=getattr(part, "sharding", None))
        return self._tree(lambda part, shapes: [shape(part, each) for each in shapes])

    def thin(self) -> Any:
        """The tree in which the first array of a part is the whole part, along axis 0, and the others are empty."""

        def thin(part, shapes):
            if len(shapes) == 1:
                return [part]
            ones = [(1,) * (len(shape) - 1) for shape in shapes]
            return [part.reshape(-1, *ones[0]), *(jnp.zeros((0, *each), part.dtype) for each in ones[1:])]

        return self._tree(thin)

    def _tree(self, arrays_of: Callable) -> Any:
        """The tree of `arrays_of(part, shapes of the arrays in it)` of every part."""
        arrays: list[Any] = [None] * len(self.form.shapes)
        for part, members in zip(self.parts, self.form.members):
            for i, array in zip(members, arrays_of(part, [self.form.shapes[i] for i in members])):
                arrays[i] = array
        return self.form.structure.unflatten(arrays)

    def of_thin(self, tree) -> "Flat":
        """A `Flat` of this layout from a tree such as `thin()` returns."""
        arrays = self.form.structure.flatten_up_to(tree)
        firsts = [arrays[members[0]] for members in self.form.members]
        shapes = [part.shape for part in self.parts]
        return Flat(tuple(first.reshape(shape) for first, shape in zip(firsts, shapes)), self.form)


def flat(tree, form: Form) -> Flat:
    """`tree` in the parts of `form`."""
    arrays = form.structure.flatten_up_to(tree)
    together = [[arrays[i] for i in members] for members in form.members]
    return Flat(tuple(part[0] if len(part) == 1 else _end_to_end(part) for part in together), form)


def _end_to_end(arrays):
    if any(isinstance(array, Tracer) for array in arrays):
        return jnp.concatenate([array.reshape(-1) for array in arrays])
    return place(np.concatenate([np.asarray(array).reshape(-1) for array in arrays]), arrays[0].sharding)


def _slices(vector, shapes) -> list:
    """The arrays of a vector. A vector on the CPU is sliced by NumPy, since compiling the slices takes seconds."""
    if isinstance(vector, Tracer) or any(device.platform != "cpu" for device in vector.sharding.device_set):
        return _program_of_slices(vector, tuple(shapes))
    return place(_cut(np.asarray(vector), shapes), [vector.sharding] * len(shapes))


def _cut(vector, shapes) -> list:
    sizes = [math.prod(shape) for shape in shapes]
    return [vector[end - size : end].reshape(shape) for size, end, shape in zip(sizes, np.cumsum(sizes), shapes)]


_program_of_slices = jax.jit(_cut, static_argnums=1, inline=True)


def form_of_params(params, groups: tuple[int, ...]) -> Form:
    """The form of `params` in which the arrays of one group share a part."""
    leaves, structure = jax.tree.flatten(params)
    return Form(structure, tuple(leaf.shape for leaf in leaves), _numbered(groups))


def form_of_state(state, params, groups: tuple[int, ...]) -> Form:
    """The form of an optimiser's state in which arrays of one name and one group of parameters share a part."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    owners = owners_of(state, params)
    places = [(i,) if owner is None else (owner[0], groups[owner[1]]) for i, owner in enumerate(owners)]
    return Form(structure, tuple(leaf.shape for _, leaf in leaves), _numbered(places))


def owners_of(state, params) -> list[tuple[tuple, int] | None]:
    """For each array of an optimiser's state, (its name, the index of its parameter), or None if it has none.

    An array belongs to a parameter if its path ends in the parameter's path and their shapes agree. The rest of the
    path is its name.
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
    """Labels replaced by whole numbers, in the order in which they first occur."""
    numbers: dict = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)
