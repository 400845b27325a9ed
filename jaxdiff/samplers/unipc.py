r"""UniPC: a multistep predictor, and a corrector without further evaluations (Zhao et al. 2023, arXiv 2302.04867).

With ℓ = log(α/σ) and h = ℓ_s - ℓ_t the probability flow is, exactly (Lu et al. 2022b, eq. 8),

    x_s = σ_s/σ_t x_t + α_s ∫_0^1 h e^{h(v-1)} x_0(ℓ_t + h v) dv,

and a polynomial in v through known predictions is integrated:

    UniP-p    the prediction at t, v = 0, and the p - 1 before it                               (their algorithm 2)
    UniC-p    these and the prediction at s, v = 1, made where UniP-p arrived                   (their algorithm 1)

The corrector's evaluation at (x̃_s, s) is the one the next step needs, so a step corrects the point it starts from with
the evaluation made there, then predicts: one evaluation a step, and the last point is not corrected. In Newton's form,
P = c_0 + c_1 v + c_2 v (v - r_1) + c_3 v (v - r_1)(v - r_2), with nodes r in the order v = 1 (corrector), then the
latest, the integrals follow from the moments μ of `jaxdiff.samplers.multistep`, the solution of their eq. 10, where
B(h) cancels, except where they replace the solution by a_1 = 1/2 (one node besides v = 0: UniP-2 and UniC-1). There the
weight of c_1 is μ_0/2, with their B_2(h) = e^h - 1. UniP-1 is DDIM, UniP-2 is DPM-Solver++ 2M.

A corrected step leaves an error O(h^{p+2}), the last, uncorrected one O(h^{p+1}): UniPC-p is of order p + 1 (their
theorem 3.1), as far as the short history at the start allows: the first step, UniPC-1, leaves O(h³) once, which does
not lower the order of UniPC-1 and UniPC-2; UniPC-3 is of order 4 only if that step is short. A step of infinite h
(α_t = 0, or σ_s = 0) is taken at first order and not corrected.
"""

import dataclasses

import jax.numpy as jnp

from jaxdiff.arrays import check_whole
from jaxdiff.processes import pytree
from jaxdiff.processes.grids import LogSNR
from jaxdiff.samplers.multistep import moments, over
from jaxdiff.samplers.sampler import Sampler


@pytree
@dataclasses.dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC with B_2(h) and data prediction: a multistep predictor and corrector with one network evaluation a step.

    Args:
        order: 1, 2 or 3.

    Source:
        Zhao et al. 2023, "UniPC: a unified predictor-corrector framework for fast sampling of diffusion models",
        algorithms 1 and 2.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), jd.samplers.UniPC(order=3), steps=5).shape
        (4, 1)
    """

    order: int = dataclasses.field(default=2, metadata={"static": True})

    grid = LogSNR()

    looks_back = True

    def __post_init__(self):
        check_whole("order", self.order, least=None)
        if self.order not in (1, 2, 3):
            raise ValueError(f"order = {self.order}; expected 1, 2 or 3")

    def init(self, process, x, steps):
        """The corrected x of the step before, its t, whether there was one, and the history.

        The history is the last predictions [order], newest first, and their ℓ, infinite if missing.
        """
        past = jnp.broadcast_to(jnp.zeros_like(x), (self.order, *x.shape))
        return x, jnp.ones((), x.dtype), jnp.asarray(False), past, jnp.full(self.order, -jnp.inf, x.dtype)

    def move(self, keys, process, prediction, x, t, s, state):
        """Correct x at t by the evaluation there, then predict x at s."""
        x_before, t_before, begun, past, past_ell = state
        newest, _ = prediction
        ell = process.log_snr(t) / 2
        # At the first step there is nothing to correct: x_before is x, and the step goes from t to t.
        t_before, ell_before = jnp.where(begun, t_before, t), jnp.where(begun, past_ell[0], ell)
        x = _advance(process, x_before, t_before, t, [past[0], newest, *past[1:]], [ell_before, ell, *past_ell[1:]])
        values, ells = jnp.concatenate([newest[None], past]), jnp.concatenate([ell[None], past_ell])
        ahead = _advance(process, x, t, s, [*values[: self.order]], [*ells[: self.order]])
        return ahead, (x, t, jnp.ones_like(begun), values[: self.order], ells[: self.order])


def _advance(process, x, t, s, values, ells):
    """x from t to s under the polynomial through `values` at `ells`, the first at t; an infinite ℓ is missing."""
    (_, sigma_t), (alpha_s, sigma_s) = process.marginal(t), process.marginal(s)
    h = jnp.where(t == s, 0.0, process.log_snr(s) / 2 - ells[0])
    possible = jnp.isfinite(h) & (h > 0)  # no polynomial in a step of infinite length
    there = [possible & jnp.isfinite(ell) for ell in ells]
    nodes = [over(ell - ells[0], h, there[0] & known) for ell, known in zip(ells, there)]
    count = len(nodes)

    differences, coefficients = list(values), [values[0]]
    for k in range(1, count):
        gaps = [nodes[i + k] - nodes[i] for i in range(count - k)]
        known = [there[i + k] & there[i] & (gap != 0) for i, gap in enumerate(gaps)]
        differences = [over(1.0, gap, known[i]) * (differences[i + 1] - differences[i]) for i, gap in enumerate(gaps)]
        coefficients.append(differences[0])

    mu = moments(h, count)
    weights = [mu[0]]
    if count > 1:
        alone = ~there[2] if count > 2 else True
        weights.append(jnp.where(alone, mu[0] / 2, mu[1]))
    if count > 2:
        weights.append(mu[2] - nodes[1] * mu[1])
    if count > 3:
        weights.append(mu[3] - (nodes[1] + nodes[2]) * mu[2] + nodes[1] * nodes[2] * mu[1])
    mean = sum(weight * coefficient for weight, coefficient in zip(weights, coefficients))
    return sigma_s / sigma_t * x + alpha_s * mean
