r"""The variational bound as a loss: of any process, in continuous time and in T steps.

1.  In continuous time the bound pays the process's `error` by its rate,

        ∫ error d log(σ/q)/dt dt,

    for numbers that of v (Kingma et al. 2021, eq. 17), for masks the cross-entropy of what is masked (Sahoo et al.
    2024, eq. 10; Shi et al. 2024, eq. 5), for uniform and other noise the score entropy (Lou et al. 2024, eq. 10).
    Where t is uniform a mask pays with weight 1/t, and at least one of n is masked with probability n t as t -> 0: the
    variance of an estimate grows as log 1/t_min, and what is below t_min is not paid. `Importance` draws t where that
    weight is, and `AnyOrder` has neither.
2.  In T steps the bound is a sum over the noise levels t_T > ... > t_1 (Austin et al. 2021, "Structured denoising
    diffusion models in discrete state-spaces", eq. 1), of which one is drawn, and paid T times:

        T KL(q(x_s | x_t, x_0) || p(x_s | x_t)).

    Categories are data at s = 0, where the last of them is -log p(x_0 | x_t).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_whole, count, example_keys, pytree
from jaxdiff.losses import times as times_
from jaxdiff.losses.counted import check_weight, noised, paid
from jaxdiff.losses.denoising import mean_error
from jaxdiff.losses.inputs import check_times_law, draw_times, prepared, weighted_mean
from jaxdiff.losses.weightings import Likelihood
from jaxdiff.processes.grids import Grid, Time, check_grid, check_times


@pytree
@dataclasses.dataclass(frozen=True)
class Bound:
    """`loss(denoiser, key, x0, cond, weight) -> [batch]`: the bound in continuous time by a random t, nats a value.

        Bound()                                     t uniform, one in each of n equal parts
        Bound(times.Importance(1e-3))               of less variance, for masks above all

    Of numbers it is `Denoising(weightings.Likelihood(), times)`. `times` may be a tree of them for a product, as there.
    Raises what `Denoising` raises.
    """

    times: times_.Times = times_.Stratified()

    def __post_init__(self):
        check_times_law(self.times)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        return mean_error(lambda process: process.error, Likelihood(), self.times, denoiser, key, x0, cond, weight)


@pytree
@dataclasses.dataclass(frozen=True)
class Steps:
    """`loss(denoiser, key, x0, cond, weight) -> [batch]`: the bound in T steps by one of them an example, nats a value.

        Steps(1000)         the L_vb of Austin et al. 2021

    `steps` and `grid` are the noise levels of the sampling it is for, as in `jaxdiff.variational_bound`: a grid, or an
    array of decreasing times. Of numbers the last level, where the data are read, costs nothing here. Its expectation
    is the bound's transitions, and of categories its reconstruction too.

    Raises as `Denoising`, ValueError for fewer than one step or levels that do not decrease (traced, NaN).
    """

    steps: int = dataclasses.field(default=1000, metadata={"static": True})
    grid: Grid | np.ndarray | jax.Array = Time()

    def __post_init__(self):
        check_whole("steps", self.steps, noun="noise level")
        check_grid(self.grid)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        denoiser, x0, cond = prepared(denoiser, key, x0, cond)
        process, n = denoiser.process, count(x0)
        weight = check_weight(process, weight, x0)
        time_key, noise_key = jax.random.split(key)
        levels, lasts = self._levels(process)
        part, factor = draw_times(times_.Stratified(t_min=0.0), time_key, process, n)
        level = (part * len(levels)).astype(int)
        t, following = levels[level], levels[jnp.minimum(level + 1, len(levels) - 1)]
        s = process.joined([jnp.where(level == len(levels) - 1, last, following) for last in lasts])
        x_t, truth = noised(process, example_keys(noise_key, n), x0, t, weight)
        prediction = denoiser(x_t, t, cond)
        process.check_prediction(prediction, x_t)
        kl = paid(process, weight, process.kl(prediction, truth, x_t, t, s))
        return weighted_mean(denoiser, _evenly, t, len(levels) * factor, kl)

    def _levels(self, process) -> tuple[jax.Array, list]:
        """The noise levels, and where the step from the last of them ends in each part: there, or at the data."""
        if not isinstance(self.grid, Grid):
            levels = check_times(self.grid)
        elif (end := process.last_time(None)) is None:
            levels = self.grid(process, self.steps, 1.0)
        else:
            levels = self.grid(process, self.steps - 1, 1.0, end)
        return levels, [0.0 if part.last_time(None) is None else levels[-1] for part in process.processes]


def _evenly(denoiser, t) -> jax.Array:
    return jnp.ones_like(t)
