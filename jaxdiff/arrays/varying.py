"""Values that differ between the devices of a `jax.shard_map`, whose default check knows them by their type."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer


def varies(leaf) -> frozenset:
    """The axes of a `jax.shard_map` over which `leaf` is known to differ between devices; none where it does not say.

    The attribute has changed its name between versions of JAX.
    """
    kind = jax.typeof(leaf)
    return getattr(kind, "vma", None) or getattr(getattr(kind, "mat", None), "varying", frozenset())


def vary(tree: Any, like: Any) -> Any:
    """`tree`, its values the same, typed as differing over all axes of a `jax.shard_map` that a leaf of `like` does.

    A loop's carry has one type from start to end, and a constant start is typed as equal on all devices.
    """
    leaves = {varies(leaf): leaf for leaf in jax.tree.leaves(like) if isinstance(leaf, Tracer)}
    leaves.pop(frozenset(), None)
    if not leaves:
        return tree
    raw = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    differs = jnp.stack([jnp.zeros_like(raw(leaf)).any() for leaf in leaves.values()]).any()
    return jax.tree.map(lambda leaf: jnp.where(differs, leaf, leaf), tree)
