r"""Inversion: from data to noise by the sampler's own step with s > t, such as DDIM (Song et al. 2021, section 4.3).

A step of the probability flow depends only on the noise levels at its two ends, and can run in either direction. An
explicit method of order p that goes up the grid and down again does not return exactly: with a local error C h^{p+1} in
each direction, C h^{p+1} (1 + (-1)^{p+1}) is left a step. Over a whole run that is of order p for odd p (DDIM: 1) and
of order p + 1 for even p (Heun: 3).
"""

from typing import Any

import jax

from jaxdiff.arrays import check_whole, example_keys
from jaxdiff.arrays.dtypes import working_dtype
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, check_start
from jaxdiff.processes import check_event
from jaxdiff.processes.grids import Grid, check_beside, check_ends, check_grid
from jaxdiff.samplers.ancestral import DDIM
from jaxdiff.samplers.sampler import Sampler, check_run, grid_of, take_step


def invert(
    denoiser: DenoiserLike,
    x0,
    sampler: Sampler = DDIM(),
    steps: int = 50,
    cond: Any = None,
    grid: Any = None,
    t_min: float = 1e-5,
    t_max: float = 1.0,
) -> jax.Array:
    """Find the noise from which `sampler` leads to x0, by running its steps from data to noise.

    `sample` from this noise as `x_start`, with the same sampler, steps and grid, `t_start=t_max` and `t_end=t_min`,
    returns to x0 up to the discretisation error. `encode` is the limit of many steps.

    Args:
        denoiser: any denoiser of continuous data.
        x0: data `[n, *event]`, taken for x at `t_min`.
        sampler: a sampler without noise or history: `DDIM()`, `Heun()` or `ProbabilityFlow()`.
        steps: number of steps.
        cond: condition, leaves `[n, ...]`.
        grid: one of `jaxdiff.grids` (None: as in `sample`), or an array of decreasing times as in `sample`, which is
            walked from its end and sets `t_min`, `t_max` and the number of steps.
        t_min: time of x0.
        t_max: time of the result.

    Returns:
        x at `t_max`, `[n, *event]`.

    Raises:
        TypeError: for an integer x0.
        ValueError: for a sampler that draws noise or uses earlier steps, a NaN in x0, times outside [0, 1], not in
            order or other than the ends of the array `grid` (traced, NaN), or a denoiser that is undefined at the
            first time.

    Source:
        Song et al. 2021, "Denoising diffusion implicit models", section 4.3.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> z = jd.invert(denoiser, jnp.array([[3.0]]), steps=50)
        >>> round(float(z[0, 0]), 0)  # 3 is two standard deviations above the mean
        2.0
    """
    check_run(denoiser, sampler)
    x0 = check_event(x0, "x0")
    if not sampler.reversible:
        raise ValueError(
            f"sampler = {sampler!r} does not run from data to noise: it draws noise or looks back; use DDIM() or Heun()"
        )
    steps = check_whole("steps", steps)
    cond = sampler.check_cond(denoiser, cond, x0.shape)
    grid = check_grid(grid_of(sampler, denoiser.process) if grid is None else grid)
    if isinstance(grid, Grid):
        ends = check_ends(t_max, t_min, ("t_max", "t_min"))
        times = grid(denoiser.process, steps, *ends)
    else:
        first = check_beside("t_max", t_max, 1.0, grid[0], "begin")
        last = check_beside("t_min", t_min, 1e-5, grid[-1], "end")
        times = grid.at[0].set(first).at[-1].set(last)
    check_start(denoiser, times[0])
    return _invert(denoiser, x0, sampler, cond, times)


@jax.jit
def _invert(denoiser, x0, sampler, cond, times) -> jax.Array:
    keys = example_keys(jax.random.key(0), x0.shape[0])  # a reversible step draws nothing
    x = vary(x0.astype(working_dtype(x0)), (cond, denoiser))
    times = times.astype(x.dtype)

    def advance(carry, ends):
        (x, state), (t, s) = carry, ends
        return take_step(sampler, keys, denoiser, x, t, s, state, cond), None

    start = (x, vary(sampler.init(denoiser.process, x, len(times) - 1), x))
    return jax.lax.scan(advance, start, (times[:0:-1], times[-2::-1]))[0][0].astype(x0.dtype)
