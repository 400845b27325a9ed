r"""One step back: p(x_s | x_t), the posterior of the process with the denoiser's x_0 in it.

With r = exp(λ_t - λ_s), s < t, the process gives the variance of a step back two natural values (Ho et al. 2020,
section 3.2), which differ by a factor that no longer knows of r:

    small   β̃ = (1 - r) σ_s²      of q(x_s | x_t, x_0): right for data that is a point
    large   β = (1 - r) σ_t²      of q(x_t | x_s): right for data of unit variance, under variance preserving

so that β̃ (σ_t/σ_s)^{2 share} is the small one at share 0 and the large one at share 1. A learned one has its share from
the network: log β share + log β̃ (1 - share), eq. 15 of Nichol and Dhariwal 2021, "Improved denoising diffusion
probabilistic models". The best share is known for any data: the variance of q(x_s | x_t) is β̃ + c_data² Var[x_0 | x_t]
(Bao et al. 2022, "Analytic-DPM", eq. 11), by the law of total variance.
"""

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_batch, check_choice
from jaxdiff.denoisers.denoiser import DenoiserLike, Prediction, check_denoiser
from jaxdiff.processes import Process, check_process, expand_time, posterior

VARIANCES = ("small", "large", "learned")


def check_variance(variance: str) -> None:
    """Raise ValueError for a choice of the reverse variance that is not known."""
    check_choice("variance", variance, VARIANCES)


def log_variance_ratio(process: Process, prediction: Prediction, t, s, variance: str) -> jax.Array:
    """log of the variance of p(x_s | x_t) over β̃: 2 share log σ_t/σ_s, shaped to broadcast against x; 0 where σ_s is.

    Raises ValueError where "learned" is asked of a denoiser that has not learned one.
    """
    check_process(process)
    check_variance(variance)
    share = float(variance == "large")
    if variance == "learned":
        share = prediction.share
        if share is None:
            raise ValueError(
                'variance = "learned", but the denoiser predicts none; expected a Denoiser(..., '
                "learned_variance=True) trained by jaxdiff.losses.Hybrid"
            )
    (_, sigma_t), (_, sigma_s) = process.marginal(t), process.marginal(s)
    log_ratio = jnp.log(sigma_t) - jnp.log(jnp.where(sigma_s > 0, sigma_s, sigma_t))
    return 2 * share * expand_time(log_ratio, prediction.data)


def reverse(denoiser: DenoiserLike, x, t, s, cond=None, variance: str = "small") -> tuple[jax.Array, jax.Array]:
    """(mean, std) of p(x_s | x_t = x) for x [batch, *event]; s < t scalars or [batch]."""
    check_denoiser(denoiser)
    check_variance(variance)
    x = check_batch(x)
    prediction = denoiser(x, t, cond)
    c_x, c_data, std = (expand_time(c, x) for c in posterior(denoiser.process, s, t))
    log_ratio = log_variance_ratio(denoiser.process, prediction, t, s, variance)
    return c_x * x + c_data * prediction.data, std * jnp.exp(log_ratio / 2)
