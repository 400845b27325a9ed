r"""Draws samples: a sampler is one step, and every run is one scan over its steps.

The probability flow of x = α x_0 + σ ε is a line integral along the curve (α, σ) (Song et al. 2021, eq. 13, with
E[ε | x] = -σ score):

    dx = E[x_0 | x] dα + E[ε | x] dσ.

Freezing both expectations gives x_s = α_s x_0 + σ_s ε, the DDIM step; every other method here improves on it by
looking ahead (Heun), by looking back (DPM-Solver++), or by adding noise. A step depends only on the noise levels at its
two ends, so every sampler runs on every process and on every grid. Only Euler-Maruyama, which steps the SDE, uses t.
"""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
from jaxdiff.denoisers.bridge import is_of_bridge
from jaxdiff.processes import is_concrete
from jaxdiff.processes.grids import Grid, check_beside, check_ends, check_grid, check_one_time
from jaxdiff.samplers.adjoint import forward_mode_named
from jaxdiff.samplers.dpm_solver import DPMSolverPP
from jaxdiff.samplers.sampler import Sampler, answers_by_prediction, as_carried, check_run, grid_of, take_step

ADAPTIVE_END = 1e-5
ENOUGH = 8  # the fewest values of x_start whose size is compared with that of the prior
WIDE = 10.0  # the least standard deviation of a prior that noise of unit size is far from


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
    """Draw samples from a denoiser.

    Sample i depends on `key` and i alone, not on n or the number of devices. One program is compiled for a shape, a
    number of steps and the types of the arguments; other numbers reuse it. If the keys are split between the devices of
    a mesh, each device draws its own samples, which stay there.

    The numbers of a sampler and of a process are shared by all samples; those of a denoiser (a guidance scale) may
    differ by sample. For other settings that differ by sample: `jax.vmap` over keys and settings.

    Args:
        key: a typed key, or n keys, one a sample.
        denoiser: any denoiser: a network (`jaxdiff.Denoiser`), an exact one, or one with guidance.
        shape: (n, *event); for a product a tree of shapes.
        sampler: one of `jaxdiff.samplers`.
        steps: denoising steps from `t_start`, one network evaluation each (Heun: two; a corrector: its own more).
            Adaptive samplers (`ProbabilityFlow`) choose their own; for them `steps` sets the points of a trajectory.
        cond: what the denoiser is conditioned on, leaves `[n, ...]`; a scalar holds for all n. `RePaint` takes a
            dictionary in which this is the part "cond", `DAPS` a measurement.
        grid: one of `jaxdiff.grids`, or an array of decreasing times, which sets `t_start`, `t_end` and the number of
            steps. None is the sampler's own grid (equal steps in log-SNR for DPM-Solver++, UniPC and annealed Langevin
            dynamics) or else that of the process: equal steps in the angle, in α for categories, in log-SNR for a
            product.
        t_start: time of the first x.
        t_end: time at which the run stops, returning x there; None goes on to clean data, whose last step is the
            denoiser's prediction.
        x_start: x at `t_start`, `[n, *event]`; None draws it from the process's prior.
        trajectory: return every x on the way.
        precision: of the network's float32 products: "default", "high" or "highest" (`jaxdiff.arrays.precision`). None
            is JAX's own setting, which is TF32 on a GPU, bfloat16 on a TPU and float32 on a CPU.

    Returns:
        Samples `[n, *event]`, or for a product a tree of them. With `trajectory=True`, `[steps + 1, n, *event]` from
            the start to the result. An adaptive sampler that goes on to clean data has one more, the end of its solve.
        Where the denoiser's prediction is NaN, numbers are NaN and categories -1.

    Raises:
        ValueError: for times outside [0, 1] or not decreasing (traced, NaN), fewer than one step, an `x_start` of
            another shape, a denoiser or sampler that is undefined at `t_start`, or arrays that do not fit in memory.
        TypeError: for a key that is not typed, or if `denoiser`, `sampler` or `grid` is not one.

    Warns:
        UserWarning: if `x_start` at t = 1 is under a tenth of the process's `prior_std`, where that is 10 or more, as
            unit noise is for `EDM` and `VE`.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> x = jd.sample(jax.random.key(0), denoiser, (1000, 1), steps=20)
        >>> x.shape, bool(abs(x.mean() - 2.0) < 0.1)
        ((1000, 1), True)
    """
    check_run(denoiser, sampler)
    check_precision(precision)
    process = denoiser.process
    shape = process.check_shape(shape)
    shapes = tuple(process.split(shape, "shape"))
    n = shapes[0][0]
    steps, trajectory = check_whole("steps", steps), check_flag("trajectory", trajectory)
    check_room(f"the grid of steps = {steps}, with its temporaries,", steps, itemsize=32)
    for part in shapes:
        check_room("samples, with the temporaries of a step,", *part, itemsize=16)
        if trajectory:
            check_room("a trajectory, stored twice,", steps, *part, itemsize=8)
    keys = example_keys(key, n)
    start, end = check_one_time(t_start, "t_start"), None
    grid = check_grid(grid_of(sampler, process) if grid is None else grid)
    if isinstance(grid, Grid):
        if t_end is not None:
            start, end = check_ends(t_start, t_end)
    else:
        if t_end is not None:
            raise ValueError("t_end was given, but an array as grid sets it; leave t_end out, or end the array there")
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
        warn_unit_noise(denoiser, x_start, start)
    else:
        warn_uncovered(denoiser)
    split = split_of(denoiser, keys, x_start, cond)
    inputs = denoiser, sampler, cond, x_start, grid, start, end
    with at_precision(precision), forward_mode_named(getattr(sampler, "adjoint", False), *inputs):
        return _sample(keys, denoiser, shapes, sampler, steps, cond, grid, start, end, x_start, trajectory, split)


def check_start_of_shape(process, x_start, shape) -> Any:
    """`x_start` as noised data of the process; ValueError if its shape is not `shape`."""
    x_start = process.check(x_start, "x_start", noised=True)
    found = [part.shape for part in process.split(x_start, "x_start")]
    if found != process.split(shape, "shape"):
        raise ValueError(f"x_start has shape {process.joined(found)}; expected shape = {shape}")
    return x_start


def warn_unit_noise(denoiser, x_start, t_start) -> None:
    """Warn if `x_start` at t = 1 is far smaller than a wide prior, that of EDM or VE, as noise of unit size is."""
    process, std = denoiser.process, getattr(denoiser.process, "prior_std", 1.0)
    if is_of_bridge(denoiser) or not all(map(is_concrete, (x_start, t_start, std))) or std < WIDE:
        return
    size, expected = float(np.sqrt(np.mean(np.square(x_start)))), float(std)
    if t_start == 1 and x_start.size >= ENOUGH and size < expected / 10:
        warnings.warn(
            f"x_start has root mean square {size:.3g}, but x at t = 1 of {type(process).__name__} has {expected:.3g}; "
            "give process.prior_std times unit noise, or leave x_start out",
            UserWarning,
            stacklevel=3,
        )


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

    # The answer of a sampler that moves by a prediction is a step of the scan: the program has the network only once.
    # Times of the user's own may end where x has no noise, which the derivative of a step may divide by.
    answers = to_data and isinstance(grid, Grid) and answers_by_prediction(sampler)

    def advance(carry, step):
        (x, state), (index, t, s) = carry, step
        step_keys = folded(keys, index + 1)
        # Two equal times, as at the data, are no step: one between other times is computed and discarded.
        # A step between times that are NaN is taken, and gives NaN.
        ends = answers & (index == len(times) - 1)
        moves = ends | ~(s >= t)
        t, s = jnp.where(moves, t, 0.6), jnp.where(moves, s, 0.4)
        if answers:
            prediction = denoiser(x, t, cond)
            moved = as_carried(sampler, sampler.move(step_keys, process, prediction, x, t, s, state), x, state)
            answer = same_dtype(process.answer(step_keys, prediction), x)
            moved = jax.tree.map(lambda clean, new: jnp.where(ends, clean, new), answer, moved[0]), moved[1]
        else:
            moved = take_step(sampler, step_keys, denoiser, x, t, s, state, cond)
        x, state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, carry)
        return (x, state), x if trajectory else None

    x = vary(working(x_start), (keys, cond, denoiser))
    state = vary(sampler.init(process, x, len(times) - 1 + to_data), x)
    before, after = (times, jnp.append(times[1:], times[-1] / 2)) if answers else (times[:-1], times[1:])
    (last, _), path = jax.lax.scan(advance, (x, state), (jnp.arange(len(before)), before, after))
    if to_data and not answers:
        last = sampler.answer(folded(keys, len(times)), denoiser, last, times[-1], cond)
    if path is not None:
        one = lambda x: jax.tree.map(lambda leaf: leaf[None], x)
        on_the_way = [one(x), path, one(last)] if to_data and not answers else [one(x), path]
        last = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *on_the_way)
    return jax.tree.map(lambda leaf, start: leaf.astype(start.dtype), last, x_start)
