r"""The probability flow by diffrax, in the rotation's coordinates, each example with its own steps.

    dz/dφ = v(z, φ) = cos φ E[ε | x] - sin φ E[x_0 | x],        x = q z

is finite at both ends of every process and leaves the linear drift to the rotation (see docs/design.md for what that
saves). A solve that fails leaves a finite, plausible and wrong state behind, so its success is returned beside it.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_tolerances, nan_unless
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, angular_velocity, check_start
from jaxdiff.processes import check_event, pytree
from jaxdiff.processes.grids import check_one_time
from jaxdiff.samplers.adjoint import across_devices, check_adjoint, forward_mode_named
from jaxdiff.samplers.mesh import by_device, split_of
from jaxdiff.samplers.sampler import Sampler, check_cond, check_model, same_dtype, working_dtype

_MAX_STEPS = 4096


class Solution(NamedTuple):
    """Where one example's solve ended, the evaluations of the field it took, and whether it got there.

    evaluations is -1 where diffrax does not tell: for an implicit solver, whose root finder takes what it needs.
    """

    state: Any
    evaluations: jax.Array
    converged: jax.Array


def default_solver():
    """The solver where none is given, by `experiments/likelihood_solvers.py`."""
    import diffrax

    return diffrax.Dopri5()


def solve(field, start, angle_start, angle_end, solver, rtol, atol, adjoint=None) -> Solution:
    """Integrate `field(angle, state)` for one example with adaptive steps; `solver` None is Dopri5.

    `adjoint` is how derivatives go through it (`jaxdiff.samplers.adjoint`).

    Never raises for a failure: `converged` is false where the steps ran out or a value stopped being finite. Raises
    TypeError for a solver that is not one of ODEs, ValueError for one that gives no estimate of its error.
    """
    import diffrax

    check_solver(solver)
    solver = default_solver() if solver is None else solver
    each, once = _evaluations(solver)
    start = jax.tree.map(functools.partial(nan_unless, (rtol >= 0) & (atol >= 0)), start)
    solver, adjoint = across_devices(solver, adjoint, start)
    resolution = 10 * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(start))).eps)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda angle, state, args: same_dtype(field(angle, state), state)),
        solver,
        angle_start,
        angle_end,
        dt0=None,
        y0=start,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, dtmin=resolution, force_dtmin=False),
        max_steps=_MAX_STEPS,
        adjoint=adjoint,
        throw=False,
    )
    assert solution.ys is not None
    state = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]))
    evaluations = each * solution.stats["num_steps"] + once
    return Solution(state, evaluations, finite & (solution.result == diffrax.RESULTS.successful))


def check_solve(solver, rtol, atol, adjoint) -> tuple[Any, Any]:
    """(rtol, atol) of an adaptive solve, traced ones NaN out of range; raises where these are no settings of it."""
    check_solver(solver)
    check_adjoint(adjoint)
    return check_tolerances(rtol, atol)


def check_solver(solver) -> None:
    """Raise where `solver` is neither None nor one that integrates an ODE with adaptive steps."""
    import diffrax

    if solver is None:
        return
    if not isinstance(solver, diffrax.AbstractSolver) or solver.term_structure is not diffrax.AbstractTerm:
        raise TypeError(
            f"solver = {solver!r}; expected an instance of one of diffrax's solvers of ODEs, such as Dopri5()"
        )
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        name = f"diffrax.{type(solver).__name__}()"
        raise ValueError(
            f"solver = {name} gives no estimate of its error to choose steps by; wrap it: diffrax.HalfSolver({name})"
        )


def _evaluations(solver) -> tuple[int, int]:
    """Evaluations of the field a step, and once a solve; (0, -1) where they are not known."""
    import diffrax

    if isinstance(solver, diffrax.AbstractImplicitSolver):
        return 0, -1
    if isinstance(solver, diffrax.AbstractWrappedSolver):  # a step and two half steps; the first two start alike
        each, once = _evaluations(solver.solver)
        return (3 * each, 2 * once) if type(solver) is diffrax.HalfSolver and once >= 0 else (0, -1)
    if isinstance(solver, diffrax.AbstractERK):  # under FSAL the first stage is the last one of the step before
        stages, fsal = len(solver.tableau.b_sol), solver.tableau.fsal  # pyright: ignore[reportAttributeAccessIssue]
        return stages - fsal, int(fsal)
    return {diffrax.Euler: (1, 0), diffrax.ReversibleHeun: (1, 1)}.get(type(solver), (0, -1))


def flow(denoiser: DenoiserLike, x, t, s, cond, solver, rtol, atol, adjoint=None) -> Solution:
    """x [n, *event] carried from t to s (either way) along the probability flow, every example by its own steps."""
    process = denoiser.process
    dtype = working_dtype(x)
    t, s = (jnp.asarray(time).astype(dtype) for time in (t, s))

    def one(z, cond):
        def field(angle, z):
            time = process.time_at_angle(angle)
            return angular_velocity(
                denoiser, process.scale(time) * z[None], time, jax.tree.map(lambda c: c[None], cond)
            )[0]

        return solve(field, z, process.angle(t), process.angle(s), solver, rtol, atol, adjoint)

    z = vary((x / process.scale(t)).astype(dtype), (cond, denoiser))
    state, evaluations, converged = jax.vmap(one)(z, cond)
    return Solution((process.scale(s) * state).astype(x.dtype), evaluations, converged)


def _nan_where_failed(solution: Solution) -> jax.Array:
    x, _, converged = solution
    return jnp.where(converged.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan)


@pytree
@dataclasses.dataclass(frozen=True)
class ProbabilityFlow(Sampler):
    """The probability flow ODE by a diffrax solver (None: Dopri5), with steps of its own for every sample.

    Any solver of ODEs with an error estimate, explicit or implicit; `diffrax.HalfSolver` gives one to those without.
    A sample whose solve fails (no convergence in 4,096 steps, a value that is not finite) is returned as NaN.
    Derivatives go through it backward; `adjoint`, one of diffrax's, is for others (`jaxdiff.samplers.adjoint`).
    """

    solver: Any = dataclasses.field(default=None, metadata={"static": True})
    rtol: float = 1e-5
    atol: float = 1e-5
    adjoint: Any = dataclasses.field(default=None, metadata={"static": True})

    adaptive = reversible = True

    def __post_init__(self):
        rtol, atol = check_solve(self.solver, self.rtol, self.atol, self.adjoint)
        object.__setattr__(self, "rtol", rtol)
        object.__setattr__(self, "atol", atol)

    def step(self, keys, denoiser, x, t, s, state, cond):
        """Integrate from t to s."""
        solution = flow(denoiser, x, t, s, cond, self.solver, self.rtol, self.atol, self.adjoint)
        return _nan_where_failed(solution), state


@functools.partial(jax.jit, static_argnames=("solver", "adjoint", "split"))
def _carry(denoiser, x, t, s, cond, solver, rtol, atol, adjoint, split):
    def run(shared, x, cond):
        denoiser, t, s, rtol, atol = shared
        return _nan_where_failed(flow(denoiser, x, t, s, cond, solver, rtol, atol, adjoint))

    return by_device(run, split)((denoiser, t, s, rtol, atol), x, cond)


def _between(denoiser, x, t, s, cond, solver, rtol, atol, adjoint) -> jax.Array:
    """x [n, *event] carried from t to s, one of them 1 and the other `t_min`."""
    check_model(denoiser)
    check_start(denoiser, 1.0)
    rtol, atol = check_solve(solver, rtol, atol, adjoint)
    cond = check_cond(denoiser, cond, x.shape[0])
    t, s = check_one_time(t, "t_min"), check_one_time(s, "t_min")
    split = split_of(denoiser, x, cond)
    with forward_mode_named(adjoint, denoiser, x, t, s, cond):
        return _carry(denoiser, x, t, s, cond, solver, rtol, atol, adjoint, split)


def encode(
    denoiser: DenoiserLike, x0, cond=None, t_min=1e-5, solver=None, rtol=1e-5, atol=1e-5, adjoint=None
) -> jax.Array:
    """The latent of x0 [n, *event]: x0, read as x at `t_min`, carried along the probability flow to t = 1.

    NaN where a solve fails. `adjoint` is how derivatives go through the solve, one of diffrax's
    (`jaxdiff.samplers.adjoint`); None is reverse mode.

    Raises for integer or NaN x0, a `t_min` outside [0, 1], tolerances below 0 or both 0 (traced, these give NaN), and
    what is no denoiser, no solver of ODEs or no adjoint.
    """
    return _between(denoiser, check_event(x0, "x0"), t_min, 1.0, cond, solver, rtol, atol, adjoint)


def decode(
    denoiser: DenoiserLike, z, cond=None, t_min=1e-5, solver=None, rtol=1e-5, atol=1e-5, adjoint=None
) -> jax.Array:
    """The inverse of `encode`: z [n, *event] at t = 1 carried back to x at `t_min`."""
    return _between(denoiser, check_event(z, "z"), 1.0, t_min, cond, solver, rtol, atol, adjoint)
