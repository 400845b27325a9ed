"""Denoising score matching (Vincent 2011; Ho et al. 2020): guess the data and noise that x_t was made of."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.denoisers import Prediction, check_prediction
from jaxdiff.losses import times as times_
from jaxdiff.losses import weightings
from jaxdiff.losses.inputs import check_batch_of, check_times_law, draw_times
from jaxdiff.processes import Process, check_process, expand_time, perturb, pytree


def velocity_error(process: Process, prediction: Prediction, t, x0, noise) -> jax.Array:
    """The error of v = cos φ ε - sin φ x_0 that the prediction at `t` makes, [batch, *event]."""
    check_process(process)
    check_prediction(prediction, x0)
    phi = expand_time(process.angle(t), x0)
    return jnp.cos(phi) * (prediction.noise - noise) - jnp.sin(phi) * (prediction.data - x0)


@pytree
@dataclasses.dataclass(frozen=True)
class Denoising:
    """`loss(denoiser, key, x0, cond=None) -> [batch]`: the weighted squared error of v, mean over an event's values.

    `weighting` is one of `jaxdiff.losses.weightings`, `times` one of `jaxdiff.losses.times`. Raises TypeError for
    integer x0 and ValueError for a concrete x0 that holds a NaN.
    """

    weighting: Any = weightings.Simple()
    times: Any = times_.Stratified()

    def __post_init__(self):
        weightings.check_weighting(self.weighting)
        check_times_law(self.times)

    def __call__(self, denoiser, key, x0, cond=None) -> jax.Array:
        """One number for each example of x0 [batch, *event]."""
        x0, cond = check_batch_of(denoiser, key, x0, cond)
        process = denoiser.process
        time_key, noise_key = jax.random.split(key)
        t, factor = draw_times(self.times, time_key, process, x0.shape[0])
        x_t, noise = perturb(noise_key, process, x0, t)
        error = velocity_error(process, denoiser(x_t, t, cond), t, x0, noise)
        return weightings.weights(self.weighting, denoiser, t) * factor * jnp.mean(error**2, axis=range(1, x0.ndim))
