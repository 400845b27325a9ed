"""Which arrays an optimiser treats alike, found by tracing it.

Adam applies one formula to every number of every array; only global norms mix them. On one vector that holds all arrays
it computes what it computes on the arrays. Adam with a masked decay does so on two vectors. LARS, which takes a norm of
each array, and Adafactor, which takes means over axes, do so on none. The types of optimisers do not tell them apart.
So `update` is traced, and every result is named by how it is computed: by which operations on the numbers at its own
index, and with which sums over all numbers of which arrays. Arrays whose results have the same names form a group. Then
`update` is traced again on the vectors of the groups; if a name differs, every array stays separate. A mask, a
threshold on a shape or a function of the path therefore either forms groups of its own or changes nothing.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxdiff.training.flat import Form, flat, form_of_params, form_of_state, owners_of

_EACH = {  # elementwise primitives
    *("add", "sub", "mul", "div", "rem", "neg", "sign", "abs", "max", "min", "clamp", "pow", "integer_pow", "square"),
    *("sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "erf"),
    *("floor", "ceil", "round", "select_n", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor"),
    *("is_finite", "copy", "convert_element_type", "reduce_precision"),
}
_CALLS = {"jit", "pjit", "custom_jvp_call"}  # primitives that call a program
_SHAPES = {"shape", "broadcast_dimensions", "dimensions", "axes", "sharding", "out_sharding"}
_Value = tuple[int, frozenset | int | None]


def updated(optimizer, grads, opt_state, params) -> tuple:
    """(updates, state) of an optimiser, under standard type promotion: optax mixes types in one formula."""
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(grads, opt_state, params)


def alike(optimizer, params) -> tuple[int, ...]:
    """The group of each array of `params` (abstract), as a number.

    On one vector per group `optimizer` computes what it computes on the arrays, up to the order of sums.
    """
    leaves, structure = jax.tree.flatten(params)
    given = optimizer, structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    try:
        return _alike(*given)
    except TypeError:  # an optimiser without a hash cannot be cached
        return _alike.__wrapped__(*given)


@functools.lru_cache(maxsize=8)  # a run calls this for its state and again for its step
def _alike(optimizer, structure, leaves: tuple) -> tuple[int, ...]:
    params = structure.unflatten(leaves)
    alone = tuple(range(len(leaves)))
    names = _Names()
    known = names.of_results(optimizer, params, alone)
    first: dict = {}
    groups = tuple(first.setdefault((leaf.dtype, each), i) for i, (leaf, each) in enumerate(zip(leaves, known)))
    try:
        with np.errstate(all="ignore"):
            return groups if names.of_results(optimizer, params, groups) == known else alone
    except Exception:  # an optimiser may raise anything when it meets the vectors' shapes
        return alone


class _Names:
    """Names, as whole numbers, of how values are computed.

    A value is a pair (name, arrays). `arrays` are the parameters for whose every number it holds a number; None for a
    single number, which may be broadcast to any shape.
    """

    def __init__(self):
        self._names: dict[Any, int] = {}
        self._sums: dict[int, frozenset] = {}

    def of_results(self, optimizer, params, groups: tuple[int, ...]) -> list[frozenset]:
        """For each parameter, the names of the results that belong to it and of those that belong to none."""
        state = jax.eval_shape(optimizer.init, params)
        each = lambda name: [(name, i) for i in range(len(groups))]
        kept = owners_of(state, params)
        form, state_form = form_of_params(params, groups), form_of_state(state, params, groups)
        forms, trees = (form, state_form, form), (params, state, params)
        thin = jax.eval_shape(lambda *trees: tuple(flat(*both).thin() for both in zip(trees, forms)), *trees)
        program, results = jax.make_jaxpr(functools.partial(updated, optimizer), return_shape=True)(*thin)
        if jax.tree.map(jnp.shape, results) != jax.tree.map(jnp.shape, thin[:2]):
            raise ValueError("optimizer.update returns other shapes than those of the gradient and the state")
        owners = [*each("gradient"), *kept, *each("weight")]
        holds = [*_held(each(""), form), *_held(kept, state_form), *_held(each(""), form)]
        given = [self._given(*one) for one in zip(owners, holds, jax.tree.leaves(thin))]
        found = self._walk(program.jaxpr, program.consts, given)
        own, common = [set() for _ in groups], set()
        for i, (owner, held, (name, over)) in enumerate(zip(owners, holds, found)):
            name = name if over in (None, held) else self._new()
            if owner is None:
                common.add((i, name))
            else:
                for parameter in held:
                    own[parameter].add((owner[0], name))
        return [frozenset(names | common) for names in own]

    def _name(self, *how) -> int:
        return self._names.setdefault(how, len(self._names))

    def _new(self) -> int:
        """A new name, of one value only."""
        return self._name(object())

    def _given(self, owner, held: frozenset | int, leaf) -> _Value:
        """The value of an argument: one number per number of its parameter, or a single number if it has none."""
        if owner is not None:
            return self._name(owner[0], leaf.dtype), held
        return (self._new() if leaf.shape else self._name("given", held, leaf.dtype)), None

    def _constant(self, value) -> _Value:
        if np.shape(value) or not isinstance(value, bool | int | float | np.generic | np.ndarray | jax.Array):
            return self._new(), None
        number = np.asarray(value).item()
        return (self._sum([]) if number == 0 else self._name("constant", jnp.result_type(value), number)), None

    def _sum(self, terms) -> int:
        """The name of a sum of sums. Terms of one name over different arrays are merged into one term over all."""
        over: dict[int, frozenset] = {}
        for name, arrays in terms:
            if over.get(name, frozenset()) & arrays:
                return self._new()
            over[name] = over.get(name, frozenset()) | arrays
        held = frozenset((name, arrays) for name, arrays in over.items() if arrays)
        found = self._name("sum", held)
        self._sums[found] = held
        return found

    def _walk(self, jaxpr, consts: Sequence, given: Sequence[_Value]) -> list[_Value]:
        """The values that a program returns."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(self._constant, consts), *given], strict=True))
        read = lambda atom: self._constant(atom.val) if isinstance(atom, Literal) else known[atom]
        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            if equation.primitive.name in _CALLS:
                called = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
                known.update(zip(equation.outvars, self._walk(called.jaxpr, called.consts, operands)))
            else:
                known.update((atom, self._result(equation, atom.aval, operands)) for atom in equation.outvars)
        return [read(atom) for atom in jaxpr.outvars]

    def _result(self, equation, result, operands: list[_Value]) -> _Value:
        """The value of one result, of the given shape and type, of an operation."""
        kind, names = equation.primitive.name, [name for name, _ in operands]
        shapes = {atom.aval.shape for atom in equation.invars}
        over = {arrays for _, arrays in operands if arrays is not None}
        if kind in ("broadcast_in_dim", "reshape", "squeeze") and not over:
            return operands[0]
        if kind == "reduce_sum" and over and result.shape == ():
            return self._sum([(names[0], *over)]), None
        settings = sorted((key, str(value)) for key, value in equation.params.items() if key not in _SHAPES)
        how = (kind, *settings, str(result.dtype))
        if result.shape == () and (terms := self._terms(how, operands)) is not None:
            return self._sum(terms), None
        if kind in _EACH and len(over) <= 1 and shapes <= {(), result.shape}:
            return self._name(*how, *names), over.pop() if over else None
        if not over and shapes <= {()} and [atom.aval for atom in equation.outvars] == [result] and result.shape == ():
            return self._name(*how, *names), None
        return self._new(), None

    def _terms(self, how: tuple, operands: list[_Value]) -> list | None:
        """The terms of a sum of sums; None for anything else.

        A sum that is converted to another type counts as the sum of its converted terms. An array of one number is a
        sum as well.
        """
        terms = []
        for name, over in operands:
            if over is None and name not in self._sums:
                return None
            terms += self._sums[name] if over is None else [(name, over)]
        if all(over is not None for _, over in operands):
            return None
        if how[0] == "convert_element_type":
            return [(self._name(*how, name), over) for name, over in terms]
        return terms if how[0] == "add" else None


def _held(owners: Sequence, form: Form) -> list[Any]:
    """For each array of a thin tree, the parameters whose numbers it holds, or its own index if it holds none.

    Raises ValueError if a part holds parameters in another order than their own.
    """
    held: list[Any] = [frozenset()] * len(owners)
    for members in form.members:
        inside = [owners[i][1] for i in members if owners[i] is not None]
        held[members[0]] = frozenset(inside) if inside else members[0]
        if inside != sorted(inside):
            raise ValueError("the optimiser's state has its arrays in another order than the parameters")
    return held
