"""Functions that CPUs compute by one program and other devices by another, chosen when a program is lowered.

`jax.lax.platform_dependent` makes the same choice, but it puts both programs into what is traced, where every
transformation has to transform both. Here the choice is one primitive, and a transformation of it is the primitive of
transformed functions, each of which is traced once, for the platform that it is lowered for:

    product forward of f, in some of its arguments    the primitive of jvp(f), linear in the tangents
    transpose of that                                 the primitive of vjp(f), linear in the cotangents
    f with a mapped axis                              the primitive of vmap(f)

A derivative receives the arguments of f and computes again what else it needs of f. XLA finds what one program computes
twice, and computes it once, unless a `jax.checkpoint` in f forbids it.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdiff.arrays import chosen_precision


def platform_dependent(*arrays: jax.Array, cpu: Callable, default: Callable) -> jax.Array:
    """`cpu(*arrays)` in a program for CPUs and `default(*arrays)` in one for another platform.

    Both are hashable functions of arrays that return one array, of the same shape and dtype. Functions that compare
    equal are traced once; a `functools.partial` made for each call would not be.
    """
    (result,) = platform_dependent_p.bind(*arrays, cpu=_One(cpu), default=_One(default), precision=chosen_precision())
    return result


@dataclasses.dataclass(frozen=True)
class _One:
    """A function of one result as one of a list of results, as all functions below are."""

    function: Callable

    def __call__(self, *arrays):
        return [self.function(*arrays)]


@dataclasses.dataclass(frozen=True)
class _Forward:
    """(*arrays, *tangents of those that are `moved`) -> the tangents of the results."""

    function: Callable
    moved: tuple[bool, ...]

    def __call__(self, *arrays):
        arrays, tangents = arrays[: len(self.moved)], arrays[len(self.moved) :]
        return jax.jvp(*_of_the_moved(self.function, self.moved, arrays), tangents)[1]


@dataclasses.dataclass(frozen=True)
class _Backward:
    """(*arrays, *cotangents of the results) -> the cotangents of the arrays that are `moved`."""

    function: Callable
    moved: tuple[bool, ...]

    def __call__(self, *arrays):
        arrays, cotangents = arrays[: len(self.moved)], arrays[len(self.moved) :]
        function, moving = _of_the_moved(self.function, self.moved, arrays)
        return [*jax.vjp(function, *moving)[1]([*cotangents])]


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """The function with a mapped axis of each array, or None."""

    function: Callable
    axes: tuple[int | None, ...]

    def __call__(self, *arrays):
        return jax.vmap(self.function, self.axes)(*arrays)


def _of_the_moved(function, moved, arrays) -> tuple[Callable, tuple]:
    """The function of the arrays that are `moved`, and these arrays."""

    def of_the_moved(*moving):
        moving = iter(moving)
        return function(*(next(moving) if moves else array for moves, array in zip(moved, arrays)))

    return of_the_moved, tuple(array for moves, array in zip(moved, arrays) if moves)


platform_dependent_p = Primitive("platform_dependent")
platform_dependent_p.multiple_results = True


def _bind(arrays, wrap, cpu, default, precision):
    return platform_dependent_p.bind(*arrays, cpu=wrap(cpu), default=wrap(default), precision=precision)


@functools.cache
def _compiled(**how):
    return jax.jit(functools.partial(platform_dependent_p.bind, **how))


@functools.cache
def _types(function, *types):
    return [jax.typeof(result) for result in jax.eval_shape(function, *types)]


def _jvp(arrays, tangents, **how):
    moved = tuple(type(tangent) is not ad.Zero for tangent in tangents)
    moving = (tangent for tangent, moves in zip(tangents, moved) if moves)
    changes = _bind((*arrays, *moving), functools.partial(_Forward, moved=moved), **how)
    return platform_dependent_p.bind(*arrays, **how), changes


def _transpose(cotangents, *arrays, cpu, default, precision):
    asked = tuple(map(ad.is_undefined_primal, arrays))
    cotangents = [*map(ad.instantiate_zeros, cotangents)]
    if isinstance(cpu, _Forward) and asked == (False,) * len(cpu.moved) + (True,) * sum(cpu.moved):
        inputs, moved, cpu, default = arrays[: len(cpu.moved)], cpu.moved, cpu.function, default.function
    else:  # the derivative of a linear function is the same everywhere: at 0, too
        inputs = [jnp.zeros(array.aval.shape, array.aval.dtype) if ask else array for ask, array in zip(asked, arrays)]
        moved = asked
    found = iter(_bind((*inputs, *cotangents), functools.partial(_Backward, moved=moved), cpu, default, precision))
    return [next(found) if ask else None for ask in asked]


def _batch(arrays, axes, **how):
    results = _bind(arrays, functools.partial(_Mapped, axes=tuple(axes)), **how)
    return results, [0] * len(results)


def _lowering(platform: str):
    def lower(context, *arrays, precision, **functions):
        with jax.default_matmul_precision(precision):
            return mlir.lower_fun(functions[platform], multiple_results=True)(context, *arrays)

    return lower


platform_dependent_p.def_impl(lambda *arrays, **how: _compiled(**how)(*arrays))
platform_dependent_p.def_abstract_eval(lambda *types, default, **_: _types(default, *types))
ad.primitive_jvps[platform_dependent_p] = _jvp
ad.primitive_transposes[platform_dependent_p] = _transpose
batching.primitive_batchers[platform_dependent_p] = _batch
mlir.register_lowering(platform_dependent_p, _lowering("default"))
mlir.register_lowering(platform_dependent_p, _lowering("cpu"), "cpu")
