"""The dtypes in which a run is carried."""

import jax
import jax.numpy as jnp

from jaxdiff.arrays.varying import vary


def same_dtype(tree, like):
    """`tree` with the dtypes of `like`, so that float64 weights leave a float32 state in float32."""
    return jax.tree.map(lambda leaf, other: vary(jnp.asarray(leaf).astype(other.dtype), other), tree, like)


def working_dtype(x):
    """The dtype of the times of a run from x: float32, or float64 where a part of x has it."""
    numbers = [leaf.dtype for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.result_type(jnp.float32, *numbers)


def working(x):
    """x in the dtypes in which a run is carried: numbers in `working_dtype`, categories as they are."""
    dtype = working_dtype(x)
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, x)
