"""The precision of products in float32, which is the platform's choice unless it is told.

                 CPU        GPU                   TPU
    "default"    float32    TF32: 10 bits of 23   one product of bfloat16: 7 bits
    "high"       float32    TF32                  three
    "highest"    float32    float32               six, which is float32

These are JAX's words (`jax.default_matmul_precision`). They speak of products of matrices and of convolutions alone:
sums, and what is done value by value, are in float32 everywhere. A product that names a precision of its own keeps it.

Closed forms are computed at full precision whatever was chosen (`exactly`): they are what all else is compared with,
and cost little beside a network. A network that they call keeps the precision that its user chose (`as_called`).
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
"""Decorates a function whose products are computed at full precision."""


def as_called(function: F) -> F:
    """`function` with its products at the precision that is chosen here, wherever it is called.

    The precision is named even where it is JAX's default: under `jax.vmap` a product that was traced without one takes
    that of the place where the mapped function is called.
    """
    return jax.default_matmul_precision(chosen_precision())(function)


def chosen_precision() -> str:
    """JAX's own setting here: one of the three words, or another name that JAX knows."""
    return jax.config.jax_default_matmul_precision or "default"  # pyright: ignore[reportAttributeAccessIssue]


def check_precision(precision) -> None:
    """Raise ValueError for what is neither None nor one of JAX's three words."""
    if precision is not None and not (isinstance(precision, str) and precision in get_args(Precision)):
        raise ValueError(
            f"precision = {said(precision)}; expected None, or {', '.join(get_args(Precision))}, which is how products "
            "of float32 are computed. A network in bfloat16 is jaxdiff.networks.Cast(network, jnp.bfloat16)"
        )


def at_precision(precision: Precision | None) -> contextlib.AbstractContextManager:
    """What is computed inside has its products at `precision`; None leaves that to JAX's own setting."""
    return contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)


def reduced(precision: Precision | None, mesh: Mesh | None = None) -> str | None:
    """What `precision` makes of products where it is less than float32, such as "default precision on gpu"; or None.

    On the devices of `mesh`, or where JAX puts an array.
    """
    device = next(iter(jnp.zeros(()).devices())) if mesh is None else mesh.devices.flat[0]
    word = chosen_precision() if precision is None else precision
    if word in ("highest", "float32") or device.platform == "cpu":
        return None
    return f"{word} precision on {device.platform}"


def in_float64(function: Callable, static_argnames: tuple[str, ...] = ()) -> Callable:
    """`function`, compiled and run on the device in float64 whatever JAX's setting is: NumPy arrays in and out."""
    compiled = jax.jit(function, static_argnames=static_argnames)

    @functools.wraps(function)
    def run(*arguments, **named):
        with jax.enable_x64(True):
            return jax.device_get(compiled(*arguments, **named))

    return run
