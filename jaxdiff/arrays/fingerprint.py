"""One hash of anything a run is made of: numbers, arrays, settings, functions, and trees of them.

It is the same in every process and on every machine with the same version of Python. A function counts by its name, its
code, its defaults and the values that it closes over, not by where it lies in memory; what it reads from its module is
not looked at.
"""

import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np


def fingerprint(*parts) -> str:
    """A hexadecimal SHA-256 of `parts`, its first 16 digits. Arrays must be whole on this process."""
    digest = hashlib.sha256()
    seen: set[int] = set()
    for part in parts:
        _feed(digest, part, seen)
    return digest.hexdigest()[:16]


def _feed(digest, value, seen: set[int]) -> None:
    say = lambda *words: digest.update("\0".join(map(str, words)).encode() + b"\n")
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return say(type(value).__name__, repr(value))
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        say("key", jax.random.key_impl(value))
        value = jax.random.key_data(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        say("array", array.dtype, array.shape)
        return digest.update(np.ascontiguousarray(array).tobytes())
    if id(value) in seen:  # a function that refers to itself
        return say("again", type(value).__qualname__)
    seen.add(id(value))
    say(type(value).__module__, type(value).__qualname__)
    for part in _parts(value):
        _feed(digest, part, seen)
    seen.discard(id(value))


def _parts(value) -> list:
    """What `value` is made of."""
    if isinstance(value, Mapping):
        return [item for key in sorted(value, key=str) for item in (str(key), value[key])]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, tuple | list):
        return list(value)
    if isinstance(value, type):
        return [value.__module__, value.__qualname__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        closure = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        return [value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, closure]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if dataclasses.is_dataclass(value):
        return [item for field in dataclasses.fields(value) for item in (field.name, getattr(value, field.name))]
    if hasattr(value, "__wrapped__"):  # jit, vmap and the like
        return [value.__wrapped__]
    leaves, structure = jax.tree.flatten(value)
    if leaves != [value]:
        return [_without_addresses(str(structure)), *leaves]
    if isinstance(value, Path):
        return [str(value)]
    return [_without_addresses(repr(value))]


def _filled(cell) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)
