r"""The hybrid loss that learns the variance of a step back (Nichol and Dhariwal 2021, section 3.1).

The variational bound pays for a step from t to s the divergence of the model's Gaussian from the posterior's,

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = 1/2 Σ [ρ + e^{-ρ} - 1 + e^{-ρ} c_data²/β̃ (x_0 - x̂_0)²],

ρ the log of its variance over β̃. There c_data²/β̃ = SNR_s - SNR_t (Kingma et al. 2021, eq. 13), and on the error e of v
it is, with sin² φ = 1/(1 + SNR),

    (SNR_s - SNR_t)(x_0 - x̂_0)² = (sin² φ_t / sin² φ_s - 1) e²,

finite where α_t = 0. The hybrid loss is L_simple + weight L_vlb, with L_vlb = Σ KL over the T noise levels that
sampling visits, in nats a dimension, from which only the variance learns: the prediction of x_0 is held fixed there.
Its minimum over ρ is ρ = log(1 + c_data²/β̃ E(x_0 - x̂_0)²), the variance of Bao et al. 2022, eq. 11. The last level's
step, to the data, has no variance and costs nothing here.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_field, check_whole
from jaxdiff.denoisers import Prediction, log_variance_ratio
from jaxdiff.losses import times as times_
from jaxdiff.losses import weightings
from jaxdiff.losses.denoising import velocity_error
from jaxdiff.losses.inputs import check_batch_of, draw_times
from jaxdiff.processes import Process, expand_time, perturb, pytree
from jaxdiff.processes.grids import Grid, Time, check_grid, check_times


def transition_kl(process: Process, prediction: Prediction, t, s, x0, noise, variance: str = "small") -> jax.Array:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats, value by value: [batch, *event]; 0 at s = t, σ_s > 0.

    `prediction` is the denoiser's at x_t = α x0 + σ noise; s <= t are scalars or [batch].
    """
    rho = log_variance_ratio(process, prediction, t, s, variance)
    lost = jnp.expm1(jax.nn.softplus(process.log_snr(s)) - jax.nn.softplus(process.log_snr(t)))
    error = velocity_error(process, prediction, t, x0, noise)
    return (rho + jnp.expm1(-rho) + jnp.exp(-rho) * expand_time(lost, x0) * error**2) / 2


@pytree
@dataclasses.dataclass(frozen=True)
class Hybrid:
    """`loss(denoiser, key, x0, cond=None) -> [batch]` for a denoiser with `learned_variance`: L_simple + weight L_vlb.

    `steps` and `grid` are the noise levels of the sampling it is for, as in `jaxdiff.sample`: a grid, or an array of
    decreasing times. `weighting` is L_simple's. Raises as `Denoising`, and ValueError for fewer than two levels, levels
    that do not decrease (traced, NaN), or a denoiser without a learned variance.
    """

    weight: float = 1e-3
    steps: int = dataclasses.field(default=1000, metadata={"static": True})
    grid: Any = Time()
    weighting: Any = weightings.Simple()

    def __post_init__(self):
        check_field(self, "weight", least=0)
        check_whole("steps", self.steps, least=2, noun="noise levels with a step between them")
        check_grid(self.grid)
        weightings.check_weighting(self.weighting)

    def __call__(self, denoiser, key, x0, cond=None) -> jax.Array:
        """One number for each example of x0 [batch, *event]."""
        x0, cond = check_batch_of(denoiser, key, x0, cond)
        process = denoiser.process
        time_key, noise_key = jax.random.split(key)
        levels = self.grid(process, self.steps) if isinstance(self.grid, Grid) else check_times(self.grid)
        part, _ = draw_times(times_.Stratified(t_min=0.0), time_key, process, x0.shape[0])
        level = (part * len(levels)).astype(int)
        t, s = levels[level], levels[jnp.minimum(level + 1, len(levels) - 1)]
        x_t, noise = perturb(noise_key, process, x0, t)
        prediction = denoiser(x_t, t, cond)
        over_event = lambda values: jnp.mean(values, axis=range(1, x0.ndim))
        simple = over_event(velocity_error(process, prediction, t, x0, noise) ** 2)
        held = dataclasses.replace(jax.lax.stop_gradient(prediction), share=prediction.share)
        bound = len(levels) * over_event(transition_kl(process, held, t, s, x0, noise, "learned"))
        return (
            weightings.weights(self.weighting, denoiser, t) * simple + along_batch(self.weight, bound, "weight") * bound
        )
