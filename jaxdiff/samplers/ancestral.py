r"""Ancestral sampling and DDIM: one draw from q(x_s | x_t, x_0) with the denoiser's x_0 in it.

Of numbers (Ho et al. 2020, algorithm 2) that is x_s ~ N(c_x x_t + c_data x_0, std²), the posterior of the process, or
with the larger std of q(x_t | x_s) (their σ_t² = β_t, the right one for data of unit variance), or one learned between
the two (Nichol and Dhariwal 2021, eq. 15; `jaxdiff.processes.gaussian`). Of categories x_0 is drawn first, which is the
exact mixture (Austin et al. 2021, eq. 4). Song et al. 2021 ("Denoising diffusion implicit models", eq. 12) keep the
marginals of numbers for any share η of that noise:

    x_s = α_s x_0 + √(σ_s² - η² std²) ε + η std z.

η = 0 is the deterministic DDIM, η = 1 is ancestral sampling with the small variance.

Wang et al. 2025 ("Remasking discrete diffusion models with inference-time scaling", eq. 6) keep the marginals of masks
where what is seen becomes a mask again with a probability ρ: at s a share α_t (1 - ρ) is seen of what was seen at t, so
that each mask is shown with

    (α_s - (1 - ρ) α_t)/(1 - α_t) <= 1,     that is,     ρ <= min(1, (1 - α_s)/α_t).

ρ = `remask` times that bound is their rescaled schedule (section 4.1). What was set early, in a poor context, is drawn
again in a better one, for which the run needs more steps.
"""

import dataclasses
from typing import Any, Literal

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
    """Ancestral sampling of any process: one step back at a time (Ho et al. 2020, algorithm 2).

    `variance` of numbers is "small" (the posterior's), "large" (β_t) or "learned" (Nichol and Dhariwal 2021), of a
    denoiser trained by `jaxdiff.losses.Hybrid`; categories have none beside "small".

    `remask` of masks, a number in [0, 1], masks again what is seen, with that share of the largest probability that
    keeps the marginals (Wang et al. 2025); what is seen at the start of a run stays. None, the default, and 0 mask
    nothing again. Raises TypeError, when it is run, for a `remask` of a process without masks.
    """

    variance: Literal["small", "large", "learned"] = dataclasses.field(default="small", metadata={"static": True})
    remask: float | None = None

    def __post_init__(self):
        check_variance(self.variance)
        if self.remask is not None:
            check_field(self, "remask", least=0, most=1, noun="a share")

    def check_process(self, process) -> None:
        """Every process can step back; TypeError where `remask` is of one without masks."""
        check_process(process)
        if self.remask is not None:
            check_absorbing(process, "remask", "leave it out")

    def init(self, denoiser, x, steps):
        """Which values of x are data, and stay, where values are masked again."""
        process: Any = denoiser.process
        return () if self.remask is None else process.known(x)

    def move(self, keys, process, prediction, x, t, s, state):
        """One draw of x_s given x_t and what the denoiser says of x_0."""
        prediction = with_variance(prediction, self.variance)
        if self.remask is None:
            return process.reverse(keys, prediction, x, t, s), state
        return process.remasked(keys, prediction, x, t, s, jnp.where(state, 0.0, self.remask)), state


@pytree
@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, eq. 12) with `eta` in [0, 1]: 0 deterministic and of first order, 1 ancestral."""

    eta: float = 0.0

    def __post_init__(self):
        check_field(self, "eta", least=0, most=1, noun="a share of the noise")

    @property
    def reversible(self) -> bool:
        """η = 0, as far as that can be seen."""
        return is_concrete(self.eta) and bool(np.all(np.asarray(self.eta) == 0))

    def move(self, keys, process, prediction, x, t, s, state):
        """Recombine the predicted data and noise at s."""
        data, noise = prediction
        alpha, sigma = process.marginal(s)
        std = self.eta * posterior(process, jnp.minimum(s, t), t)[2]
        kept = ends.sqrt(sigma**2 - std**2)
        return alpha * data + kept * noise + std * normal(keys, x), state
