"""Reads the annotation of a field: which values it takes."""

import collections.abc
import types
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from jaxdiff.words.grammar import NOTHING, Refused

TUPLES = (tuple, list, collections.abc.Sequence)


def members(kind: Any) -> list:
    """The alternatives of a union; a list of one for anything else."""
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        return [one for part in get_args(kind) for one in members(part)]
    return [kind]


def bare(kind: Any) -> Any:
    """A class without its type parameters."""
    origin = get_origin(kind)
    return origin if isinstance(origin, type) else kind


def as_constant(value: Any, kind: Any) -> Any:
    """A constant converted for one alternative of an annotation; `NOTHING` if it does not fit."""
    if get_origin(kind) is Literal:
        return value if any(type(value) is type(one) and value == one for one in get_args(kind)) else NOTHING
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise Refused("the number is too large") from None
    return value if type(value) is kind else NOTHING


def parts_of(kind: Any, n: int) -> list | None:
    """The annotations of the n elements of a tuple; None if the annotation is not a tuple of that length."""
    if kind is np.ndarray:
        return [float] * n
    arguments = get_args(kind)
    if get_origin(kind) not in TUPLES:
        return None
    if get_origin(kind) is not tuple or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return [arguments[0]] * n
    return list(arguments) if len(arguments) == n else None
