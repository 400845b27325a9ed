"""The result of a metric with its standard error, and checks of features and points."""

from typing import NamedTuple

import jax.core
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, check_real, with_dtype

SMALLEST, LARGEST = 1e-40, 1e40  # their sixth powers, in the kernel distance, are finite in float64


class Distance(NamedTuple):
    """An estimate from samples with its standard error.

    The function that returns it says what the error covers.

    Attributes:
        value: the estimate.
        standard_error: its standard error.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 3))
        >>> distance = jd.metrics.frechet_distance(x, y)
        >>> distance.value > 0, distance.standard_error > 0
        (True, True)
    """

    value: float
    standard_error: float


def features(name: str, given, least: int, reason: str = "") -> np.ndarray:
    """`given` as features [n, d] on the host, in float32 or float64.

    Raises:
        TypeError: for values that are not floating, or traced.
        ValueError: for another shape, values that are not finite or too large or small for their powers, or fewer than
            `least` examples, with `reason` in its message.
    """
    _check_known(name, given)
    array = as_array(given)
    if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{with_dtype(name, given)}; expected floating features, not the images themselves")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected features [n, d]; flatten or embed images first")
    if len(array) < least:
        raise ValueError(f"{name} holds {len(array)} examples; expected at least {least}{reason}")
    return _finite(name, np.asarray(array, np.float64 if array.dtype.itemsize >= 8 else np.float32))


def points(name: str, given) -> np.ndarray:
    """`given` [n, *event] as points [n, d] on the host, in float64.

    Raises:
        TypeError: for values that are not real numbers, or traced.
        ValueError: for an empty array, or values that are not finite or too large or small for their powers.
    """
    _check_known(name, given)
    array = check_real(name, given)
    if array.ndim < 1 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected points [n, *event]")
    return _finite(name, np.asarray(array, np.float64).reshape(len(array), -1))


def check_same_features(**sets: np.ndarray) -> None:
    """Raise ValueError if two sets differ in their number of features."""
    (one, x), (other, y) = sets.items()
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{one} has shape {x.shape} and {other} {y.shape}; expected [n, d] and [m, d], the same d")


def _check_known(name: str, given) -> None:
    if isinstance(given, jax.core.Tracer):
        raise TypeError(f"{name} is traced; metrics are computed on the host: call them outside of jit, vmap and grad")


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a NaN or an infinity; remove the samples that failed")
    size = float(np.abs(array).max())
    if size and not SMALLEST <= size <= LARGEST:
        raise ValueError(
            f"{name} holds values of up to {size:.3g}; expected {SMALLEST:g} to {LARGEST:g}: scale both sets alike"
        )
    return array
