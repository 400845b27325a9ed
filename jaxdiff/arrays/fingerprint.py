"""A hash of the definition of a run: numbers, arrays, settings, functions, and trees of them.

It is the same in every process and on every machine with the same version of Python. A function is hashed by its name,
its code, its defaults, the values that it closes over (except lists that it appends to, which are records), and the
numbers, arrays and functions among the globals that it reads; not by its address in memory. A class is hashed by its
name and its methods. The code of installed packages is not hashed: their versions identify it.
"""

import dataclasses
import dis
import functools
import hashlib
import re
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays.shown import in_full

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, tuple, np.ndarray, np.generic, jax.Array)
_FUNCTIONS = (types.FunctionType, functools.partial, type)


def fingerprint(*parts) -> str:
    """The first 16 digits of `sha256`."""
    return sha256(*parts)[:16]


@in_full()
def sha256(*parts) -> str:
    """The SHA-256 of `parts` in hexadecimal. Arrays must be fully addressable by this process."""
    digest = hashlib.sha256()
    seen: dict[int, int] = {}
    for part in parts:
        _feed(digest, part, seen)
    return digest.hexdigest()


def digest(pieces: Iterable[bytes | Path]) -> str:
    """The SHA-256, in hexadecimal, of bytes and the contents of files, one after another."""
    found = hashlib.sha256()
    for piece in pieces:
        if isinstance(piece, Path):
            with open(piece, "rb") as file:
                hashlib.file_digest(file, lambda: found)
        else:
            found.update(piece)
    return found.hexdigest()


def _feed(digest, value, seen: dict[int, int]) -> None:
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
    if id(value) in seen:  # a value that contains itself, or a function used twice
        return say("again", seen[id(value)])
    seen[id(value)] = len(seen)
    say(*_name(type(value)))
    for part in _parts(value):
        _feed(digest, part, seen)
    if not isinstance(value, types.FunctionType | type):
        del seen[id(value)]


def _parts(value) -> list:
    """The parts of `value` that are hashed."""
    if isinstance(value, Mapping):
        return [item for key in sorted(value, key=str) for item in (str(key), value[key])]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, tuple | list):
        return list(value)
    if isinstance(value, type):
        own = [kind for kind in value.__mro__ if not _is_installed(kind)]
        methods = [(name, part) for kind in own for name, part in vars(kind).items() if _is_method(part)]
        return [*_name(value), *sorted(methods, key=lambda method: method[0])]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        closure = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        if "append" in value.__code__.co_names:
            closure = [part for part in closure if not isinstance(part, list)]
        code = [] if _is_installed(value) else [value.__code__, _globals_read(value)]
        return [*_name(value), value.__defaults__, value.__kwdefaults__, closure, *code]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if isinstance(value, property):
        return [value.fget]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if dataclasses.is_dataclass(value):
        fields = [item for field in dataclasses.fields(value) for item in (field.name, getattr(value, field.name))]
        return [type(value), *fields]
    if hasattr(value, "__wrapped__"):  # by jit, vmap and the like
        return [value.__wrapped__]
    leaves, structure = jax.tree.flatten(value)
    if leaves != [value]:
        return [_without_addresses(str(structure)), *leaves]
    if isinstance(value, Path):
        return [str(value)]
    if type(value).__repr__ is object.__repr__:  # which has no more than the class and an address
        return [type(value), getattr(value, "__dict__", {})]
    return [_without_addresses(repr(value))]


def _name(value) -> list[str]:
    """The name of a function or class, with its module if it is installed; in a script the module is __main__."""
    return [value.__module__, value.__qualname__] if _is_installed(value) else [value.__qualname__]


def _is_installed(value) -> bool:
    return _is_package(str(value.__module__).partition(".")[0])


@functools.cache
def _is_package(name: str) -> bool:
    """Whether the module `name` belongs to Python, to an installed package or to this one."""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    here = name in ("jaxdiff", "builtins") or name in sys.stdlib_module_names
    return name != "__main__" and (here or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts))


def _is_method(value) -> bool:
    return isinstance(value, types.FunctionType | property | staticmethod | classmethod)


def _globals_read(function: types.FunctionType) -> dict:
    """The constants and functions among the globals that `function` and functions defined inside it read."""

    def names(code: types.CodeType) -> set[str]:
        own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        return own.union(*(names(part) for part in code.co_consts if isinstance(part, types.CodeType)))

    found = {name: function.__globals__.get(name) for name in names(function.__code__)}
    return {name: value for name, value in found.items() if isinstance(value, _CONSTANTS + _FUNCTIONS)}


def _filled(cell) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)
