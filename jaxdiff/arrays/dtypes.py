"""The dtypes of the state of a run."""

import jax
import jax.numpy as jnp

from jaxdiff.arrays.varying import vary


def same_dtype(tree, like):
    """`tree` with the dtypes of `like`, so that float64 weights leave a float32 state in float32."""
    return jax.tree.map(lambda leaf, other: vary(jnp.asarray(leaf).astype(other.dtype), other), tree, like)


def working_dtype(x):
    """The dtype of the times of a run that starts from x: float32, or float64 if a part of x is float64."""
    numbers = [leaf.dtype for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.result_type(jnp.float32, *numbers)


def working(x):
    """x in the dtypes of the state of a run: numbers in `working_dtype`, categories as they are."""
    dtype = working_dtype(x)
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, x)
