"""The dtypes in which a run is carried."""

import jax
import jax.numpy as jnp

from jaxdiff.arrays.varying import vary


def same_dtype(tree, like):
    """`tree` with the dtypes of `like`, so that float64 weights leave a float32 state in float32."""
    return jax.tree.map(lambda leaf, other: vary(jnp.asarray(leaf).astype(other.dtype), other), tree, like)


def working_dtype(x):
    """The dtype of the states and times of a run from x: float32, or float64 where x has it."""
    return jnp.promote_types(x.dtype, jnp.float32)
