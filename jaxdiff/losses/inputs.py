"""Checks of a loss's arguments, and its draw of times."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_event, check_function, check_key
from jaxdiff.denoisers import check_cond, check_denoiser


def check_batch_of(denoiser, key, x0, cond) -> tuple[jax.Array, Any]:
    """(x0, cond) as arrays of one batch; TypeError or ValueError for arguments that no loss takes."""
    check_denoiser(denoiser)
    check_key(key)
    x0 = check_event(x0, "x0")
    return x0, check_cond(denoiser, cond, x0.shape[0])


def check_times_law(times) -> None:
    """Raise TypeError for what draws no times."""
    check_function("times", times, "one of jaxdiff.losses.times, such as Stratified()")


def draw_times(times, key, process, n: int) -> tuple[jax.Array, jax.Array]:
    """(t, factor) of `times`, each [n], rolled along the batch by a random shift; ValueError for other shapes.

    Stratified times rise along the batch. Where the classes of a batch stand in a fixed order, each would otherwise be
    trained on times of its own; rolled, every example has every time with the same probability.
    """
    shift = jax.random.randint(jax.random.fold_in(key, 1), (), 0, n)
    # rolled and rolled back: numbers given one an example stay with their examples
    turned = jax.tree.map(lambda leaf: jnp.roll(leaf, shift) if np.shape(leaf) == (n,) else leaf, times)
    t, factor = turned(key, process, n)
    shapes = [getattr(part, "shape", None) for part in (t, factor)]
    if shapes != [(n,)] * 2:
        raise ValueError(f"times returned shapes {shapes}; expected two arrays [{n}], one number an example")
    return jnp.roll(t, -shift), jnp.roll(factor, -shift)
