"""Types of values that differ between the devices of a `jax.shard_map`, which its default check requires."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer


def varies(leaf) -> frozenset:
    """The axes of a `jax.shard_map` over which the type of `leaf` allows it to differ between devices.

    The attribute has different names in different versions of JAX.
    """
    kind = jax.typeof(leaf)
    return getattr(kind, "vma", None) or getattr(getattr(kind, "mat", None), "varying", frozenset())


def vary(tree: Any, like: Any) -> Any:
    """`tree` with the same values, typed as differing over every axis of a `jax.shard_map` over which `like` does.

    The carry of a loop must have one type throughout, but a constant start is typed as equal on all devices.
    """
    leaves = {varies(leaf): leaf for leaf in jax.tree.leaves(like) if isinstance(leaf, Tracer)}
    leaves.pop(frozenset(), None)
    if not leaves:
        return tree
    raw = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    differs = jnp.stack([jnp.zeros_like(raw(leaf)).any() for leaf in leaves.values()]).any()
    return jax.tree.map(lambda leaf: jnp.where(differs, leaf, leaf), tree)
