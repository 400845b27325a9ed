r"""From data to noise by the sampler's own step, s > t: DDIM inversion (Song et al. 2021, section 4.3) and its kin.

A step of the probability flow knows only the noise levels at its two ends, and runs either way between them. Up the
grid and down again an explicit method of order p does not quite return: with a local error C h^{p+1} each way, the two
leave C h^{p+1} (1 + (-1)^{p+1}) a step. Over a whole run that is of order p where p is odd (DDIM: 1) and of order p + 1
where it is even (Heun: 3).
"""

from typing import Any

import jax

from jaxdiff.arrays import check_whole, example_keys
from jaxdiff.arrays.dtypes import same_dtype, working_dtype
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, check_start
from jaxdiff.processes import check_event
from jaxdiff.processes.grids import Grid, check_beside, check_ends, check_grid
from jaxdiff.samplers.ancestral import DDIM
from jaxdiff.samplers.sampler import Sampler, check_run, grid_of


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
    """The noise that `sampler` leads to x0 [n, *event]: x0, read as x at `t_min`, carried up its grid to `t_max`.

    `sample` with the same sampler, steps and grid, t_start=t_max, t_end=t_min and x_start the result comes back to x0
    up to the error of its steps; `encode` is the limit of many steps. `grid` is one of `jaxdiff.grids` (None: as in
    `sample`), or an array of decreasing t as in `sample`, which is walked from its end and sets `t_min`, `t_max`
    and the number of steps.

    Raises ValueError for a sampler whose step does not run upwards (one that draws noise or looks back), integer or NaN
    x0, times outside [0, 1], not in order, or other than those of an array as grid (traced, NaN),
    or a denoiser without an answer at the start.
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
        x, state = carry
        return same_dtype(sampler.step(keys, denoiser, x, *ends, state, cond), carry), None

    start = (x, vary(sampler.init(denoiser, x, len(times) - 1), x))
    return jax.lax.scan(advance, start, (times[:0:-1], times[-2::-1]))[0][0].astype(x0.dtype)
