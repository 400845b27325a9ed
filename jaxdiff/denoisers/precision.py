"""The precision that a model is computed in, and the same model in full precision."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdiff.arrays import Precision, reduced, replaced


def uncast(model: Any) -> tuple[Any, list[str]]:
    """`model` with its networks computed in the dtype of x, and the dtypes below float32 that they were computed in.

    A network that is computed in another dtype says so by its `dtype` and by `uncast`, the network that is not, as
    `jaxdiff.networks.Cast` does. It is found in the fields of dataclasses: in wrappers, potentials, pairs of models.
    """
    dtypes = []

    def change(part):
        if not hasattr(type(part), "uncast") or jnp.finfo(part.dtype).nmant >= jnp.finfo(jnp.float32).nmant:
            return None
        dtypes.append(jnp.dtype(part.dtype).name)
        inner, found = uncast(part.uncast)
        dtypes.extend(found)
        return inner

    return replaced(model, change), sorted({*dtypes})


def arithmetic(model: Any, dtype, precision: Precision | None = None, mesh: Mesh | None = None) -> str:
    """What `model` is computed in on x of `dtype`, in words: "float32", or where it falls short of that."""
    cast = " and ".join(uncast(model)[1])
    low = reduced(precision, mesh) if dtype == jnp.float32 else None
    short = [f"network in {cast}"] * bool(cast) + [f"float32 products at {low}"] * bool(low)
    return ", ".join(short) or jnp.dtype(dtype).name
