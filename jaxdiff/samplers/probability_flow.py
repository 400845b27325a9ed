r"""The probability flow by diffrax, in the rotation's coordinates, each example with its own steps.

    dz/dφ = v(z, φ) = cos φ E[ε | x] - sin φ E[x_0 | x],        x = q z

is finite at both ends of every process and leaves the linear drift to the rotation (see docs/design.md for what that
saves). A solve that fails leaves a finite, plausible and wrong state behind, so its success is returned beside it.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arrays import as_called, check_instance, check_shared, check_tolerances, exactly, nan_unless
from jaxdiff.arrays.dtypes import same_dtype, working_dtype
from jaxdiff.arrays.mesh import by_device, split_of
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, angular_velocity, check_cond, check_start
from jaxdiff.denoisers.checks import check_model
from jaxdiff.processes import check_event, check_gaussian, pytree
from jaxdiff.processes.grids import check_one_time
from jaxdiff.samplers.adjoint import across_devices, check_adjoint, forward_mode_named
from jaxdiff.samplers.sampler import Sampler

if TYPE_CHECKING:
    import diffrax

_MAX_STEPS = 4096


class Solution(NamedTuple):
    """Where one example's solve ended, the evaluations of the field it took, and whether it got there.

    evaluations is -1 where diffrax does not tell: for an implicit solver, whose root finder takes what it needs.
    """

    state: Any
    evaluations: jax.Array
    converged: jax.Array


def check_flow(flow) -> None:
    """Raise TypeError for what is no `ProbabilityFlow`, ValueError where a number of it is an array."""
    check_instance("flow", flow, ProbabilityFlow, "a sampler such as jaxdiff.samplers.ProbabilityFlow(rtol=1e-4)")
    check_shared("flow", flow)


def check_solver(solver) -> None:
    """Raise where `solver` is neither None nor one that integrates an ODE with adaptive steps."""
    if solver is None:
        return
    import diffrax

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

    solver: "diffrax.AbstractSolver | None" = dataclasses.field(default=None, metadata={"static": True})
    rtol: float = 1e-5
    atol: float = 1e-5
    adjoint: "diffrax.AbstractAdjoint | None" = dataclasses.field(default=None, metadata={"static": True})

    adaptive = reversible = True

    def __post_init__(self):
        check_solver(self.solver)
        check_adjoint(self.adjoint)
        for name, value in zip(("rtol", "atol"), check_tolerances(self.rtol, self.atol)):
            object.__setattr__(self, name, value)

    @property
    def method(self) -> Any:
        """`solver`, or where it is None the one that `experiments/likelihood_solvers.py` found best."""
        import diffrax

        return diffrax.Dopri5() if self.solver is None else self.solver

    def step(self, keys, denoiser, x, t, s, state, cond):
        """Integrate from t to s."""
        return _nan_where_failed(self.carry(denoiser, x, t, s, cond)), state

    def carry(self, denoiser: DenoiserLike, x, t, s, cond) -> Solution:
        """x [n, *event] carried from t to s (either way) along the probability flow, every example by its own steps."""
        process: Any = denoiser.process
        dtype = working_dtype(x)
        t, s = (jnp.asarray(time).astype(dtype) for time in (t, s))

        def one(z, cond):
            cond = jax.tree.map(lambda c: c[None], cond)

            def field(angle, z):
                time = process.time_at_angle(angle)
                return angular_velocity(denoiser, process.scale(time) * z[None], time, cond)[0]

            return self.solve(field, z, process.angle(t), process.angle(s))

        z = vary((x / process.scale(t)).astype(dtype), (cond, denoiser))
        state, evaluations, converged = jax.vmap(one)(z, cond)
        return Solution((process.scale(s) * state).astype(x.dtype), evaluations, converged)

    def solve(self, field, state, start, end) -> Solution:
        """The `state` of one example carried from the angle `start` to `end` by `field(angle, state)`.

        Never raises for a failure: `converged` is false where the steps ran out or a value stopped being finite.
        """
        import diffrax

        each, once = _evaluations(self.method)
        state = jax.tree.map(functools.partial(nan_unless, (self.rtol >= 0) & (self.atol >= 0)), state)
        solver, adjoint = across_devices(self.method, self.adjoint, state)
        resolution = 10 * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(state))).eps)
        control = diffrax.PIDController(rtol=self.rtol, atol=self.atol, dtmin=resolution, force_dtmin=False)
        solution = exactly(diffrax.diffeqsolve)(
            diffrax.ODETerm(as_called(lambda angle, state, args: same_dtype(field(angle, state), state))),
            solver,
            start,
            end,
            dt0=None,
            y0=state,
            stepsize_controller=control,
            max_steps=_MAX_STEPS,
            adjoint=adjoint,
            throw=False,
        )
        assert solution.ys is not None
        state = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]))
        evaluations = each * solution.stats["num_steps"] + once
        return Solution(state, evaluations, finite & (solution.result == diffrax.RESULTS.successful))


@functools.partial(jax.jit, static_argnames="split")
def _carry(denoiser, x, t, s, cond, flow, split):
    def run(shared, x, cond):
        denoiser, flow, t, s = shared
        return _nan_where_failed(flow.carry(denoiser, x, t, s, cond))

    return by_device(run, split)((denoiser, flow, t, s), x, cond)


def _between(denoiser, name: str, x, t, s, cond, flow) -> jax.Array:
    """x [n, *event], called `name`, carried from t to s, one of them 1 and the other `t_min`."""
    check_model(denoiser)
    check_gaussian(denoiser.process, "the probability flow")
    x = check_event(x, name)
    check_flow(flow)
    check_start(denoiser, 1.0)
    cond = check_cond(denoiser, cond, x.shape[0])
    t, s = check_one_time(t, "t_min"), check_one_time(s, "t_min")
    split = split_of(denoiser, x, cond)
    with forward_mode_named(flow.adjoint, denoiser, flow, x, t, s, cond):
        return _carry(denoiser, x, t, s, cond, flow, split)


def encode(denoiser: DenoiserLike, x0, cond=None, flow: ProbabilityFlow = ProbabilityFlow(), t_min=1e-5) -> jax.Array:
    """The latent of x0 [n, *event]: x0, read as x at `t_min`, carried along the probability flow to t = 1.

    `flow` is how it is solved, by the object that samples with it. NaN where a solve fails.

    Raises for integer or NaN x0, a `t_min` outside [0, 1] (traced, it gives NaN), and what is no denoiser or no flow.
    """
    return _between(denoiser, "x0", x0, t_min, 1.0, cond, flow)


def decode(denoiser: DenoiserLike, z, cond=None, flow: ProbabilityFlow = ProbabilityFlow(), t_min=1e-5) -> jax.Array:
    """The inverse of `encode`: z [n, *event] at t = 1 carried back to x at `t_min`."""
    return _between(denoiser, "z", z, 1.0, t_min, cond, flow)
