"""The repr of dataclasses: nested and wrapped to the width of a screen, with arrays by their type and shape.

    Denoiser(
      network=Network(MLP),
      params={'out': {'bias': f32[2], 'kernel': f32[128,2]}},
      process=VP(beta_min=0.1, beta_max=20.0),
      parameterization='v',
      data_std=0.5,
      learned_variance=False
    )

Only the values of scalars are read. Fields that are None by default are left out while they are None. Addresses are
removed, so that equal values have the same repr in every process.
"""

import contextlib
import contextvars
import dataclasses
import inspect
import re
import reprlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.core
import numpy as np
import wadler_lindig

T = TypeVar("T")

WIDTH = 80
MOST = 24  # a dict with more arrays is shown by their number
_GENERATED = {"<string>", dataclasses.__file__, reprlib.__file__, __file__}  # the files of generated methods
_width = contextvars.ContextVar[int | None]("width", default=WIDTH)  # None: the repr that dataclasses generate


def readable(cls: type[T]) -> type[T]:
    """Give the dataclass `cls` a repr that fits a screen, unless its body defines a repr.

    A class with a method `__pdoc__(**kwargs)` of wadler_lindig is shown by that method.
    """
    generated = cls.__repr__
    if not _is_generated(generated):
        return cls

    def __repr__(self) -> str:
        width = _width.get()
        return generated(self) if width is None else _shown(self, width)

    cls.__repr__ = __repr__
    return cls


def _is_generated(function) -> bool:
    """Whether a repr was made by `dataclasses.dataclass` or `readable`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and code.co_filename in _GENERATED


@contextlib.contextmanager
def in_full() -> Iterator[None]:
    """A context in which reprs are those that dataclasses generate, with the values of arrays: for hashes and logs."""
    before = _width.set(None)
    try:
        yield
    finally:
        _width.reset(before)


def in_one_line(value) -> str:
    """The repr of `value` in one line, for a message."""
    before = _width.set(sys.maxsize)
    try:
        return " ".join(repr(value).split())
    finally:
        _width.reset(before)


def _shown(value, width: int) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", wadler_lindig.pformat(_doc(value), width=width))


def _doc(value) -> wadler_lindig.AbstractDoc:
    return wadler_lindig.pdoc(value, custom=_custom, show_type_module=False)


def _custom(value) -> wadler_lindig.AbstractDoc | None:
    """The layout of a value, where it differs from that of wadler_lindig; otherwise None."""
    if isinstance(value, jax.Array | np.ndarray):
        if value.ndim == 0 and _is_number(value):
            return _text(str(np.asarray(value)))
        return wadler_lindig.array_summary(value.shape, str(value.dtype), None)
    if type(value) is dict:
        sizes = [array.size for array in _arrays(value)]
        if len(sizes) > MOST:
            return _text(f"<{len(sizes)} arrays, {sum(sizes):,} values>")
        return _bracketed("{", [(f"{_key(key)}: ", part) for key, part in value.items()], "}")
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(type(value), "__pdoc__"):
        if not _is_generated(type(value).__repr__):
            return _text(repr(value))
        fields = [(f, getattr(value, f.name, None)) for f in dataclasses.fields(value) if f.repr]
        named = [(f"{f.name}=", part) for f, part in fields if not (part is None and f.default is None)]
        return _bracketed(f"{type(value).__qualname__}(", named, ")")
    return None


_text = wadler_lindig.TextDoc


def _key(key) -> str:
    return repr(key) if isinstance(key, str | int) else _shown(key, sys.maxsize)


def _bracketed(begin: str, parts: Iterable[tuple[str, Any]], end: str) -> wadler_lindig.AbstractDoc:
    docs = [_text(name) + _doc(part) for name, part in parts]
    return wadler_lindig.bracketed(_text(begin), docs, wadler_lindig.comma, _text(end), indent=2)


def _arrays(value) -> Iterator[jax.Array | np.ndarray]:
    """The arrays in nested dicts, lists and tuples."""
    if isinstance(value, jax.Array | np.ndarray):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _arrays(part)


def _is_number(array) -> bool:
    """Whether a scalar is a number that can be read now: not traced, not donated, not a key."""
    if isinstance(array, np.ndarray):
        return True
    if isinstance(array, jax.core.Tracer) or jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        return False
    return not array.is_deleted() and (array.is_fully_addressable or array.is_fully_replicated)
