r"""A learned schedule: variance preserving, with a log-SNR that is monotone between two fixed ends.

The variational bound in continuous time depends on a process only through the two ends of its log-SNR: the path between
them changes the variance of the estimate of the loss, not its mean (Kingma et al. 2021, "Variational diffusion models",
section 5.1). So the ends are two numbers and the path is

    λ(t) = (1 - w(t)) λ_max + w(t) λ_min,        w(0) = 0, w(1) = 1, w' > 0.

Here w' is positive and linear between K + 1 equally spaced knots, with values ∝ exp(logits), and w is its integral
divided by its total: monotone for any logits, and exactly 0 and 1 at the ends. A piecewise linear w' makes λ'
continuous, as f and g of the SDE require, and w a parabola between two knots, so that t(λ) is the root of a quadratic.
The paper's monotone network (appendix H) is no more expressive for a curve that is smooth on the scale of 1/K, and has
no inverse in closed form, which grids, adaptive solvers and importance sampling all need.
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
    """A variance-preserving process whose log-SNR is learned, between fixed values at t = 0 and t = 1.

    Train the logits together with the network by `jaxdiff.losses.LeastVariance` on a `jaxdiff.denoisers.WithProcess`:
    they learn the path that minimises the variance of the loss. As in `VE`, x at t = 0 has a little noise.

    Args:
        log_snr_max: the log-SNR at t = 0; the defaults of both ends are those of the paper.
        log_snr_min: the log-SNR at t = 1, below `log_snr_max`.
        logits: shape `[K + 1]`; -dλ/dt at the knots k/K is proportional to exp(logits), and zeros are a straight line.

    Raises:
        ValueError: if the ends do not decrease, or there are fewer than two logits.

    Source:
        Kingma et al. 2021, "Variational diffusion models", section 5.1 and appendix I.

    Examples:
        >>> import jaxdiff as jd
        >>> process = jd.LearnedVP(log_snr_max=10.0, log_snr_min=-10.0)
        >>> round(float(process.log_snr(0.75)), 3)  # zero logits: a straight line
        -5.0
        >>> process.params.shape
        (33,)
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
        """The learned parameters: the logits."""
        return self.logits

    def with_params(self, params) -> "LearnedVP":
        """The process with other logits and the same ends."""
        return rebuilt(self, logits=params)

    def _path(self):
        """(dw/dt, w) at the knots, each [K + 1]; w goes from 0 to 1."""
        height = jax.nn.softmax(jnp.asarray(self.logits))
        area = jnp.cumsum((height[:-1] + height[1:]) / 2)
        return height * (len(area) / area[-1]), jnp.concatenate([jnp.zeros(1), area / area[-1]])

    def _part(self, part):
        """dw/dt at both ends of the interval number `part`, and w at its first; the last knot is an empty interval."""
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
