r"""Ancestral sampling and DDIM: one draw from q(x_s | x_t, x_0) with the denoiser's x_0 in it.

For numbers (Ho et al. 2020, algorithm 2) that is x_s ~ N(c_x x_t + c_data x_0, std²). std is that of the process's
posterior, or the larger one of q(x_t | x_s) (their σ_t² = β_t, right for data of unit variance), or learned between the
two (Nichol and Dhariwal 2021, eq. 15; `jaxdiff.processes.gaussian`). For categories x_0 is drawn first, which gives the
exact mixture (Austin et al. 2021, eq. 4). Song et al. 2021 ("Denoising diffusion implicit models", eq. 12) keep the
marginals of numbers for any share η of that noise:

    x_s = α_s x_0 + √(σ_s² - η² std²) ε + η std z.

η = 0 is the deterministic DDIM, η = 1 is ancestral sampling with the small variance.

Wang et al. 2025 ("Remasking discrete diffusion models with inference-time scaling", eq. 6) keep the marginals of a
masking process although each visible value is masked again with a probability ρ: a share α_t (1 - ρ) of the values is
visible at t and still at s, so that each mask is revealed with probability

    (α_s - (1 - ρ) α_t)/(1 - α_t) <= 1,     that is,     ρ <= min(1, (1 - α_s)/α_t).

ρ = `remask` times that bound is their rescaled schedule (section 4.1). Values that were drawn early, in a poor context,
are drawn again in a better one, which takes more steps.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_field, normal
from jaxdiff.processes import (
    check_absorbing,
    check_process,
    check_variance,
    ends,
    is_concrete,
    posterior,
    pytree,
    with_variance,
)
from jaxdiff.samplers.sampler import Sampler


@pytree
@dataclasses.dataclass(frozen=True)
class Ancestral(Sampler):
    """Ancestral sampling: each step draws x_s from q(x_s | x_t, x_0) with the denoiser's prediction of x_0.

    It runs on every process.

    Args:
        variance: variance of a step for numbers: "small" (the posterior's), "large" (β_t), or "learned" for a denoiser
            trained by `jaxdiff.losses.Hybrid` (Nichol and Dhariwal 2021). Categories have only "small".
        remask: for masking processes, a number in [0, 1]: visible values are masked again with this share of the
            largest probability that keeps the marginals (Wang et al. 2025). Values of `x_start` that are not masks are
            never masked. None (default) and 0 remask nothing.

    Raises:
        TypeError: when run, if `remask` is given and the process has no masks.

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", algorithm 2.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> sampler = jd.samplers.Ancestral(variance="large")
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), sampler, steps=5).shape
        (4, 1)
    """

    variance: Literal["small", "large", "learned"] = dataclasses.field(default="small", metadata={"static": True})
    remask: float | None = None

    def __post_init__(self):
        check_variance(self.variance)
        if self.remask is not None:
            check_field(self, "remask", least=0, most=1, noun="a share")

    def check_process(self, process) -> None:
        """Raise TypeError if `remask` is given and the process has no masks."""
        check_process(process)
        if self.remask is not None:
            check_absorbing(process, "remask", "leave it out")

    def init(self, process, x, steps):
        """Which values of x are data and must stay; only with `remask`."""
        return () if self.remask is None else process.known(x)

    def move(self, keys, process, prediction, x, t, s, state):
        """Draw x_s given x_t and the prediction of x_0."""
        prediction = with_variance(prediction, self.variance)
        if self.remask is None:
            return process.reverse(keys, prediction, x, t, s), state
        return process.remasked(keys, prediction, x, t, s, jnp.where(state, 0.0, self.remask)), state


@pytree
@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM, a sampler of first order: deterministic for `eta` = 0, ancestral sampling with the small variance for 1.

    Args:
        eta: share of the ancestral step's noise, in [0, 1].

    Source:
        Song et al. 2021, "Denoising diffusion implicit models", eq. 12.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), jd.samplers.DDIM(), steps=5).shape
        (4, 1)
    """

    eta: float = 0.0

    def __post_init__(self):
        check_field(self, "eta", least=0, most=1, noun="a share of the noise")

    @property
    def reversible(self) -> bool:
        """Whether η = 0; False if it is traced."""
        return is_concrete(self.eta) and bool(np.all(np.asarray(self.eta) == 0))

    def move(self, keys, process, prediction, x, t, s, state):
        """Combine the predicted data and noise at s."""
        data, noise = prediction
        alpha, sigma = process.marginal(s)
        std = self.eta * posterior(process, jnp.minimum(s, t), t)[2]
        kept = ends.sqrt(sigma**2 - std**2)
        return alpha * data + kept * noise + std * normal(keys, x), state
