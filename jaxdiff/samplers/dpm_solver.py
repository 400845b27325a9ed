r"""DPM-Solver++ multistep (Lu et al. 2022, arXiv 2211.01095; the SDE form is their eq. 18).

With ℓ = log(α/σ) and h = ℓ_s - ℓ_t the probability flow is, exactly (their eq. 8),

    x_s = σ_s/σ_t x_t + α_s ∫_0^h exp(u - h) x_0(ℓ_t + u) du

and a polynomial through the last predictions D_0, D_1, D_2 of x_0, at distances r_0 h and r_1 h, is integrated:

    2M   x_s = σ_s/σ_t x_t + α_s φ_1 (D_0 + (D_0 - D_1)/(2 r_0))                       (algorithm 2)
    3M   x_s = σ_s/σ_t x_t + α_s (μ_0 D_0 + μ_1 (Δ + r_0 Δ²) + μ_2 Δ²)                  (Newton's polynomial, exactly)
         φ_1 = μ_0 = 1 - e^{-h},   μ_k = 1 - k μ_{k-1}/h,   Δ = h D[0, 1],   Δ² = h² D[0, 1, 2]

    SDE  x_s = σ_s/σ_t e^{-h} x_t + α_s (1 - e^{-2h}) (D_0 + (D_0 - D_1)/(2 r_0)) + σ_s √(1 - e^{-2h}) z

The first steps have no history: the first is of first order (DDIM), the second of second. One first-order step leaves
an error of O(h²), so on equal steps 2M is of order 2 and 3M too, with a far smaller constant; 3M is of order 3 where
the first two steps are short enough. A step of infinite h (α_t = 0, or σ_s = 0) is taken at first order.
"""

import dataclasses

import jax.numpy as jnp

from jaxdiff.arrays import check_flag, check_whole, normal
from jaxdiff.processes import pytree
from jaxdiff.processes.grids import LogSNR
from jaxdiff.samplers.multistep import moments, over
from jaxdiff.samplers.sampler import Sampler


@pytree
@dataclasses.dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++ multistep for the probability flow or the reverse SDE; the default sampler of `jaxdiff.sample`.

    It takes one network evaluation a step.

    Args:
        order: 1 (DDIM), 2 or 3.
        sde: solve the reverse SDE, with `order` 1 or 2.

    Source:
        Lu et al. 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models", algorithm 2.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), jd.samplers.DPMSolverPP(order=3), steps=5).shape
        (4, 1)
    """

    order: int = dataclasses.field(default=2, metadata={"static": True})
    sde: bool = dataclasses.field(default=False, metadata={"static": True})

    grid = LogSNR()

    def __post_init__(self):
        check_whole("order", self.order, least=None)
        check_flag("sde", self.sde)
        if self.order not in (1, 2, 3) or (self.sde and self.order == 3):
            raise ValueError(
                f"order = {self.order}, sde = {self.sde}; expected order 1, 2 or 3, and 1 or 2 with sde=True"
            )

    @property
    def looks_back(self) -> bool:
        """True for order 2 and 3."""
        return self.order > 1

    def init(self, process, x, steps):
        """An empty history: the last predictions of x_0 [order - 1], newest first, and their ℓ, -inf if missing."""
        history = self.order - 1
        return jnp.broadcast_to(jnp.zeros_like(x), (history, *x.shape)), jnp.full(history, -jnp.inf, x.dtype)

    def move(self, keys, process, prediction, x, t, s, state):
        """One multistep step; terms without a history are left out."""
        past, past_ell = state
        (_, sigma_t), (alpha_s, sigma_s) = process.marginal(t), process.marginal(s)
        ell_t, ell_s = process.log_snr(t) / 2, process.log_snr(s) / 2
        h = ell_s - ell_t
        newest, _ = prediction

        # Divided differences times powers of h; zero if an end of an interval is missing or infinite.
        nodes, values = [ell_t, *past_ell], [newest, *past]
        there = [jnp.isfinite(h) & jnp.isfinite(node) for node in nodes]
        first = [
            over(h, nodes[i] - nodes[i + 1], there[i] & there[i + 1]) * (values[i] - values[i + 1])
            for i in range(self.order - 1)
        ]
        if self.order < 3:
            lost = -jnp.expm1(-(1 + self.sde) * h)
            mean = newest + first[0] / 2 if first else newest
            shrink = sigma_s / sigma_t * (jnp.exp(-h) if self.sde else 1.0)
            x = shrink * x + alpha_s * lost * mean
            if self.sde:
                x = x + sigma_s * jnp.sqrt(lost) * normal(keys, x)
        else:
            second = over(h, nodes[0] - nodes[2], there[0] & there[2]) * (first[0] - first[1])
            slope = first[0] + over(nodes[0] - nodes[1], h, there[0] & there[1]) * second
            mean = sum(mu * part for mu, part in zip(moments(h, 3), (newest, slope, second)))
            x = sigma_s / sigma_t * x + alpha_s * mean
        past = jnp.concatenate([newest[None], past])[: self.order - 1]
        return x, (past, jnp.concatenate([ell_t[None], past_ell])[: self.order - 1])
