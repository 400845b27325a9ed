r"""Solves the probability flow by diffrax in the rotation's coordinates, with steps of its own for each example.

    dz/dφ = v(z, φ) = cos φ E[ε | x] - sin φ E[x_0 | x],        x = q z

is finite at both ends of every process and leaves the linear drift to the rotation (docs/design.md has the savings). A
failed solve returns a finite, plausible and wrong state, so that success is reported separately.
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
    """Where one example's solve of the probability flow ended.

    Attributes:
        state: the state at the end.
        evaluations: evaluations of the field; -1 for an implicit solver, which does not count them.
        converged: whether the solve succeeded. If not, the state is meaningless.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> flow = jd.samplers.ProbabilityFlow()
        >>> solution = flow.carry(denoiser, jnp.array([[3.0]]), 1e-5, 1.0, None)  # each field [n, ...]
        >>> solution.state.shape, bool(solution.converged[0])
        ((1, 1), True)
    """

    state: Any
    evaluations: jax.Array
    converged: jax.Array


def check_flow(flow) -> None:
    """Raise TypeError if `flow` is not a `ProbabilityFlow`, ValueError if one of its numbers is an array."""
    check_instance("flow", flow, ProbabilityFlow, "a sampler such as jaxdiff.samplers.ProbabilityFlow(rtol=1e-4)")
    check_shared("flow", flow)


def check_solver(solver) -> None:
    """Raise unless `solver` is None or an adaptive diffrax solver of ODEs."""
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
            f"solver = {name} gives no estimate of its error to adapt steps by; wrap it: diffrax.HalfSolver({name})"
        )


def _evaluations(solver) -> tuple[int, int]:
    """Evaluations of the field a step, and once a solve; (0, -1) if unknown."""
    import diffrax

    if isinstance(solver, diffrax.AbstractImplicitSolver):
        return 0, -1
    if isinstance(solver, diffrax.AbstractWrappedSolver):  # a step and two half steps, two of which share their start
        each, once = _evaluations(solver.solver)
        return (3 * each, 2 * once) if type(solver) is diffrax.HalfSolver and once >= 0 else (0, -1)
    if isinstance(solver, diffrax.AbstractERK):  # FSAL: the first stage is the last of the step before
        stages, fsal = len(solver.tableau.b_sol), solver.tableau.fsal  # pyright: ignore[reportAttributeAccessIssue]
        return stages - fsal, int(fsal)
    return {diffrax.Euler: (1, 0), diffrax.ReversibleHeun: (1, 1)}.get(type(solver), (0, -1))


def _nan_where_failed(solution: Solution) -> jax.Array:
    x, _, converged = solution
    return jnp.where(converged.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan)


@pytree
@dataclasses.dataclass(frozen=True)
class ProbabilityFlow(Sampler):
    """The probability flow ODE by an adaptive diffrax solver, with steps of its own for every sample.

    A sample whose solve fails (no convergence in 4,096 steps, a value that is not finite) is NaN. `encode`, `decode`
    and the likelihoods take this object as `flow`.

    Args:
        solver: a diffrax solver of ODEs with an error estimate, explicit or implicit; None is Dopri5.
            `diffrax.HalfSolver` adds an error estimate to a solver without one.
        rtol: relative tolerance.
        atol: absolute tolerance.
        adjoint: a diffrax adjoint, which sets how derivatives are taken; None supports reverse mode
            (`jaxdiff.samplers.adjoint`).

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", eq. 13.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> flow = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), flow).shape
        (4, 1)
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
        """`solver`, or Dopri5, the best one of `experiments/likelihood_solvers.py`."""
        import diffrax

        return diffrax.Dopri5() if self.solver is None else self.solver

    def step(self, keys, denoiser, x, t, s, state, cond):
        """Integrate from t to s."""
        return _nan_where_failed(self.carry(denoiser, x, t, s, cond)), state

    def carry(self, denoiser: DenoiserLike, x, t, s, cond) -> Solution:
        """Carry x [n, *event] along the probability flow from t to s, in either direction."""
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
        """Carry the `state` of one example from the angle `start` to `end` by `field(angle, state)`.

        Never raises for a failed solve: `converged` is then False.
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
    """Carry x [n, *event], the argument `name`, from t to s, one of which is 1 and the other `t_min`."""
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
    """Encode data as latents: carry x0 along the probability flow to t = 1.

    Args:
        denoiser: any denoiser of continuous data.
        x0: data `[n, *event]`, taken for x at `t_min`.
        cond: condition, leaves `[n, ...]`.
        flow: solver and tolerances.
        t_min: time of x0.

    Returns:
        The latents, x at t = 1, `[n, *event]`; NaN for an example whose solve fails.

    Raises:
        TypeError: for an integer x0, or if `denoiser` or `flow` is not one.
        ValueError: for a NaN in x0, or a `t_min` outside [0, 1] (traced, NaN).

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", section 4.3.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> z = jd.encode(denoiser, jnp.array([[3.0]]))
        >>> round(float(z[0, 0]), 1)  # 3 is two standard deviations above the mean
        2.0
    """
    return _between(denoiser, "x0", x0, t_min, 1.0, cond, flow)


def decode(denoiser: DenoiserLike, z, cond=None, flow: ProbabilityFlow = ProbabilityFlow(), t_min=1e-5) -> jax.Array:
    """Decode latents as data: carry z along the probability flow from t = 1 to `t_min`; the inverse of `encode`.

    Args:
        denoiser: any denoiser of continuous data.
        z: latents `[n, *event]`, x at t = 1.
        cond: condition, leaves `[n, ...]`.
        flow: solver and tolerances.
        t_min: time of the result.

    Returns:
        x at `t_min`, `[n, *event]`; NaN for an example whose solve fails.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> x0 = jnp.array([[3.0]])
        >>> x = jd.decode(denoiser, jd.encode(denoiser, x0))
        >>> bool(abs(x - x0).max() < 1e-3)
        True
    """
    return _between(denoiser, "z", z, 1.0, t_min, cond, flow)
