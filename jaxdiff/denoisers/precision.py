"""The precision in which a model is computed, and the same model in full precision."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdiff.arrays import Precision, reduced, replaced


def uncast(model: Any) -> tuple[Any, list[str]]:
    """A model with its networks computed in the dtype of x.

    A network that is computed in another dtype has `dtype`, and `uncast`, the network without the cast, as
    `jaxdiff.networks.Cast` does. It is found in the fields of dataclasses: in wrappers, potentials and pairs of models.

    Args:
        model: the model.

    Returns:
        The model, and the names of the dtypes narrower than float32 that were removed.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = jd.networks.Cast(lambda params, x, c_noise, cond: x, jnp.bfloat16)
        >>> model, dtypes = jd.denoisers.uncast(jd.Denoiser(network, {}, jd.VP()))
        >>> dtypes
        ['bfloat16']
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
    """The arithmetic of a model in words: "float32", or in which way it is less precise.

    Args:
        model: the model.
        dtype: the dtype of x.
        precision: the precision of matrix products; None is JAX's default.
        mesh: the devices it runs on; None is the default device.

    Returns:
        A phrase for a report.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = jd.networks.Cast(lambda params, x, c_noise, cond: x, jnp.bfloat16)
        >>> jd.denoisers.arithmetic(jd.Denoiser(network, {}, jd.VP()), jnp.float32, "highest")
        'network in bfloat16'
    """
    cast = " and ".join(uncast(model)[1])
    low = reduced(precision, mesh) if dtype == jnp.float32 else None
    short = [f"network in {cast}"] * bool(cast) + [f"float32 products at {low}"] * bool(low)
    return ", ".join(short) or jnp.dtype(dtype).name
