r"""The weight of a loss: which values of an example count, and which are given (a prompt, known pixels, padding).

`weight`, of the shape of x_0, is 1 for a value that counts and 0 for one that is given: a given value is not noised,
x_t = x_0 there, and has no loss. What is learned and bounded is

    p(x_0 where weight = 1 | x_0 where weight = 0),

for numbers and for categories. For a product it is a tree of its structure, with None for a part that counts entirely.
An example's loss is the sum over the values that count divided by the number of all its values, so that a value has the
same weight in every example. If a whole part of a product is given, `jaxdiff.Given` is cheaper.
"""

import functools
import inspect
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, is_concrete, nan_unless, said, with_dtype
from jaxdiff.processes import Process


def check_weight(process: Process, weight, x0) -> Any:
    """`weight` as float32 of the structure of x0, or None if it is None.

    Raises TypeError unless it holds numbers, ValueError for another shape or a concrete value that is neither 0 nor 1
    (traced, NaN).
    """
    if weight is None:
        return None
    parts = process.split(weight, "weight")
    return process.joined([part if part is None else _checked(part, x) for part, x in zip(parts, process.split(x0))])


def _checked(weight, x0) -> jax.Array:
    array = as_array(weight)
    kinds = jnp.bool_, jnp.integer, jnp.floating
    if array is None or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(f"{with_dtype('weight', weight)}; expected 0 for a value that is given, 1 for one that counts")
    if array.shape != np.shape(x0):
        raise ValueError(f"weight has shape {array.shape}; expected the shape of x0, {np.shape(x0)}")
    if is_concrete(array):
        values = np.asarray(array)
        outside = (values != 0) & (values != 1)
        if outside.any():
            raise ValueError(f"weight holds {values[outside].flat[0]}; expected 0 for what is given, 1 for what counts")
    array = jnp.asarray(array).astype(jnp.float32)
    return nan_unless((array == 0) | (array == 1), array)


def held(process: Process, weight, x, x0) -> Any:
    """`x` with the given values replaced by x_0; `weight` is the result of `check_weight`."""
    keep = lambda weight, x, x0: x if weight is None else jnp.where(weight == 0, x0, x)
    return x if weight is None else process.joined([*map(keep, *map(process.split, (weight, x, x0)))])


def noised(process: Process, keys, x0, t, weight) -> tuple[Any, Any]:
    """`process.perturb(keys, x0, t)`, with given values not noised."""
    x, truth = process.perturb(keys, x0, t)
    return held(process, weight, x, x0), truth


def paid(process: Process, weight, values) -> Any:
    """`values`, of the structure of x0, where they count, and 0 elsewhere."""

    def count(weight, values):
        return values if weight is None else jnp.where(weight == 0, 0.0, values * weight.astype(values.dtype))

    return values if weight is None else process.joined([*map(count, *map(process.split, (weight, values)))])


def counts(process: Process, weight, x0) -> jax.Array:
    """The number of values that count in each example, [n] float32."""
    parts = process.split(x0), [None] * len(process.processes) if weight is None else process.split(weight)
    total = lambda x, part: jnp.broadcast_to(1.0 if part is None else part, x.shape).sum(range(1, x.ndim))
    return functools.reduce(operator.add, map(total, *parts))


def check_counted(counted: np.ndarray) -> np.ndarray:
    """`counted` [n], the result of `counts`; ValueError if nothing counts in an example."""
    if not counted.all():
        raise ValueError(f"weight is 0 throughout example {int(counted.argmin())}: nothing of it counts; leave it out")
    return counted


def takes_weight(loss) -> bool:
    """Whether `loss` can be called with `weight=`."""
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):  # functions written in C have no signature
        return False
    return any(parameter.name == "weight" or parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def called(loss, denoiser, key, x0, cond, weight) -> jax.Array:
    """`loss(denoiser, key, x0, cond)`, with `weight=` if it is not None; TypeError for a loss that takes no weight."""
    if weight is None:
        return loss(denoiser, key, x0, cond)
    if not takes_weight(loss):
        raise TypeError(
            f"weight was given, but loss = {said(loss)} takes none; leave weight out, or take a loss "
            "(denoiser, key, x0, cond, weight), such as jaxdiff.losses.Denoising()"
        )
    return loss(denoiser, key, x0, cond, weight=weight)
