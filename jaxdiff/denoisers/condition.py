"""What a model is given: a label, a vector, or a dictionary of named parts; any tree for a network of one's own.

    label [n], integers        vector [n, d]            tokens [n, length, d], token_mask [n, length]
    image [n, *space, c]       level [n], the log-SNR of an augmented image

A bare array of integers is the label, and one of floats the vector. A *null* is one example's cond that says nothing,
without a batch axis, broadcast over the batch: the label `no_label`, the encoding of "", an image that is empty. None
is the network's own.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, is_concrete, said, with_dtype

PARTS = ("label", "vector", "image", "level", "tokens", "token_mask")
ALONG = {"token_mask": "tokens"}  # what is no part by itself, and whose it is


def check_cond_of(model, *arguments) -> None:
    """Call `model.check_cond(*arguments)` where there is one: (cond) for a denoiser, (params, cond) for a network."""
    check = getattr(model, "check_cond", None)
    if check is not None:
        check(*arguments)


def no_label_of(model, *arguments) -> int | None:
    """`model.no_label(*arguments)`, its label for no label: of () for a denoiser, of (params) for a network.

    None where it has no such label, or does not say.
    """
    of = getattr(model, "no_label", None)
    return None if of is None else of(*arguments)


def check_cond(denoiser, cond, n: int) -> Any:
    """`cond` with leaves [n, ...], scalars repeated, checked to be what the denoiser takes (see `DenoiserLike`).

    Raises TypeError for a leaf that holds no numbers, ValueError for one of another length, or (concrete) with a NaN.
    """

    def check(path, leaf):
        name = f"cond{jax.tree_util.keystr(path)}"
        leaf = _numbers(name, leaf, "arrays of numbers, such as integer labels", "remove or repair that example")
        if leaf.ndim and leaf.shape[0] != n:
            raise ValueError(f"{name} has shape {leaf.shape}; expected one entry each for {n} examples, or a scalar")
        return leaf

    cond = jax.tree_util.tree_map_with_path(check, cond, is_leaf=lambda c: isinstance(c, list))
    check_cond_of(denoiser, cond)
    every = lambda leaf: jnp.asarray(leaf) if leaf.ndim else jnp.broadcast_to(leaf, (n,))
    return jax.tree.map(every, cond)


def parts_of(cond) -> dict[str, Any]:
    """The parts of `cond` by their names: a bare array is its "label", "vector" or else "cond"; None has no part."""
    if cond is None or isinstance(cond, dict):
        return dict(cond or {})
    if _are_labels(cond):
        return {"label": cond}
    return {"vector" if hasattr(cond, "dtype") and cond.ndim == 2 else "cond": cond}


def of_parts(parts: dict[str, Any], cond) -> Any:
    """The condition of the form of `cond` that has these parts."""
    return parts if isinstance(cond, dict) else next(iter(parts.values()))


def together(name: str, cond) -> tuple[str, ...]:
    """`name`, and the parts of `cond` that go along with it: tokens and their mask."""
    return name, *(part for part in parts_of(cond) if ALONG.get(part) == name)


def label_of(cond) -> Any:
    """The integer labels of `cond`; None where there are none."""
    label = parts_of(cond).get("label")
    return label if _are_labels(label) else None


def _are_labels(array) -> bool:
    return hasattr(array, "dtype") and bool(jnp.issubdtype(array.dtype, jnp.integer))


def named(cond) -> str:
    """What `cond` is called in a report: "label", "vector", "label, tokens"."""
    return ", ".join(name for name in parts_of(cond) if name not in ALONG)


def _numbers(name: str, value, expected: str, repair: str) -> Any:
    """`value` as an array; TypeError for one that holds no numbers, ValueError (concrete) for a NaN in it."""
    array = as_array(value)
    if array is None or not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{with_dtype(name, value)}; expected {expected}")
    if is_concrete(array) and ((values := np.asarray(array)) != values).any():
        raise ValueError(f"{name} holds a NaN; {repair}")
    return array


def check_null(null, name: str = "null") -> None:
    """Raise TypeError for a null whose leaves are no numbers or arrays of them, ValueError for a NaN in one."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(null):
        part = f"{name}{jax.tree_util.keystr(path)}"
        _numbers(part, leaf, "numbers, those of one example of cond", "expected one example of cond that says nothing")


def as_nulls(null, cond, name: str = "null") -> Any:
    """`null`, one example's cond, as a tree of arrays of the form and the types of `cond`, whose leaves are [n, ...].

    Integers stay wide enough for both. Raises ValueError for another structure or shape, TypeError for another kind of
    number.
    """
    if jax.tree.structure(null) != jax.tree.structure(cond):
        raise ValueError(f"{name} = {said(null)}; expected one example of cond, {_form(cond)}")

    def fit(path, value, leaf):
        part, array = f"{name}{jax.tree_util.keystr(path)}", as_array(value)
        if array is None or _kind(array.dtype) != _kind(leaf.dtype):
            raise TypeError(f"{with_dtype(part, value)}; expected {_kind(leaf.dtype)}, as those of cond")
        if array.shape != leaf.shape[1:]:
            raise ValueError(
                f"{part} has shape {array.shape}; expected {leaf.shape[1:]}, that of one example of cond, without a "
                "batch axis"
            )
        integer = _kind(leaf.dtype) == "integers"
        array = jnp.asarray(array)
        return array.astype(jnp.promote_types(array.dtype, leaf.dtype) if integer else leaf.dtype)

    return jax.tree_util.tree_map_with_path(fit, null, cond)


def _kind(dtype) -> str:
    kinds = {"integers": jnp.integer, "floats": jnp.floating, "truth values": jnp.bool_}
    return next((word for word, kind in kinds.items() if jnp.issubdtype(dtype, kind)), str(dtype))


def _form(cond) -> str:
    """One example of `cond` in words: "label int32 [], tokens float32 [7, 16]"."""
    return ", ".join(_leaves(cond)) or "which is empty"


def _leaves(cond) -> Iterator[str]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        yield f"{jax.tree_util.keystr(path, simple=True)} {leaf.dtype} {list(leaf.shape[1:])}".strip()
