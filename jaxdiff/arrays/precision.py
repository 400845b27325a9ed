"""The precision of float32 products, which the platform chooses by default.

                 CPU        GPU                   TPU
    "default"    float32    TF32: 10 bits of 23   one product of bfloat16: 7 bits
    "high"       float32    TF32                  three
    "highest"    float32    float32               six, which is float32

These are JAX's names (`jax.default_matmul_precision`). They concern only matrix products and convolutions: sums and
elementwise operations are in float32 everywhere. A product with its own precision argument keeps it.

Closed forms are always computed at full precision (`exactly`): everything else is compared with them, and they cost
little compared with a network. A network that they call keeps the precision that its user chose (`as_called`).
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdiff.arrays.checks import said

Precision = Literal["default", "high", "highest"]
F = TypeVar("F", bound=Callable)

exactly = jax.default_matmul_precision("highest")
"""A decorator of functions whose products are computed at full precision."""


def as_called(function: F) -> F:
    """`function` with its products at the precision in effect now, wherever it is called later.

    The precision is set even if it is JAX's default: under `jax.vmap` a product that was traced without one takes the
    precision in effect where the mapped function is called.
    """
    return jax.default_matmul_precision(chosen_precision())(function)


def chosen_precision() -> str:
    """JAX's current setting: one of the three names, or another that JAX knows."""
    return jax.config.jax_default_matmul_precision or "default"  # pyright: ignore[reportAttributeAccessIssue]


def check_precision(precision) -> None:
    """Raise ValueError unless `precision` is None or one of the three names."""
    if precision is not None and not (isinstance(precision, str) and precision in get_args(Precision)):
        raise ValueError(
            f"precision = {said(precision)}; expected None, or {', '.join(get_args(Precision))}, the precision of "
            "float32 products. For a network in bfloat16 take jaxdiff.networks.Cast(network, jnp.bfloat16)"
        )


def at_precision(precision: Precision | None) -> contextlib.AbstractContextManager:
    """A context in which products are computed at `precision`; None keeps JAX's setting."""
    return contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)


def reduced(precision: Precision | None, mesh: Mesh | None = None) -> str | None:
    """A description of products at less than float32, such as "default precision on gpu"; None for full float32.

    It is for the devices of `mesh`, or JAX's default device.
    """
    device = next(iter(jnp.zeros(()).devices())) if mesh is None else mesh.devices.flat[0]
    word = chosen_precision() if precision is None else precision
    if word in ("highest", "float32") or device.platform == "cpu":
        return None
    return f"{word} precision on {device.platform}"


def in_float64(function: Callable, static_argnames: tuple[str, ...] = ()) -> Callable:
    """`function`, compiled and run on the device in float64, whatever JAX's setting; NumPy arrays in and out."""
    compiled = jax.jit(function, static_argnames=static_argnames)

    @functools.wraps(function)
    def run(*arguments, **named):
        with jax.enable_x64(True):
            return jax.device_get(compiled(*arguments, **named))

    return run
