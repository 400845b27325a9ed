r"""The hybrid loss that learns the variance of a step back (Nichol and Dhariwal 2021, section 3.1).

It is L_simple + weight L_vlb. L_vlb is the sum of the KL of every step (`jaxdiff.processes.gaussian`, 5.) over the T
noise levels of sampling, in nats per dimension. Only the variance learns from it: the gradient does not pass through
the prediction of x_0. With ρ the log of the variance over β̃ its minimum is at ρ = log(1 + c_data²/β̃ E(x_0 - x̂_0)²),
the variance of Bao et al. 2022, eq. 11. The step from the last level to the data has no variance and counts as 0.
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
    """The loss of a denoiser with `learned_variance`: L_simple + weight L_vlb.

    Call it as `loss(denoiser, key, x0, cond=None, weight=None)`; it returns one number per example, `[n]`.

    Args:
        weight: the weight of L_vlb, 0 or more.
        steps: the number of steps of the sampling that the model is for, at least 2.
        grid: its noise levels: a grid, or an array of decreasing times, as in `jaxdiff.sample`.
        weighting: the weighting of L_simple, one of `jaxdiff.losses.weightings`.

    Raises:
        TypeError: as `Denoising`.
        ValueError: as `Denoising`, if `steps` is less than 2, levels do not decrease (traced, NaN), or the denoiser has
            no learned variance.

    Source:
        Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models", section 3.1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * jnp.concatenate([x, x], axis=-1)
        >>> denoiser = jd.Denoiser(network, jnp.ones(()), jd.VP(), learned_variance=True)
        >>> loss = jd.losses.Hybrid(steps=100)
        >>> loss(denoiser, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
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
