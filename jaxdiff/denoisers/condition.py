"""Conditions: a label, a vector, or a dictionary of named parts; any tree for a network of your own.

    label [n], integers        vector [n, d]            tokens [n, length, d], token_mask [n, length]
    image [n, *space, c]       level [n], the log-SNR of an augmented image

A bare array of integers is the label, and one of floats is the vector. A *null* stands for "no condition": one
example's cond without a batch axis, broadcast over the batch, such as the label `no_label`, the encoding of "", or an
empty image. The null None leaves it to the network.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, is_concrete, said, with_dtype

PARTS = ("label", "vector", "image", "level", "tokens", "token_mask")
ALONG = {"token_mask": "tokens"}  # a part that belongs to another part: {part: the other}


def check_cond_of(model, *arguments) -> None:
    """Call a model's own `check_cond`, if it has one.

    Args:
        model: a denoiser, a network or a module.
        arguments: the arguments of that method: `cond` for a denoiser or a module, `params, cond` for a network.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> jd.denoisers.check_cond_of(denoiser, jnp.array([0, 0]))
        >>> jd.denoisers.check_cond_of(denoiser, jnp.array([0, 1]))
        Traceback (most recent call last):
        ValueError: label 1 is out of range; expected 0 to 0
    """
    check = getattr(model, "check_cond", None)
    if check is not None:
        check(*arguments)


def no_label_of(model, *arguments) -> int | None:
    """The label by which a model means "no label".

    Args:
        model: a denoiser, a network or a module, which may have a method `no_label`.
        arguments: the arguments of that method: none for a denoiser or a module, `params` for a network.

    Returns:
        `model.no_label(*arguments)`; None if the model has no such method or no such label.

    Examples:
        >>> import jaxdiff as jd
        >>> class Network:
        ...     def no_label(self, params):
        ...         return 10
        >>> jd.denoisers.no_label_of(Network(), {})
        10
    """
    of = getattr(model, "no_label", None)
    return None if of is None else of(*arguments)


def check_cond(denoiser, cond, n: int) -> Any:
    """Check the condition of n examples, and repeat its scalars for each of them.

    Args:
        denoiser: the denoiser that gets the condition; its own `check_cond` is called too.
        cond: a tree of arrays `[n, ...]` or scalars; None passes.
        n: the number of examples.

    Returns:
        `cond` with leaves `[n, ...]`.

    Raises:
        TypeError: if a leaf does not hold numbers.
        ValueError: if a leaf has another length, or holds a NaN (unless it is traced).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> jd.denoisers.check_cond(denoiser, 0, 3).tolist()
        [0, 0, 0]
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
    """The parts of `cond` by name: a bare array is its "label", "vector" or else "cond"; None has no parts."""
    if cond is None or isinstance(cond, dict):
        return dict(cond or {})
    if _are_labels(cond):
        return {"label": cond}
    return {"vector" if hasattr(cond, "dtype") and cond.ndim == 2 else "cond": cond}


def of_parts(parts: dict[str, Any], cond) -> Any:
    """`parts` in the form of `cond`: as a dictionary, or a single part as a bare array."""
    return parts if isinstance(cond, dict) else next(iter(parts.values()))


def together(name: str, cond) -> tuple[str, ...]:
    """`name`, and the parts of `cond` that go along with it, as the mask does with the tokens."""
    return name, *(part for part in parts_of(cond) if ALONG.get(part) == name)


def label_of(cond) -> Any:
    """The integer labels in `cond`; None if there are none."""
    label = parts_of(cond).get("label")
    return label if _are_labels(label) else None


def _are_labels(array) -> bool:
    return hasattr(array, "dtype") and bool(jnp.issubdtype(array.dtype, jnp.integer))


def named(cond) -> str:
    """The name of `cond` in a report: "label", "vector", "label, tokens"."""
    return ", ".join(name for name in parts_of(cond) if name not in ALONG)


def _numbers(name: str, value, expected: str, repair: str) -> Any:
    """`value` as an array; TypeError if it does not hold numbers, ValueError for a NaN unless it is traced."""
    array = as_array(value)
    if array is None or not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{with_dtype(name, value)}; expected {expected}")
    if is_concrete(array) and ((values := np.asarray(array)) != values).any():
        raise ValueError(f"{name} holds a NaN; {repair}")
    return array


def check_null(null, name: str = "null") -> None:
    """Raise TypeError for a null whose leaves are not numbers or arrays of numbers, ValueError for a NaN."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(null):
        part = f"{name}{jax.tree_util.keystr(path)}"
        _numbers(
            part,
            leaf,
            "numbers, those of one example of cond",
            "expected one example of cond that stands for no condition",
        )


def as_nulls(null, cond, name: str = "null") -> Any:
    """`null`, one example's cond, as arrays with the structure and the dtypes of `cond`, whose leaves are [n, ...].

    Integers stay wide enough for both. Raises ValueError for another structure or shape, TypeError for another kind of
    number.
    """
    if jax.tree.structure(null) != jax.tree.structure(cond):
        raise ValueError(f"{name} = {said(null)}; expected one example of cond, {_form(cond)}")

    def fit(path, value, leaf):
        part, array = f"{name}{jax.tree_util.keystr(path)}", as_array(value)
        if array is None or _kind(array.dtype) != _kind(leaf.dtype):
            raise TypeError(f"{with_dtype(part, value)}; expected {_kind(leaf.dtype)}, as in cond")
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
