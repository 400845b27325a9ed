"""Which arrays an optimiser treats alike, read off its program.

Adam does the same to every number of every array, each by itself but for global norms: on one vector of all arrays it
gives what it gives on the arrays. Adam whose decay is masked does so on two vectors. LARS, which takes a norm of each
array, and Adafactor, which takes means over axes, do so on none. Nothing in their types tells them apart. So `update`
is traced, and every result is named by how it is computed: by which operations on the numbers at its own place, and
with which sums over all numbers of which arrays. Arrays whose results have the same names form a group. Then `update`
is traced again on the vectors of the groups; if a name differs, each array stays by itself. So a mask, a threshold on
a shape or a function of the path either makes groups of its own or leaves everything as it was.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxdiff.training.flat import Form, flat, form_of_params, form_of_state, owners_of

_EACH = {  # primitives that compute each number from those at its own place
    *("add", "sub", "mul", "div", "rem", "neg", "sign", "abs", "max", "min", "clamp", "pow", "integer_pow", "square"),
    *("sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "erf", "floor"),
    *("ceil", "round", "select_n", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "is_finite", "copy"),
    *("convert_element_type", "reduce_precision"),
}
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}
_SHAPES = {"shape", "broadcast_dimensions", "dimensions", "axes", "sharding", "out_sharding"}
_Value = tuple[int, frozenset | None]


def updated(optimizer, grads, opt_state, params) -> tuple:
    """(updates, state) of an optimiser; optax has numbers of several types in one formula."""
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(grads, opt_state, params)


def alike(optimizer, params) -> tuple[int, ...]:
    """The group of each array of `params` (abstract), as a number.

    On one vector for each group `optimizer` gives what it gives on the arrays, but for the order of sums.
    """
    leaves, structure = jax.tree.flatten(params)
    given = optimizer, structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    try:
        return _alike(*given)
    except TypeError:  # of an optimiser that has no hash
        return _alike.__wrapped__(*given)


@functools.lru_cache(maxsize=8)  # a run asks for its state and for its step
def _alike(optimizer, structure, leaves: tuple) -> tuple[int, ...]:
    params = structure.unflatten(leaves)
    alone = tuple(range(len(leaves)))
    names = _Names()
    known = names.of_results(optimizer, params, alone)
    first: dict = {}
    groups = tuple(first.setdefault((leaf.dtype, each), i) for i, (leaf, each) in enumerate(zip(leaves, known)))
    try:
        return groups if names.of_results(optimizer, params, groups) == known else alone
    except (TypeError, ValueError):  # of an optimiser that does not take arrays of the vectors' shapes
        return alone


class _Names:
    """Names, as whole numbers, of how values are computed.

    A value is (name, arrays): the parameters of which it holds a number for each number; None for a single number,
    which may be repeated to any shape.
    """

    def __init__(self):
        self._names: dict[Any, int] = {}
        self._sums: dict[int, frozenset] = {}

    def of_results(self, optimizer, params, groups: tuple[int, ...]) -> list[frozenset]:
        """For each parameter the names of all results that belong to it, and of those that belong to none."""
        state = jax.eval_shape(optimizer.init, params)
        own = lambda name: [(name, i) for i in range(len(groups))]
        owners = owners_of(state, params)
        form, state_form = form_of_params(params, groups), form_of_state(state, params, groups)
        forms, trees = (form, state_form, form), (params, state, params)
        thin = jax.eval_shape(lambda *given: tuple(flat(*each).thin() for each in zip(given, forms)), *trees)
        traced = lambda *given: updated(optimizer, *given)
        program, results = jax.make_jaxpr(traced, return_shape=True)(*thin)
        given = [*own("gradient"), *owners, *own("weight")]
        arrays = [held for each in zip((own(""), owners, own("")), forms) for held in _arrays(*each)]
        values = [self._given(*each) for each in zip(given, arrays, jax.tree.leaves(thin))]
        found = self._walk(program.jaxpr, program.consts, values)
        if jax.tree.map(jnp.shape, results) != jax.tree.map(jnp.shape, thin[:2]):
            raise ValueError("the shapes of updates and state are others than those of gradient and state")
        common, each = set(), [set() for _ in groups]
        for result, (owner, held, (name, over)) in enumerate(zip([*own("update"), *owners], arrays, found)):
            if owner is None:
                common.add((result, name if over is None else self._new()))
                continue
            for i in held:
                each[i].add((owner[0], name if over in (None, held) else self._new()))
        return [frozenset(names | common) for names in each]

    def _name(self, *how) -> int:
        return self._names.setdefault(how, len(self._names))

    def _new(self) -> int:
        """A name that no other value has."""
        return self._name(object())

    def _given(self, owner, arrays: frozenset | None, leaf) -> _Value:
        if owner is None:
            return (self._name("given", arrays, leaf.dtype) if leaf.shape == () else self._new()), None
        return self._name(owner[0], leaf.dtype), arrays

    def _constant(self, value) -> _Value:
        if np.shape(value) or not isinstance(value, bool | int | float | np.generic | np.ndarray | jax.Array):
            return self._new(), None
        number = np.asarray(value).item()
        return (self._sum([]) if number == 0 else self._name("constant", jnp.result_type(value), number)), None

    def _sum(self, terms) -> int:
        """The name of a sum of sums: terms of one name, over different arrays, are one term over all of them."""
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
        """The values that a program gives."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(self._constant, consts), *given], strict=True))
        read = lambda atom: self._constant(atom.val) if isinstance(atom, Literal) else known[atom]
        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            if equation.primitive.name in _CALLS:
                called = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
                results = self._walk(called.jaxpr, called.consts, operands)
            else:
                results = self._results(equation, operands)
            known.update(zip(equation.outvars, results))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, equation, operands: list[_Value]) -> list[_Value]:
        """The values that one operation gives."""
        kind, out = equation.primitive.name, equation.outvars[0].aval
        shapes = {atom.aval.shape for atom in equation.invars}
        over = {arrays for _, arrays in operands if arrays is not None}
        names = [name for name, _ in operands]
        settings = sorted((key, str(value)) for key, value in equation.params.items() if key not in _SHAPES)
        how = (kind, *settings, str(out.dtype), *names)
        if kind in ("broadcast_in_dim", "reshape", "squeeze") and not over:
            return [operands[0]]
        if kind == "reduce_sum" and over and out.shape == ():
            return [(self._sum([(names[0], *over)]), None)]
        if kind in ("add", "convert_element_type") and out.shape == () and any(name in self._sums for name in names):
            if all(over is not None or name in self._sums for name, over in operands):
                return [(self._of_sums(how, operands), None)]
        if kind in _EACH and len(over) <= 1 and shapes <= {(), out.shape}:
            return [(self._name(*how), *(over or {None}))]
        if shapes <= {()} and all(each.aval.shape == () for each in equation.outvars):
            return [(self._name(i, *how), None) for i in range(len(equation.outvars))]
        return [(self._new(), None) for _ in equation.outvars]

    def _of_sums(self, how: tuple, operands: list[_Value]) -> int:
        """The name of a sum of sums, and of a sum in another type, which is taken for the sum of terms in that type.

        An array of one number is a sum as well.
        """
        terms = [term for name, over in operands for term in (self._sums[name] if over is None else [(name, over)])]
        return self._sum(terms if how[0] == "add" else [(self._name(*how[:-1], name), over) for name, over in terms])


def _arrays(owners: Sequence, form: Form) -> list[Any]:
    """Of each array of a thin tree the parameters whose numbers it holds; of what belongs to none, its index.

    Raises ValueError where one part belongs to the parameters of several.
    """
    found: list[Any] = [frozenset()] * len(owners)
    for members in form.members:
        held = [owners[i] and owners[i][1] for i in members]
        found[members[0]] = members[0] if held[0] is None else frozenset(held)
        if held[0] is not None and held != sorted(held):
            raise ValueError("an optimiser's state has its arrays in another order than the parameters")
    return found
