r"""A measurement y = A(x_0) + s n, n standard normal: how it is read from `cond`, linearised, and solved for x_0.

1.  Around a guess x̂_0 the operator is replaced by its derivative H = A'(x̂_0), and the residual is e = y - A(x̂_0).
    This is exact for a linear operator.
2.  Given x_0 ~ N(x̂_0, U), the linearised measurement moves the mean by the gain of a Kalman filter times the residual,

        E[x_0 | y] = x̂_0 + U Hᵀ (s² I + H U Hᵀ)⁻¹ e,

    which takes the solution of one symmetric system with as many unknowns as the measurement has numbers. No matrix is
    formed: `solve` needs only products with vectors.
3.  `solve` is the method of conjugate residuals (Stiefel 1955; Saad 2003, "Iterative methods for sparse linear
    systems", algorithm 6.20). Like conjugate gradients it takes one product with M an iteration, but it minimises the
    residual |b - M u| over the Krylov space; for a symmetric M it equals GMRES. Where M is singular and b outside its
    range, as for a noiseless measurement of more numbers than the data have, conjugate gradients diverge, and this
    method finds a least-squares solution. Each example has its own coefficients, so that examples do not affect one
    another.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arrays import (
    along_batch,
    as_array,
    as_pytree,
    check_field,
    check_function,
    check_number,
    pytree,
    said,
    with_dtype,
)
from jaxdiff.arrays.varying import vary

_PARTS = ("y", "cond", "operator")


class Observation(NamedTuple):
    """The parts of `cond`: the measurement y [n, *measurement], and the cond of the wrapped denoiser.

    `parameters` is a tuple with the operator's parameters, leaves [n, ...], or an empty tuple.
    """

    y: jax.Array
    cond: Any
    parameters: tuple


class Linearised(NamedTuple):
    """A measurement at a guess: the residual e = y - A(x̂_0) [n, *measurement], u -> H u and v -> Hᵀ v."""

    residual: jax.Array
    forward: Callable[[jax.Array], jax.Array]
    transposed: Callable[[jax.Array], jax.Array]


@pytree
@dataclasses.dataclass(frozen=True)
class Measurement:
    """A measurement y = operator(x_0) + noise_std n, n standard normal.

    `operator(x0)`, or `operator(x0, parameters)`, is called on one example, without a batch axis, and returns one array
    of floating values, of any shape. A plain function is compiled into the program; the leaves of a callable pytree are
    arguments of the program. `noise_std` is a number of 0 or more, or one per example.

    Raises TypeError for an operator that takes neither one nor two arguments, ValueError for a negative noise_std.
    """

    operator: Callable[..., jax.Array]
    noise_std: float

    def __post_init__(self):
        expected = "a function x0 -> measurement of one example, or (x0, parameters) -> measurement"
        check_function("operator", self.operator, expected, None if _takes(self.operator, 2) else 1)
        object.__setattr__(self, "operator", as_pytree(self.operator))
        check_field(self, "noise_std", least=0)

    def read(self, cond) -> Observation:
        """The parts of `cond`, which is y or a dictionary of "y" and, optionally, "cond" and "operator".

        Raises TypeError for an unknown part, a y that does not hold floating values, and parameters that are missing or
        that the operator does not take; ValueError for a missing y.
        """
        parts = cond if isinstance(cond, dict) else {"y": cond}
        if unknown := [name for name in parts if name not in _PARTS]:
            raise TypeError(f"cond has the part {unknown[0]!r}; a measurement takes only y, cond and operator")
        y = parts.get("y")
        if y is None:
            raise ValueError(
                'cond has no y; expected the measurement y [n, *measurement], or {"y": y} with, optionally, '
                '"cond", for the denoiser, and "operator", the parameters of the operator'
            )
        array = as_array(y)
        if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{with_dtype('y', y)}; expected floating values, operator(x0) of each example")
        given = "operator" in parts
        if not _takes(self.operator, 1 + given):
            known = (
                "x0 alone; leave parameters out of cond"
                if given
                else 'its parameters too; give them as cond["operator"]'
            )
            raise TypeError(f"operator = {said(self.operator)} takes {known}")
        return Observation(jnp.asarray(array), parts.get("cond"), (parts["operator"],) if given else ())

    def check(self, x0, observation: Observation) -> None:
        """Raise ValueError if y and A(x0) differ in shape, TypeError if A(x0) is not one floating array."""
        of_one = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jax.dtypes.canonicalize_dtype(leaf.dtype))
        x0_of_one, *parameters = jax.tree.map(of_one, (x0, *observation.parameters))
        try:
            made, given = jax.eval_shape(self.operator, x0_of_one, *parameters), observation.y.shape[1:]
        except (IndexError, TypeError) as error:
            raise TypeError(
                f"operator = {said(self.operator)} failed for x0 of shape {x0_of_one.shape} "
                f"({str(error).splitlines()[0]}); expected a "
                "function of one example, without a batch axis, in jax.numpy"
            ) from error
        if not hasattr(made, "shape") or not jnp.issubdtype(made.dtype, jnp.floating):
            what = made.dtype if hasattr(made, "dtype") else said(made)
            raise TypeError(f"operator returned {what} for x0 of shape {x0_of_one.shape}; expected one floating array")
        if made.shape != given:
            raise ValueError(
                f"y has shape {given} per example, but operator returns shape {made.shape} for x0 of shape "
                f"{x0_of_one.shape}; expected y [n, *measurement], operator(x0) of each example"
            )

    def applied(self, x0, observation: Observation) -> jax.Array:
        """A(x0) [n, *measurement] of x0 [n, *event], after `check`."""
        self.check(x0, observation)
        return jax.vmap(self.operator)(x0, *observation.parameters)

    def linearised(self, x0, observation: Observation) -> Linearised:
        """The residual at x0 [n, *event], and the operator's derivative there as a map and its transpose."""
        value, forward = jax.linearize(lambda x0: self.applied(x0, observation), x0)
        transposed = jax.linear_transpose(forward, x0)
        return Linearised(observation.y.astype(value.dtype) - value, forward, lambda v: transposed(v)[0])

    def noise_variance(self, y) -> jax.Array:
        """s², which broadcasts against y [n, *measurement]."""
        return along_batch(self.noise_std, y, "noise_std") ** 2

    def log_likelihood(self, x0, cond) -> jax.Array:
        """log N(y; A(x0), s² I) in nats, [n], of x0 [n, *event]; ValueError for a noise_std of 0."""
        check_number("noise_std", self.noise_std, above=0)
        observation = self.read(cond)
        y = observation.y
        variance = self.noise_variance(y)
        log_density = (y - self.applied(x0, observation)) ** 2 / variance + jnp.log(2 * math.pi * variance)
        return -jnp.sum(log_density, range(1, y.ndim)) / 2


class OfMeasurement:
    """Base of frozen dataclasses with the fields of a measurement."""

    operator: Callable[..., jax.Array]
    noise_std: float

    @property
    def _measurement(self) -> Measurement:
        return Measurement(self.operator, self.noise_std)

    def _check_measurement(self, method) -> None:
        """Replace the fields by the checked ones; ValueError for a noise_std of 0 if `method` is not `noiseless`."""
        measurement = self._measurement
        object.__setattr__(self, "operator", measurement.operator)
        object.__setattr__(self, "noise_std", measurement.noise_std)
        if not method.noiseless:
            check_field(self, "noise_std", above=0, fix=f", since {type(method).__name__} divides by its square")


def _takes(function, arguments: int) -> bool:
    """Whether `function` accepts this number of arguments; True if it has no signature."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except ValueError:  # some functions written in C
        return True
    except TypeError:
        return False
    return True


def solve(matvec: Callable[[jax.Array], jax.Array], b, iterations) -> jax.Array:
    """Solve M u = b for u [n, ...] by conjugate residuals, M symmetric and positive semi-definite.

    `matvec(u)` is M u for all examples at once, each with its own M. At most `iterations` products are taken, a number
    that may be traced. An example stops once its residual is lost in rounding, or at a product M r with r·M r <= 0,
    which the Jacobian of a network can give. |b - M u| never grows, and u lies in the span of b, M b, ...; b = 0 gives
    0. For a singular M, u is a least-squares solution.

    Derivatives, forward and backward, are those of the exact solution of a symmetric system, however few iterations
    were allowed.
    """
    return jax.lax.custom_linear_solve(
        matvec, b, lambda matvec, b: _conjugate_residuals(matvec, b, iterations), symmetric=True
    )


class _State(NamedTuple):
    taken: jax.Array
    u: jax.Array
    rest: jax.Array
    p: jax.Array
    product: jax.Array  # M p
    least: jax.Array
    largest: jax.Array
    active: jax.Array


def _conjugate_residuals(matvec, b, iterations) -> jax.Array:
    dot = lambda a, c: jnp.sum(a * c, range(1, b.ndim), keepdims=True)
    over = lambda a, c: jnp.where(c == 0, 0, a / jnp.where(c == 0, 1, c))
    lost = (10 * jnp.finfo(b.dtype).eps) ** 2

    def step(state: _State) -> _State:
        taken, u, rest, p, product, least, largest, active = state
        of_rest = matvec(rest)
        size = dot(rest, of_rest)
        least = jnp.where(taken == 0, lost * size, least)
        ratio = over(dot(of_rest, product), dot(product, product))
        p, product = rest - ratio * p, of_rest - ratio * product
        square = dot(rest, rest)
        largest = jnp.maximum(largest, over(size, square))  # below |M| eps |rest|², rest·M rest is rounding
        active = active & (size > least) & (size > 10 * jnp.finfo(b.dtype).eps * largest * square)
        length = jnp.where(active, over(dot(rest, product), dot(product, product)), 0 * size)  # keeps a NaN in size
        return _State(taken + 1, u + length * p, rest - length * product, p, product, least, largest, active)

    zero, one = jnp.zeros_like(b), jnp.zeros_like(dot(b, b))
    start = _State(jnp.zeros((), int), zero, b, zero, zero, one, one, one == 0)
    going = lambda state: (state.taken < iterations) & state.active.any()
    return jax.lax.while_loop(going, step, vary(start, b)).u
