r"""A schedule that can be learned: variance preserving, its log-SNR monotone between two ends that stay.

The variational bound in continuous time sees a process only through the two ends of its log-SNR: the path between them
moves how the estimate of the loss scatters, not what it is of (Kingma et al. 2021, "Variational diffusion models",
section 5.1). So the ends are two numbers and the path is

    λ(t) = (1 - w(t)) λ_max + w(t) λ_min,        w(0) = 0, w(1) = 1, w' > 0.

There w' is positive and linear between K + 1 equally spaced knots, with values ∝ exp(logits), and w its integral
divided by its total: monotone for any logits, 0 and 1 at the ends to the bit. A linear w' makes λ' continuous, as f and
g of the SDE want it, and w a parabola between two knots, so that t(λ) is the root of a quadratic. The paper's monotone
network (appendix H) says no more of a curve that is smooth on the scale of 1/K, and has no inverse in closed form,
which grids, adaptive solvers and importance sampling all ask for.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_field, check_field_above, pytree, rebuilt
from jaxdiff.processes.gaussian import Gaussian


@pytree
@dataclasses.dataclass(frozen=True)
class LearnedVP(Gaussian):
    """Variance preserving with a learned log-SNR from `log_snr_max` at t = 0 to `log_snr_min` at t = 1.

    `logits` [K + 1] shape the path: -dλ/dt at the knots k/K, up to a factor, is exp(logits); zeros are the straight
    line. The default ends are those of Kingma et al. 2021. As under VE, x at t = 0 is data with a little noise.

    They learn the path by the gradient of the squared loss, which has the same mean under every path and so moves its
    variance alone (section 5.1 and appendix I). `params` are what of it learns, the logits; the ends stay:

        loss = jd.losses.Denoising(jd.losses.weightings.Likelihood(), jd.losses.times.Stratified(t_min=0.0))
        both = jd.denoisers.WithProcess(denoiser)
        both = jd.training.train(key, folder, both, jd.losses.LeastVariance(loss), batches, steps=10_000)

    Raises ValueError for ends that do not fall or fewer than two logits.
    """

    log_snr_max: float = 13.3
    log_snr_min: float = -5.0
    logits: np.ndarray | jax.Array = dataclasses.field(default_factory=lambda: np.zeros(33))

    def __post_init__(self):
        check_field(self, "log_snr_max")
        check_field(self, "log_snr_min")
        message = "log_snr_max = {high} is not above log_snr_min = {low}; swap them"
        check_field_above(self, "log_snr_max", "log_snr_min", message)
        check_field(self, "logits")
        shape = np.shape(self.logits)
        if len(shape) != 1 or shape[0] < 2:
            raise ValueError(f"logits have shape {shape}; expected [K + 1] for K >= 1 parts of [0, 1]")

    @property
    def params(self) -> np.ndarray | jax.Array:
        """What of it learns: the logits."""
        return self.logits

    def with_params(self, params) -> "LearnedVP":
        """The same ends with other logits."""
        return rebuilt(self, logits=params)

    def _path(self):
        """dw/dt at the knots, [K + 1], and w there, from 0 to 1."""
        height = jax.nn.softmax(jnp.asarray(self.logits))
        area = jnp.cumsum((height[:-1] + height[1:]) / 2)
        return height * (len(area) / area[-1]), jnp.concatenate([jnp.zeros(1), area / area[-1]])

    def _part(self, part):
        """dw/dt at the two ends of a part of [0, 1], and w at its first; the last knot is a part of its own."""
        slope, w = self._path()
        return slope[part], slope[jnp.minimum(part + 1, len(w) - 1)], w[part]

    def _curve(self, t):
        """(w, dw/dt) at t."""
        parts = len(self.logits) - 1
        part = jnp.clip(jnp.floor(t * parts), 0, parts).astype(int)
        first, last, w = self._part(part)
        along = t * parts - part.astype(t.dtype)
        return w + along * (first + along * (last - first) / 2) / parts, first + along * (last - first)

    def _fall(self, t):
        w, _ = self._curve(t)
        return (1 - w) * self.log_snr_max + w * self.log_snr_min

    prior_std = 1.0  # pyright: ignore[reportAssignmentType]

    def alpha(self, t):
        return jnp.sqrt(jax.nn.sigmoid(self._fall(t)))

    def sigma(self, t):
        return jnp.sqrt(jax.nn.sigmoid(-self._fall(t)))

    def log_snr(self, t):
        return self._fall(t)

    def time_at_log_snr(self, log_snr):
        parts = len(self.logits) - 1
        w = (self.log_snr_max - log_snr) / (self.log_snr_max - self.log_snr_min)
        part = jnp.clip(jnp.searchsorted(self._path()[1], w, side="right") - 1, 0, parts)
        first, last, before = self._part(part)
        area = (w - before) * parts
        root = jnp.sqrt(jnp.maximum(first**2 + 2 * (last - first) * area, 0.0))
        return (part.astype(area.dtype) + 2 * area / (first + root)) / parts

    def sde(self, t):
        fall = (self.log_snr_max - self.log_snr_min) * self._curve(t)[1]  # -λ'
        rate = fall * jax.nn.sigmoid(-self._fall(t))
        return -rate / 2, jnp.sqrt(rate)
