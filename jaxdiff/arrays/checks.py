"""Checks of what users give, one for each kind of value; a message has the value, what was expected, and the fix.

A value is checked where it is concrete. Under a transformation (`jit`, `vmap`, `grad`) its type and shape are checked
alone, and a number outside its range gives NaN or what the formula gives.
"""

import math
import operator
import os

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_concrete(x) -> bool:
    """Whether the values of x can be looked at: false under `jit` and the like, and where other processes hold some."""
    if isinstance(x, jax.core.Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def _kind(value) -> str | None:
    """ "float", "int" or None: what kind of number or array of numbers `value` is; a bool is none."""
    if isinstance(value, bool | complex) or not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return None
    dtype = jnp.result_type(value) if isinstance(value, int | float) else value.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        return "float"
    return "int" if jnp.issubdtype(dtype, jnp.integer) else None


def _bounds(above, least, below, most, noun: str) -> str:
    """The words for a range: "a number above 0", "a number in [0, 1)", "a whole number of at least 1"."""
    low, high = (above if least is None else least), (below if most is None else most)
    if low is not None and high is not None and not math.isinf(high):
        return f"{noun} in {'(' if least is None else '['}{low}, {high}{')' if most is None else ']'}"
    if low is not None:
        return f"{noun} above {low}" if least is None else f"{noun} of {low} or more"
    if high is not None:
        return f"{noun} below {high}" if most is None else f"{noun} of {high} or less"
    return noun


def _inside(values, above, least, below, most):
    inside = values == values  # not NaN
    for compare, bound in ((operator.gt, above), (operator.ge, least), (operator.lt, below), (operator.le, most)):
        if bound is not None:
            inside &= compare(values, bound)
    return inside


def check_number(
    name: str,
    value,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    fix: str = "",
):
    """`value` as it is, a real number or an array of them, each finite and within the bounds as far as can be seen.

    `above` and `below` are open bounds, `least` and `most` closed ones; `most=math.inf` allows infinity. `fix` ends the
    message. Raises TypeError for what is no number, ValueError for one outside the bounds.
    """
    expected = _bounds(above, least, below, most, "a number")
    if _kind(value) is None:
        raise TypeError(f"{name} = {value!r}; expected {expected}{fix}")
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        raise TypeError(f"{name} has dtype {value.dtype.str}, bytes in the other order; convert it by `native`")
    if is_concrete(value):
        values = np.asarray(value)
        inside = np.asarray(_inside(values, above, least, below, most))
        if most != math.inf:
            inside &= np.isfinite(values)
        if not inside.all():
            wrong = values[~inside].flat[0] if values.ndim else value
            raise ValueError(f"{name} = {wrong}; expected {expected}{fix}")
    return value


def check_whole(name: str, value, *, least: int | None = 1, most: int | None = None, fix: str = "") -> int:
    """`value` as an int, within closed bounds. Raises TypeError for what is no whole number, ValueError otherwise."""
    expected = _bounds(None, least, None, most, "a whole number")
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} is traced; expected {expected}, known before tracing: make it a static argument")
    try:
        if isinstance(value, bool):
            raise TypeError
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r}; expected {expected}{fix}") from None
    if (least is not None and whole < least) or (most is not None and whole > most):
        raise ValueError(f"{name} = {whole}; expected {expected}{fix}")
    return whole


def check_choice(name: str, value, choices) -> None:
    """Raise ValueError where `value` is none of `choices`."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} = {value!r}; expected one of {known}")


def check_instance(name: str, value, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise TypeError where `value` is no instance of `kind`, which a message calls `expected`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} = {value!r}; expected {expected}")


def check_room(what: str, *shape: int, itemsize: int = 4) -> None:
    """Raise ValueError where an array of `shape` is larger than the memory of this machine, or of its device."""
    needed = math.prod(shape) * itemsize
    stats = jax.local_devices()[0].memory_stats() or {}
    there = stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"{what} of shape {shape} takes {needed / 2**30:.3g} GiB, more than the {there / 2**30:.3g} GiB there are; "
            "ask for less at a time"
        )


def native(x):
    """`x` as an array, NumPy or JAX, whose bytes have this machine's order."""
    if isinstance(x, jax.Array):
        return x
    x = np.asarray(x)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def floating(t) -> jax.Array:
    """`t` as a floating array."""
    t = jnp.asarray(native(t))
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)


def check_time(t, name: str = "t") -> jax.Array:
    """`t` as a floating array; TypeError for what is no number, ValueError where it is concrete and leaves [0, 1]."""
    t = t if isinstance(t, jax.Array) else native(t)
    if _kind(t) is None:
        raise TypeError(f"{name} = {t!r}; expected a number in [0, 1], or an array of them")
    if is_concrete(t):
        values = np.asarray(t)
        outside = ~((values >= 0) & (values <= 1))
        if outside.any():
            raise ValueError(
                f"{name} = {values[outside].flat[0]} is outside [0, 1]: t is 0 at the data and 1 at the noise; "
                "divide the step of a table of T steps by T"
            )
    return floating(t)


def check_event(x, name: str = "x") -> jax.Array:
    """`x` as a batch of floating events; an error where it holds integers, has no batch axis, or (concrete) a NaN."""
    x = native(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected floating values. Integer images go through "
            "jaxdiff.dequantize (to [-1, 1]) first"
        )
    if x.ndim < 2:
        raise ValueError(f"{name} has shape {x.shape}; expected a batch axis and an event: [batch, *event]")
    if is_concrete(x):
        bad = ~np.isfinite(np.asarray(x)).all(axis=tuple(range(1, x.ndim)))
        if bad.any():
            raise ValueError(f"{name}[{int(bad.argmax())}] holds a NaN or an infinity; remove or repair that example")
    return jnp.asarray(x)


def along_batch(value, x, name: str) -> jax.Array:
    """`value`, one number or one an example of `x`, with trailing axes so that it broadcasts against x [batch, *event].

    Raises ValueError for another shape: broadcasting would put it along the event wherever sizes agree.
    """
    value = jnp.asarray(value)
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"{name} has shape {value.shape}; expected a scalar or [{x.shape[0]}], one number an example of x {x.shape}"
        )
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def expand_time(t, x) -> jax.Array:
    """`t`, a scalar or [batch], with trailing axes so that it broadcasts against `x`: [batch, *event]."""
    return along_batch(t, x, "t")
