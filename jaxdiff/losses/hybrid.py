r"""The hybrid loss that learns the variance of a step back (Nichol and Dhariwal 2021, section 3.1).

It is L_simple + weight L_vlb. L_vlb is the sum of the KL of every step (`jaxdiff.processes.gaussian`, 5.) over the T
noise levels that sampling visits, in nats a dimension. Only the variance learns from it: the prediction of x_0 is held
fixed there. With ρ the log of the variance over β̃ its minimum is at ρ = log(1 + c_data²/β̃ E(x_0 - x̂_0)²), the variance
of Bao et al. 2022, eq. 11. The last level's step, to the data, has no variance and costs nothing here.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import along_batch, check_field, check_whole, example_keys
from jaxdiff.denoisers import check_numbers
from jaxdiff.losses import times as times_
from jaxdiff.losses import weightings
from jaxdiff.losses.counted import check_weight, noised, paid
from jaxdiff.losses.inputs import OF_ANY, draw_times, prepared
from jaxdiff.processes import pytree
from jaxdiff.processes.grids import Grid, Time, check_grid, check_times


@pytree
@dataclasses.dataclass(frozen=True)
class Hybrid:
    """`loss(denoiser, key, x0, cond, weight) -> [batch]` of a denoiser of `learned_variance`: L_simple + weight L_vlb.

    `steps` and `grid` are the noise levels of the sampling it is for, as in `jaxdiff.sample`: a grid, or an array of
    decreasing times. `weighting` is L_simple's. Raises as `Denoising`, and ValueError for fewer than two levels, levels
    that do not decrease (traced, NaN), or a denoiser without a learned variance.
    """

    learns: ClassVar = "variance"

    weight: float = 1e-3
    steps: int = dataclasses.field(default=1000, metadata={"static": True})
    grid: Grid | np.ndarray | jax.Array = Time()
    weighting: weightings.Weighting = weightings.Simple()

    def __post_init__(self):
        check_field(self, "weight", least=0)
        check_whole("steps", self.steps, least=2, noun="noise levels with a step between them")
        check_grid(self.grid)
        weightings.check_weighting(self.weighting)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        process = check_numbers(denoiser, type(self).__name__, OF_ANY)
        denoiser, x0, cond = prepared(denoiser, key, x0, cond)
        weight = check_weight(process, weight, x0)
        time_key, noise_key = jax.random.split(key)
        levels = self.grid(process, self.steps) if isinstance(self.grid, Grid) else check_times(self.grid)
        part, _ = draw_times(times_.Stratified(t_min=0.0), time_key, process, x0.shape[0])
        level = (part * len(levels)).astype(int)
        t, s = levels[level], levels[jnp.minimum(level + 1, len(levels) - 1)]
        x_t, truth = noised(process, example_keys(noise_key, len(x0)), x0, t, weight)
        prediction = denoiser(x_t, t, cond).with_variance("learned")
        over_event = lambda values: jnp.mean(paid(process, weight, values), axis=range(1, x0.ndim))
        simple = over_event(process.error(prediction, truth, x_t, t))
        held = dataclasses.replace(jax.lax.stop_gradient(prediction), share=prediction.share)
        bound = len(levels) * over_event(process.kl(held, truth, x_t, t, s))
        return (
            weightings.weights(self.weighting, denoiser, t) * simple + along_batch(self.weight, bound, "weight") * bound
        )
