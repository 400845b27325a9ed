"""Frozen dataclasses as pytrees whose structure includes their class.

`jax.tree_util.register_dataclass` is not used because, as of jax 0.10.2, the tree structures of two dataclasses that it
has registered are equal whenever they have the same number of leaves and equal static fields, whatever their classes:
the structure of VP(0.1, 20) equals those of SubVP(0.1, 20) and VE(0.1, 20). Only their hashes differ, and a hash table
can still return the entry of an equal key with another hash. `jit` keeps its programs in such tables, and one first
call in tens to hundreds ran the program of another class. The structures of nodes registered here differ.

They differ in three more ways. JAX rebuilds nodes around leaves that are not numbers (axes, masks, gradients, shapes),
so rebuilding sets the fields and runs no constructor: values are checked only where a user constructs an object. Two
objects are equal if their classes, structures and values are equal, whatever arrays they hold. The hash is that of the
structure, so that `jax.jit` accepts a callable object.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays.checks import said
from jaxdiff.arrays.shown import readable

T = TypeVar("T")


def pytree(cls: type[T]) -> type[T]:
    """Register a frozen dataclass as a JAX pytree.

    Fields are leaves or subtrees, and may be traced; a field with `metadata={"static": True}` is part of the structure.
    Instances are equal where their class, structure and values are, and hashable.

    Args:
        cls: the dataclass.

    Returns:
        `cls` itself, for use as a decorator above `@dataclasses.dataclass(frozen=True)`.

    Raises:
        TypeError: if `cls` is not a dataclass.

    Examples:
        >>> import dataclasses
        >>> import jax
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Scaled:
        ...     scale: float
        ...     name: str = dataclasses.field(default="plain", metadata={"static": True})
        >>> jax.tree.map(lambda leaf: 2 * leaf, Scaled(1.5))
        Scaled(scale=3.0, name='plain')
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"cls = {cls!r}; expected a dataclass: put @pytree above @dataclasses.dataclass(frozen=True)")
    fields = dataclasses.fields(cls)
    static = tuple(f.name for f in fields if f.metadata.get("static"))
    nodes = tuple(f.name for f in fields if not f.metadata.get("static"))
    keys = tuple(map(jax.tree_util.GetAttrKey, nodes))

    def flatten(tree):
        return tuple(getattr(tree, name) for name in nodes), tuple(getattr(tree, name) for name in static)

    def flatten_with_keys(tree):
        children, structure = flatten(tree)
        return tuple(zip(keys, children)), structure

    def unflatten(structure, children):
        tree = object.__new__(cls)
        for name, value in (*zip(nodes, children), *zip(static, structure)):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    cls.__eq__ = _equal
    cls.__hash__ = _hash
    return readable(cls)


def _equal(self, other) -> bool:
    """Whether both have the same class, structure and leaf values; a traced leaf equals only itself."""
    if self is other:
        return True
    if type(self) is not type(other):
        return NotImplemented
    if jax.tree.structure(self) != jax.tree.structure(other):
        return False
    return all(map(_same, jax.tree.leaves(self), jax.tree.leaves(other)))


def _same(one, other) -> bool:
    if one is other:
        return True
    if isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer):
        return False
    one, other = (
        jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for leaf in (one, other)
    )
    return bool(np.array_equal(one, other))


def _hash(self) -> int:
    return hash((type(self), jax.tree.structure(self)))


def rebuilt(tree: T, **fields) -> T:
    """The dataclass `tree` with other `fields`, without running its constructor, so that values are not checked.

    Raises TypeError for a name that is not a field.
    """
    values = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}  # pyright: ignore
    if unknown := sorted(fields.keys() - values.keys()):
        raise TypeError(f"{type(tree).__name__} has no field {unknown[0]}; its fields are {', '.join(values)}")
    new = object.__new__(type(tree))
    for name, value in (values | fields).items():
        object.__setattr__(new, name, value)
    return new


def replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    """`tree` with each part replaced by `change(part)` where that is not None, through the fields of dataclasses."""
    if (new := change(tree)) is not None:
        return new
    if not dataclasses.is_dataclass(tree) or isinstance(tree, type):
        return tree
    fields = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    new = {name: replaced(part, change) for name, part in fields.items()}
    changed = {name: part for name, part in new.items() if part is not fields[name]}
    return rebuilt(tree, **changed) if changed else tree


def as_pytree(function: Callable) -> Callable:
    """Wrap a function as a pytree, so that it can be an argument of a compiled function.

    Args:
        function: a pytree, a method of a pytree, or a plain function.

    Returns:
        `function` itself if it is a pytree; otherwise a `jax.tree_util.Partial`, whose leaves are those of the pytree
        that it is a method of. A plain function has no leaves: it is part of the program.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> function = jd.processes.as_pytree(jnp.sin)
        >>> jax.tree.leaves(function), float(function(0.0))
        ([], 0.0)
    """
    if not jax.tree_util.all_leaves([function]):
        return function
    if inspect.ismethod(function) and not jax.tree_util.all_leaves([function.__self__]):
        return jax.tree_util.Partial(function.__func__, function.__self__)
    return jax.tree_util.Partial(function)


def check_pytree(name: str, value) -> None:
    """Raise TypeError for an object that is not a pytree and so cannot be an argument of a compiled program."""
    if jax.tree_util.all_leaves([value]):
        kind = type(value).__name__
        raise TypeError(f"{name} = {kind} is no pytree; make {kind} a frozen dataclass and put @jaxdiff.pytree above")


def as_argument(name: str, value) -> Any:
    """`value` as an argument of a compiled function: a pytree of numbers and arrays, or a plain function.

    A function is part of the program, and so is everything that it closes over. Raises TypeError for an object that is
    not a pytree, whose numbers and weights would be constants of the program, and for a leaf that is not a number.
    """
    if jax.tree_util.all_leaves([value]):
        if isinstance(value, functools.partial):
            if any(map(np.ndim, jax.tree.leaves((value.args, value.keywords)))):
                raise TypeError(
                    f"{name} holds arrays in a functools.partial, where they would be constants of the compiled "
                    "program; give jax.tree_util.Partial(function, arrays)"
                )
        elif not (inspect.isroutine(value) or hasattr(value, "__wrapped__")):
            check_pytree(name, value)
    value = as_pytree(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if not isinstance(leaf, bool | int | float | complex | np.generic | np.ndarray | jax.Array):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} = {said(leaf)}; expected numbers and arrays. Put @jaxdiff.pytree "
                "above a class of your own, and declare other fields with "
                'dataclasses.field(metadata={"static": True})'
            )
    return value
