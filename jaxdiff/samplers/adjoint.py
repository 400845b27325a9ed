"""How to differentiate through an adaptive solve.

    what                      adjoint                            memory and time of reverse mode
    reverse (grad, vjp)       None: RecursiveCheckpointAdjoint   a few states; each step computed about twice
    forward (jvp, jacfwd)     diffrax.ForwardMode()              not supported
    both, also nested         diffrax.DirectAdjoint()            as for None; six times the time on a small network

A Hessian (`jax.hessian`, forward over reverse) takes `DirectAdjoint()`. Values are the same under all three. Inside a
`jax.shard_map` with its default `check_vma`, all three are replaced by a loop of our own that supports both modes:
diffrax's loops start from counters that do not vary over devices, which the check refuses. On a mesh with explicit
axes, take gradients under `jax.jit` or within `jax.set_mesh`: outside of them JAX refuses even the gradient of
`jnp.sum`.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxdiff.arrays import check_instance
from jaxdiff.arrays.varying import varies, vary

_BASE = 16


def check_adjoint(adjoint) -> None:
    """Raise TypeError if `adjoint` is neither None nor one of diffrax's adjoints."""
    if adjoint is not None:
        import diffrax

        check_instance("adjoint", adjoint, diffrax.AbstractAdjoint, "one of diffrax's, such as ForwardMode()")


@contextlib.contextmanager
def forward_mode_named(adjoint, *inputs) -> Iterator[None]:
    """Add the fix to JAX's error if forward mode in `inputs` meets an adjoint that supports reverse mode only."""
    try:
        yield
    except TypeError as error:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(inputs))
        if adjoint is None and traced and "custom_vjp" in str(error):
            raise TypeError(
                "forward mode (jax.jvp, jax.jacfwd, jax.hessian) does not go through an adaptive solve by default; "
                "expected adjoint=diffrax.ForwardMode(), or adjoint=diffrax.DirectAdjoint() for both modes"
            ) from error
        raise


def across_devices(solver, adjoint, state) -> tuple[Any, Any]:
    """The diffrax (solver, adjoint) for a solve from `state`; inside a `jax.shard_map`, a pair that passes its check.

    Raises:
        ValueError: inside a `jax.shard_map`, if `solver` is not an explicit Runge-Kutta method.
    """
    import diffrax

    if not any(varies(leaf) for leaf in jax.tree.leaves(state)):
        return solver, diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    if not isinstance(solver, diffrax.AbstractERK):
        raise ValueError(
            f"solver = {solver!r} under jax.shard_map; expected an explicit Runge-Kutta method such as Dopri5(), or "
            "jax.shard_map(..., check_vma=False)"
        )
    unrolled, both_ways = _kinds()
    return unrolled(solver), both_ways(state)


@functools.cache
def _kinds():
    import diffrax

    class Unrolled(diffrax.AbstractAdaptiveSolver):
        """An explicit Runge-Kutta method with its stages unrolled, none of them reused by the next step."""

        solver: diffrax.AbstractERK
        term_structure = diffrax.AbstractTerm
        interpolation_cls = diffrax.LocalLinearInterpolation

        def order(self, terms):
            return self.solver.order(terms)

        def error_order(self, terms):
            return self.solver.error_order(terms)

        def init(self, terms, t0, t1, y0, args):
            return None

        def func(self, terms, t0, y0, args):
            return terms.vf(t0, y0, args)

        def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
            tableau: Any = self.solver.tableau
            dt = t1 - t0
            slopes = [terms.vf(t0, y0, args)]

            def combined(weights):
                total = lambda *leaves: sum(float(w) * leaf for w, leaf in zip(weights, leaves) if w != 0)
                return jax.tree.map(lambda *leaves: dt * total(*leaves), *slopes)

            for row, c in zip(tableau.a_lower, tableau.c):
                y = jax.tree.map(jnp.add, y0, combined(row))
                slopes.append(terms.vf(t0 + float(c) * dt, y, args))
            y1 = jax.tree.map(jnp.add, y0, combined(tableau.b_sol))
            return y1, combined(tableau.b_error), {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful

    class BothWays(diffrax.ForwardMode):
        """Forward and reverse mode, with a loop whose carry is typed as varying over devices, as `like` is."""

        like: Any

        def loop(self, *, throw, passed_solver_state, passed_controller_state, init_state, **more):
            loop = functools.partial(_loop, like=self.like)
            return self._loop(
                init_state=vary(jax.tree.map(jnp.asarray, init_state), self.like),
                inner_while_loop=loop,
                outer_while_loop=loop,
                **more,
            )

    return Unrolled, BothWays


def _loop(cond_fun, body_fun, init_val, *, max_steps, like, buffers=None):
    """`while cond_fun(val): val = body_fun(val)`, at most `max_steps` times: nested scans, skipped once all stop.

    Reverse mode stores the states at which the inner scans begin.
    """
    import equinox.internal as eqxi

    def step(val):
        goes_on = cond_fun(val)
        return jax.tree.map(lambda new, old: jnp.where(goes_on, new, old), vary(body_fun(val), like), val)

    def run(val, steps):
        if steps == 1:
            return step(val)

        def part(val, _):
            go_on = lambda val: run(val, steps // _BASE)
            return jax.lax.cond(eqxi.unvmap_any(cond_fun(val)), go_on, lambda val: val, val), None

        return jax.lax.scan(jax.checkpoint(part), val, length=_BASE)[0]

    steps = 1
    while steps < max_steps:
        steps *= _BASE
    return run(vary(jax.tree.map(jnp.asarray, init_val), like), steps)
