"""Checks of users' arguments, one for each kind of value; a message has the value, what was expected, and the fix.

A concrete value is checked. Under a transformation (`jit`, `vmap`, `grad`) only its type and shape are checked, and a
number outside its range becomes NaN: a check returns the number to use from there on.
"""

import dataclasses
import inspect
import math
import operator
import types
from typing import Any, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays.shown import in_one_line


def is_concrete(x) -> bool:
    """Whether the values of `x` can be read now.

    They cannot while `x` is traced (`jit`, `vmap`, `grad`), or if other processes hold a part of them.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.processes.is_concrete(jnp.ones(3))
        True
        >>> seen = []
        >>> _ = jax.jit(lambda x: seen.append(jd.processes.is_concrete(x)))(jnp.ones(3))
        >>> seen
        [False]
    """
    if isinstance(x, jax.core.Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def said(value) -> str:
    """`value` as a message shows it: an array by its type and shape, all else in at most 120 characters."""
    if isinstance(value, np.ndarray | jax.Array) and value.size != 1:
        return f"array of {value.dtype} {value.shape}"
    text = in_one_line(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _kind(value) -> str | None:
    """ "float", "int" or None: the kind of number or array of numbers that `value` is; None for a bool."""
    if isinstance(value, bool | complex) or not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return None
    dtype = np.dtype(type(value)) if isinstance(value, int | float) else value.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        return "float"
    return "int" if jnp.issubdtype(dtype, jnp.integer) else None


def _bounds(above, least, below, most, noun: str) -> str:
    """The words for a range: "a number above 0", "a number in [0, 1)", "a whole number of 1 or more"."""
    low, high = (above if least is None else least), (below if most is None else most)
    if low is not None and high is not None and not math.isinf(high):
        return f"{noun} in {'(' if least is None else '['}{low}, {high}{')' if most is None else ']'}"
    if low is not None:
        return f"{noun} above {low}" if least is None else f"{noun} of {low} or more"
    if high is not None and not math.isinf(high):
        return f"{noun} below {high}" if most is None else f"{noun} of {high} or less"
    return noun


def _inside(values, above, least, below, most):
    """Whether each of `values` is within the bounds and finite; infinity is allowed only by most=inf."""
    inside = values == values if most == math.inf else abs(values) < math.inf  # false for NaN
    for compare, bound in ((operator.gt, above), (operator.ge, least), (operator.lt, below), (operator.le, most)):
        if bound is not None and bound != math.inf:
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
    noun: str = "a number",
    fix: str = "",
) -> Any:
    """`value` itself, a real number or an array of them, if each is finite and within the bounds.

    `above` and `below` are open bounds, `least` and `most` closed ones; `most=math.inf` allows infinity. A Python
    number is compared as the float it is computed with. `noun` describes the value in the message, `fix` ends it.
    Raises TypeError unless it is a number, ValueError outside the bounds; a traced number there becomes NaN.
    """
    expected = _bounds(above, least, below, most, noun)
    if _kind(value) is None:
        raise TypeError(f"{name} = {said(value)}; expected {expected}{fix}")
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        raise TypeError(f"{name} has dtype {value.dtype.str}, of the other byte order; expected the native byte order")
    if np.size(value) == 0:
        raise ValueError(f"{name} has shape {np.shape(value)}; expected {expected}, and it holds none")
    if is_concrete(value):
        values = _as_computed(value) if isinstance(value, int | float) else np.asarray(value)
        inside = np.asarray(_inside(values, above, least, below, most))
        if not inside.all():
            wrong = values[~inside].flat[0] if values.ndim else value
            raise ValueError(f"{name} = {wrong}; expected {expected}{fix}")
        return value
    return nan_unless(_inside(value, above, least, below, most), value)


def check_field(owner, name: str, **bounds) -> None:
    """`check_number` of the field `name` of `owner`, a frozen dataclass in `__post_init__`, which stores the result."""
    object.__setattr__(owner, name, check_number(name, getattr(owner, name), **bounds))


def _as_computed(number: float) -> np.ndarray:
    """A Python number in JAX's floating precision: 1e300 is infinite in float32, 1e-300 is 0."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(float(number)).astype(jnp.result_type(float))
    except OverflowError:
        return np.asarray(math.inf if number > 0 else -math.inf)


def check_above(high, low, message: str, or_equal: bool = False) -> Any:
    """`high` if it is above `low` (or equal): ValueError with `message` for concrete numbers, NaN for traced ones."""
    compare = operator.ge if or_equal else operator.gt
    if not (is_concrete(high) and is_concrete(low)):
        return nan_unless(compare(high, low), high)
    values = np.asarray(high), np.asarray(low)
    if not np.all(compare(*values)):
        raise ValueError(message.format(high=values[0], low=values[1]))
    return high


def check_field_above(owner, name: str, other: str, message: str, or_equal: bool = False) -> None:
    """`check_above` of the field `name` of `owner` and the field `other`; stores the result as `check_field` does."""
    high = check_above(getattr(owner, name), getattr(owner, other), message, or_equal)
    object.__setattr__(owner, name, high)


def check_scalar(name: str, value, *, fix: str = "", **bounds) -> Any:
    """`check_number` for a single number: ValueError for an array of several."""
    value = check_number(name, value, fix=fix, **bounds)
    if np.ndim(value):
        raise ValueError(
            f"{name} has shape {np.shape(value)}; expected one number for all examples{fix}. For one per example use "
            "jax.vmap over keys, examples and numbers"
        )
    return value


def check_tolerances(rtol, atol) -> tuple[Any, Any]:
    """(rtol, atol) of an adaptive solver; ValueError unless both are 0 or more and one is above 0."""
    rtol, atol = check_scalar("rtol", rtol, least=0), check_scalar("atol", atol, least=0)
    if not (is_concrete(rtol) and is_concrete(atol)):
        return nan_unless(rtol + atol > 0, rtol), atol
    if not _as_computed(float(rtol)) + _as_computed(float(atol)) > 0:
        raise ValueError(f"rtol = {rtol} and atol = {atol}; expected one of them above 0, such as 1e-5")
    return rtol, atol


def check_shared(name: str, tree) -> None:
    """Raise if a field annotated `float`, in the dataclass `tree` or in one inside it, holds an array.

    A process and a sampler are shared by a whole batch, and a denoiser by several batches of a set.
    """
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            value, inner = getattr(tree, field.name), f"{name}.{field.name}"
            kinds = get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
            if {float, "float"} & {*kinds} and np.ndim(value):
                check_scalar(inner, value)
            check_shared(inner, value)


_COUNTS = {1: "one", 2: "two"}


def check_real(name: str, value) -> np.ndarray | jax.Array:
    """`value`, such as a list, as an array of real numbers of any size; TypeError for anything else."""
    array = as_array(value)
    if array is None or _kind(array) is None:
        raise TypeError(f"{with_dtype(name, value)}; expected real numbers")
    return array


def check_array(name: str, value, **bounds) -> np.ndarray | jax.Array:
    """`value`, such as a list, as an array of numbers that `check_number` accepts."""
    return check_number(name, check_real(name, value), **bounds)


def check_whole(
    name: str, value, *, least: int | None = 1, most: int | None = None, noun: str = "", fix: str = ""
) -> int:
    """`value` as an int within closed bounds; `noun` names what is counted.

    Raises TypeError unless it is a whole number, ValueError outside the bounds.
    """
    if least is not None and most is None:
        expected = f"at least {_COUNTS.get(least, least)}{noun and ' '}{noun}"
    else:
        expected = _bounds(None, least, None, most, noun or "a whole number")
    whole_number = expected if expected == "a whole number" else f"a whole number, {expected}"
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} is traced; expected {whole_number}, known before tracing: make it a static argument")
    try:
        if isinstance(value, bool):
            raise TypeError
        whole = operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} = {said(value)}; expected {whole_number}, not a value of type {kind}{fix}") from None
    if (least is not None and whole < least) or (most is not None and whole > most):
        raise ValueError(f"{name} = {whole}; expected {expected}{fix}")
    return whole


def check_flag(name: str, value) -> bool:
    """`value` as a bool; TypeError for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} = {said(value)}; expected True or False")
    return bool(value)


def check_choice(name: str, value, choices) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        known = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} = {said(value)}; expected {known}")


def check_instance(name: str, value, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise TypeError unless `value` is an instance of `kind`, which the message calls `expected`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} = {said(value)}; expected {expected}")


def check_function(name: str, value, expected: str, takes: int | None = None, fix: str = "") -> None:
    """Raise TypeError if `value` cannot be called with `takes` arguments, or is a class in place of an instance."""
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{name} = {said(value)}; expected {expected}")
    if takes is None:
        return
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # functions written in C have no signature
        return
    try:
        signature.bind(*range(takes))
    except TypeError:
        given = ", ".join(signature.parameters)
        raise TypeError(f"{name} takes ({given}); expected {expected}{fix}") from None


def check_shape(name: str, shape, expected: str, least_axes: int = 1) -> tuple[int, ...]:
    """`shape` as a tuple of ints; TypeError unless it is one, ValueError for too few axes or a size below 1."""
    try:
        if isinstance(shape, str | bytes) or np.ndim(shape) != 1:
            raise TypeError
        sizes = tuple(check_whole(name, size, least=None) for size in shape)
    except (TypeError, ValueError):
        raise TypeError(f"{name} = {said(shape)}; expected {expected}, whole numbers") from None
    if len(sizes) < least_axes or min(sizes, default=0) < 1:
        raise ValueError(f"{name} = {sizes}; expected {expected}, each 1 or more")
    return sizes


def check_labels(cond, classes: int, none: bool = False, name: str = "cond") -> jax.Array:
    """`cond` as integer labels 0 to `classes` - 1; with `none`, also the label `classes`, which means no label.

    Raises TypeError unless they are integers, ValueError for a concrete label out of range.
    """
    if isinstance(cond, tuple | dict):  # a tree of conditions, each for all examples
        raise TypeError(f"{name} = {said(cond)}; expected integer labels in one array")
    labels = native(cond)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {labels.dtype}; expected integer labels")
    if is_concrete(labels):
        values = np.asarray(labels)
        outside = (values < 0) | (values >= classes + none)
        if outside.any():
            no_label = f", or {classes} (or cond=None) for no label" if none else ""
            raise ValueError(f"label {values[outside].flat[0]} is out of range; expected 0 to {classes - 1}{no_label}")
    return jnp.asarray(labels)


def native(x):
    """`x` as a NumPy or JAX array in native byte order."""
    if isinstance(x, jax.Array):
        return x
    x = np.asarray(x)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def floating(t) -> jax.Array:
    """`t` as a floating array."""
    t = jnp.asarray(native(t))
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(float)


def check_time(t, name: str = "t") -> jax.Array:
    """Check that `t` holds times in [0, 1].

    Args:
        t: a number or an array of any shape; 0 is the data and 1 the noise.
        name: what the message calls it.

    Returns:
        `t` as a floating array.

    Raises:
        TypeError: if `t` is not a real number or an array of them.
        ValueError: if a concrete `t` is outside [0, 1]; a traced one gives NaN.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.processes.check_time([0.0, 0.5]).shape
        (2,)
        >>> jd.processes.check_time(250)
        Traceback (most recent call last):
        ValueError: t = 250 is outside [0, 1]: t is 0 at the data and 1 at the noise; divide the step of a table of T
        steps by T, or turn levels σ/α above 0 into times by process.time_at_log_snr(-2 * jnp.log(levels))
    """
    times = t if isinstance(t, jax.Array) else as_array(t)
    if _kind(times) is None:
        raise TypeError(f"{name} = {said(t)}; expected a number in [0, 1], or an array of them")
    if is_concrete(times):
        values = np.asarray(times)
        outside = ~((values >= 0) & (values <= 1))
        if outside.any():
            raise ValueError(
                f"{name} = {values[outside].flat[0]} is outside [0, 1]: t is 0 at the data and 1 at the noise; "
                "divide the step of a table of T steps by T, or turn levels σ/α above 0 into times by "
                "process.time_at_log_snr(-2 * jnp.log(levels))"
            )
        return floating(times)
    times = floating(times)
    return nan_unless((times >= 0) & (times <= 1), times)


def nan_unless(holds, value) -> jax.Array:
    """`value`, bitwise, where `holds`, and NaN elsewhere: the check of a traced value."""
    one = jnp.where(holds, 1.0, 0.0)  # weakly typed, so that the result has the type of `value`
    return value * (one / one)  # computes no NaN if all hold, which jax_debug_nans would report


def as_array(x) -> np.ndarray | jax.Array | None:
    """`native(x)`, or None if `x` cannot be made an array."""
    try:
        return native(x)
    except Exception:  # rows of different lengths, a tensor on another device
        return None


def with_dtype(name: str, x) -> str:
    """The start of a message about `x`, whose dtype is wrong."""
    array = as_array(x)
    return f"{name} = {said(x)}" if array is None or array.dtype == object else f"{name} has dtype {array.dtype}"


def check_batch(x, name: str = "x") -> jax.Array:
    """`x` as a batch of floating events; TypeError for other values, ValueError for another shape or an empty array."""
    array = as_array(x)
    if array is None or _kind(array) != "float":
        raise TypeError(
            f"{with_dtype(name, x)}; expected floating values. Convert integer images with jaxdiff.dequantize (to "
            "[-1, 1]) first"
        )
    if array.ndim < 2:
        raise ValueError(f"{name} has shape {array.shape}; expected a batch axis and an event: [batch, *event]")
    if 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}: it is empty; expected at least one example of one value")
    return jnp.asarray(array)


def check_event(x, name: str = "x") -> jax.Array:
    """Check that `x` is a batch of finite floating-point events.

    Args:
        x: an array `[batch, *event]` with at least one event axis.
        name: what the message calls it.

    Returns:
        `x` as a JAX array.

    Raises:
        TypeError: if `x` is not an array of floating values.
        ValueError: if it has another shape or is empty, or if a concrete `x` holds a NaN or an infinity.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.processes.check_event(jnp.zeros((4, 2))).shape
        (4, 2)
        >>> jd.processes.check_event(jnp.array([[0.0], [jnp.nan]]))
        Traceback (most recent call last):
        ValueError: x[1] holds a NaN or an infinity; remove or repair that example
    """
    x = check_batch(x, name)
    if is_concrete(x):
        bad = ~np.isfinite(np.asarray(x)).all(axis=tuple(range(1, x.ndim)))
        if bad.any():
            raise ValueError(f"{name}[{int(bad.argmax())}] holds a NaN or an infinity; remove or repair that example")
    return x


def check_output(name: str, value, x, shape: tuple[int, ...] | None = None, note: str = "") -> None:
    """Raise unless `value`, which a user's function returned for `x`, is floating and of `shape` (default: of x)."""
    expected = f"{'the same shape' if shape in (None, x.shape) else shape}{note}"
    if not hasattr(value, "shape"):
        raise TypeError(f"{name} returned {said(value)} for x of shape {x.shape}; expected an array of {expected}")
    if value.shape != (x.shape if shape is None else shape):
        raise ValueError(f"{name} returned shape {value.shape} for x of shape {x.shape}; expected {expected}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} returned {value.dtype} for x of {x.dtype}; expected floating values")


def along_batch(value, x, name: str) -> jax.Array:
    """`value`, one number or one per example of `x` [batch, *event], with trailing axes so that it broadcasts with x.

    Raises ValueError for another shape, which would broadcast along the event if the sizes happened to agree.
    """
    value = jnp.asarray(value)
    if value.shape not in ((), (1,), x.shape[:1]):
        raise ValueError(
            f"{name} has shape {value.shape}; expected a scalar, or one number per example of x {x.shape}. Adaptive "
            "solvers, likelihoods and ReverseSDE run examples one by one and take one number for all: for one per "
            "example use jax.vmap over keys, examples and numbers"
        )
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def expand_time(t, x) -> jax.Array:
    """Add trailing axes to `t` so that it broadcasts against the examples of `x`.

    Args:
        t: a scalar, or one number per example, `[batch]`.
        x: an array `[batch, *event]`.

    Returns:
        `t` as it is if it is a scalar, otherwise of shape `[batch, 1, ..., 1]`.

    Raises:
        ValueError: if `t` has another shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.processes.expand_time(jnp.zeros(4), jnp.zeros((4, 8, 8, 3))).shape
        (4, 1, 1, 1)
    """
    return along_batch(t, x, "t")


def count(x) -> int:
    """The number n of examples in `x`, an array [n, *event] or a tree of them."""
    return jax.tree.leaves(x)[0].shape[0]
