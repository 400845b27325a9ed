r"""Heun's second-order method with churn (Karras et al. 2022, algorithm 2), for every process.

The trapezoidal rule on the line integral dx = x_0 dα + ε dσ from t to s, with the DDIM step as its predictor:

    x'  = α_s x_0 + σ_s ε                               x_0, ε at (x, t)
    x_s = x' + (α_s - α_t)/2 (x_0' - x_0) + (σ_s - σ_t)/2 (ε' - ε)       x_0', ε' at (x', s)

For α = 1 (VE, EDM) this is exactly the paper's algorithm; for Flow it is Heun's method in t on the velocity. Churn
first raises the noise σ/α by the factor 1 + γ, γ = min(churn/steps, √2 - 1), by a draw from the process's own
transition, but never past t = 1.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_field, check_field_above, nan_unless, normal
from jaxdiff.processes import is_concrete, pytree, transition
from jaxdiff.samplers.sampler import Sampler


@pytree
@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """Heun's second-order method with churn; it takes two network evaluations a step.

    Args:
        churn: S_churn, 0 or more; 0 is deterministic.
        s_min: smallest σ/α at which churn is applied.
        s_max: largest σ/α at which churn is applied.
        s_noise: standard deviation of the noise of churn.

    Raises:
        ValueError: for a number out of range, or if `s_min`, `s_max` or `s_noise` is given without churn.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", algorithm 2.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), jd.samplers.Heun(churn=2.0), steps=5).shape
        (4, 1)
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self):
        for name in ("churn", "s_min", "s_noise"):
            check_field(self, name, least=0)
        check_field(self, "s_max", least=0, most=math.inf)
        message = "s_min = {low}, s_max = {high}; expected s_min <= s_max: swap them"
        check_field_above(self, "s_max", "s_min", message, or_equal=True)
        for field in dataclasses.fields(self)[1:] if self.reversible else ():
            value = getattr(self, field.name)
            if is_concrete(value) and np.any(np.asarray(value) != field.default):
                raise ValueError(f"{field.name} = {value}, but churn = 0 adds no noise; give churn, or leave it out")

    @property
    def reversible(self) -> bool:
        """Whether churn = 0; False if it is traced."""
        return is_concrete(self.churn) and bool(np.all(np.asarray(self.churn) == 0))

    def init(self, process, x, steps):
        """γ of every step; NaN if a setting is out of range."""
        known = (self.churn >= 0) & (self.s_min <= self.s_max)
        return nan_unless(known, jnp.minimum(jnp.asarray(self.churn / steps, x.dtype), math.sqrt(2) - 1))

    def step(self, keys, denoiser, x, t, s, state, cond):
        """Raise the noise by churn, then take one trapezoidal step."""
        process: Any = denoiser.process
        gamma = state
        log_snr = process.log_snr(t)
        ratio = jnp.exp(-log_snr / 2)
        raised = process.time_at_log_snr(log_snr - 2 * jnp.log1p(gamma)).astype(t.dtype)
        churned = (gamma > 0) & (self.s_min <= ratio) & (ratio <= self.s_max) & (raised > t)
        shrink, std = (
            jnp.where(churned, c, still) for c, still in zip(transition(process, t, jnp.maximum(raised, t)), (1.0, 0.0))
        )
        x = nan_unless(gamma >= 0, shrink * x + self.s_noise * std * normal(keys, x))
        t = jnp.where(churned, raised, t)

        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.marginal(t), process.marginal(s)
        data, noise = denoiser(x, t, cond)
        ahead = alpha_s * data + sigma_s * noise
        data_ahead, noise_ahead = denoiser(ahead, jnp.where(sigma_s > 0, s, t), cond)
        corrected = (
            ahead + (alpha_s - alpha_t) / 2 * (data_ahead - data) + (sigma_s - sigma_t) / 2 * (noise_ahead - noise)
        )
        return jnp.where(sigma_s > 0, corrected, ahead), state
