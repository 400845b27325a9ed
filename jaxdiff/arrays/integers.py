"""Integers as data sets store them: 0 to levels - 1."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays.checks import as_array, check_whole, is_concrete, said

_PLACES = 8  # the minimal number of distinct values of u in a cell


def noise_dtype(levels: int):
    """The dtype of k + u: float32 if it resolves u to an eighth of a cell, otherwise JAX's widest.

    Raises ValueError if neither does.
    """
    check_whole("levels", levels, least=2)
    for dtype in (jnp.float32, jnp.result_type(float)):
        most = 2 ** jnp.finfo(dtype).nmant // _PLACES
        if levels <= most:
            return dtype
    fix = "" if dtype == jnp.float64 else ', or float64 by jax.config.update("jax_enable_x64", True)'
    raise ValueError(
        f"levels = {levels}: {jnp.dtype(dtype)} cannot resolve noise in so many cells; expected at most {most}{fix}"
    )


def check_integers(images, levels: int) -> np.ndarray | jax.Array:
    """`images` as an array of integers in 0..levels-1; the range is checked if they are concrete.

    Raises TypeError for another dtype, ValueError for values out of range, a missing batch axis, or an empty array.
    """
    noise_dtype(levels)
    array = as_array(images)
    if array is None or not jnp.issubdtype(array.dtype, jnp.integer):
        kind = said(images) if array is None else array.dtype
        raise TypeError(f"images have dtype {kind}; expected integers in 0..{levels - 1}, as they were stored")
    if array.ndim < 2:
        raise ValueError(f"images have shape {array.shape}; expected a batch axis and an event: [n, *event]")
    if array.size == 0:
        raise ValueError(f"images have shape {array.shape}: the data set is empty; expected at least one image")
    if is_concrete(array):
        low, high = np.min(np.asarray(array)), np.max(np.asarray(array))
        if low < 0 or high >= levels:
            raise ValueError(f"images hold values {low}..{high}; expected 0..{levels - 1} for levels = {levels}")
    return array
