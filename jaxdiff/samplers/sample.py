r"""A sampler is one step under the one scan.

The probability flow of x = α x_0 + σ ε is a line integral along the curve (α, σ) (Song et al. 2021, eq. 13, with
E[ε | x] = -σ score):

    dx = E[x_0 | x] dα + E[ε | x] dσ.

Freezing both expectations gives x_s = α_s x_0 + σ_s ε, the DDIM step; every other method here improves on it by
looking ahead (Heun), by looking back (DPM-Solver++), or by adding noise. A step knows only the noise levels at its two
ends, so every sampler runs on every process and on every grid (Euler-Maruyama, which steps the SDE, alone knows t).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import (
    Precision,
    at_precision,
    check_flag,
    check_precision,
    check_room,
    check_whole,
    example_keys,
    folded,
)
from jaxdiff.arrays.dtypes import same_dtype, working, working_dtype
from jaxdiff.arrays.mesh import by_device, split_of
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, check_start, warn_uncovered
from jaxdiff.processes import is_concrete
from jaxdiff.processes.grids import Grid, check_beside, check_ends, check_grid, check_one_time
from jaxdiff.samplers.adjoint import forward_mode_named
from jaxdiff.samplers.dpm_solver import DPMSolverPP
from jaxdiff.samplers.sampler import Sampler, check_run, grid_of

ADAPTIVE_END = 1e-5


def sample(
    key,
    denoiser: DenoiserLike,
    shape: Any,
    sampler: Sampler = DPMSolverPP(),
    steps: int = 50,
    cond: Any = None,
    grid: Any = None,
    t_start: float = 1.0,
    t_end: float | None = None,
    x_start=None,
    trajectory: bool = False,
    precision: Precision | None = None,
) -> Any:
    """Draw samples of `shape` = (n, *event): numbers, categories, or for a product a tree of both, its shape one too.

    Sample i depends on `key` and i alone: not on n, nor on how many devices draw it. `key` may also be n keys, one a
    sample. Compiled once for a shape, a number of steps and the types of its arguments; other numbers reuse it.
    Keys split between the devices of a mesh are each drawn on their own, and the samples stay there.

    - `steps`: denoising steps down from `t_start`; one network evaluation each (Heun: two; a corrector: its own more).
    - `t_end`: None goes on to clean data, the last step being the denoiser's answer; a number returns x at that t.
    - `grid`: one of `jaxdiff.grids` (None: the sampler's own, equal steps in log-SNR for DPM-Solver++, UniPC and
      annealed Langevin dynamics; for the others that of the process, equal steps in log-SNR for a product, in α for
      categories, and in the angle otherwise), or an array of decreasing t, which is taken as it stands: it sets
      `t_start`, `t_end` and the number of steps.
    - `x_start`: x at `t_start`, [n, *event]; otherwise drawn from the process's prior.
    - `cond`: what the denoiser is conditioned on, leaves [n, ...]; a scalar stands for all n. `RePaint` takes a
      dictionary in which this is the part "cond", `DAPS` a measurement.
    - `trajectory`: return every x on the way, [steps + 1, n, *event], from the start to the result (an adaptive sampler
      on its way to clean data has one more, where its solve ends).
    - `precision`: of the network's products in float32: "default", "high" or "highest" (`jaxdiff.arrays.precision`);
      None leaves it to JAX's own setting, which is TF32 on a GPU, bfloat16 on a TPU and float32 on a CPU.

    Adaptive samplers (`ProbabilityFlow`) choose their own steps: `steps` then only marks the points of a trajectory.

    The numbers of a sampler and of a process are one for all samples; those of a denoiser (a guidance scale) may be one
    a sample. For other settings a sample: `jax.vmap` over keys and settings.

    Raises ValueError for times outside [0, 1] or not decreasing, fewer than one step, an `x_start` of another shape, a
    denoiser or sampler that has no answer at `t_start`, more than memory holds; TypeError for a key that is not a typed
    key, and for what is no denoiser, sampler or grid. Under a transformation, where a number can only be known as the
    program runs, a time or a sampler's number that is out of range gives NaN.
    """
    check_run(denoiser, sampler)
    check_precision(precision)
    process = denoiser.process
    shape = process.check_shape(shape)
    shapes = tuple(process.split(shape, "shape"))
    n = shapes[0][0]
    steps, trajectory = check_whole("steps", steps), check_flag("trajectory", trajectory)
    check_room(f"the grid of steps = {steps}, with what it is made of,", steps, itemsize=32)
    for part in shapes:
        check_room("samples, with what a step makes of them,", *part, itemsize=16)
        if trajectory:
            check_room("a trajectory, twice,", steps, *part, itemsize=8)
    keys = example_keys(key, n)
    start, end = check_one_time(t_start, "t_start"), None
    grid = check_grid(grid_of(sampler, process) if grid is None else grid)
    if isinstance(grid, Grid):
        if t_end is not None:
            start, end = check_ends(t_start, t_end)
    else:
        if t_end is not None:
            raise ValueError("an array as grid ends where it ends; leave t_end out, or end the array there")
        start, end = check_beside("t_start", t_start, 1.0, grid[0], "begin"), grid[-1]
    check_start(denoiser, start)
    if not sampler.adaptive:
        process.check_times(lambda: grid(process, steps, start, end) if isinstance(grid, Grid) else grid)
    cond = sampler.check_cond(denoiser, cond, shape)
    if all(map(is_concrete, [start, *jax.tree.leaves(process)])):
        with jax.ensure_compile_time_eval():
            sampler.check_start(process, start)
    if x_start is not None:
        x_start = check_start_of_shape(process, x_start, shape)
    else:
        warn_uncovered(denoiser)
    split = split_of(denoiser, keys, x_start, cond)
    inputs = denoiser, sampler, cond, x_start, grid, start, end
    with at_precision(precision), forward_mode_named(getattr(sampler, "adjoint", False), *inputs):
        return _sample(keys, denoiser, shapes, sampler, steps, cond, grid, start, end, x_start, trajectory, split)


def check_start_of_shape(process, x_start, shape) -> Any:
    """`x_start` as noised data of the process; ValueError where it has another shape than `shape`."""
    x_start = process.check(x_start, "x_start", noised=True)
    found = [part.shape for part in process.split(x_start, "x_start")]
    if found != process.split(shape, "shape"):
        raise ValueError(f"x_start has shape {process.joined(found)}; expected shape = {shape}")
    return x_start


@functools.partial(jax.jit, static_argnames=("shapes", "steps", "trajectory", "split"))
def _sample(
    keys, denoiser, shapes, sampler, steps, cond, grid: Any, t_start, t_end, x_start: Any, trajectory, split
) -> Any:
    def of_shares(shared, keys, cond, x_start):
        denoiser, sampler, grid, t_start, t_end = shared
        return run(keys, denoiser, shapes, sampler, steps, cond, grid, t_start, t_end, x_start, trajectory)

    shared = denoiser, sampler, grid, t_start, t_end
    return by_device(of_shares, split, axis=int(trajectory))(shared, keys, cond, x_start)


def run(keys, denoiser, shapes, sampler, steps, cond, grid, t_start, t_end, x_start, trajectory) -> Any:
    """The scan of `sample`, for checked arguments: one key a sample, and a grid or an array of times."""
    process = denoiser.process
    to_data = t_end is None
    if not isinstance(grid, Grid):
        times = grid
    elif sampler.adaptive:
        end = jnp.minimum(ADAPTIVE_END, t_start / 2) if to_data else t_end
        times = grid(process, steps if trajectory else 1, t_start, end)
    else:
        times = grid(process, steps, t_start, t_end)
    if x_start is None:
        x_start = process.prior(folded(keys, 0), process.joined(shapes), times[0])
    times = times.astype(working_dtype(x_start))

    def advance(carry, step):
        (x, state), (index, t, s) = carry, step
        step_keys = folded(keys, index + 1)
        # Two equal times, as at the data, are no step: one between other times is computed, and discarded.
        # One of times that are NaN is taken, and gives NaN.
        moves = ~(s >= t)
        t, s = jnp.where(moves, t, 0.6), jnp.where(moves, s, 0.4)
        moved = same_dtype(sampler.step(step_keys, denoiser, x, t, s, state, cond), carry)
        x, state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, carry)
        return (x, state), x if trajectory else None

    x = vary(working(x_start), (keys, cond, denoiser))
    state = vary(sampler.init(denoiser, x, len(times) - 1 + to_data), x)
    steps_taken = (jnp.arange(len(times) - 1), times[:-1], times[1:])
    (last, _), path = jax.lax.scan(advance, (x, state), steps_taken)
    if to_data:
        last = sampler.answer(folded(keys, len(times)), denoiser, last, times[-1], cond)
    if path is not None:
        one = lambda x: jax.tree.map(lambda leaf: leaf[None], x)
        on_the_way = [one(x), path, one(last)] if to_data else [one(x), path]
        last = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *on_the_way)
    return jax.tree.map(lambda leaf, start: leaf.astype(start.dtype), last, x_start)
