"""Guidance by a measurement y = A(x_0) + s n: a denoiser of p(x_0 | y), made of one of p(x_0)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import along_batch, check_instance, expand_time, is_concrete, pytree
from jaxdiff.denoisers.bridge import is_of_bridge
from jaxdiff.denoisers.denoiser import DenoiserLike, check_numbers
from jaxdiff.denoisers.guidance.measurement import OfMeasurement
from jaxdiff.denoisers.guidance.saturation import with_data
from jaxdiff.denoisers.guidance.scale import Interval, Scale, Scaled, scale_at
from jaxdiff.denoisers.guidance.spreads import Around, Moment, Spread
from jaxdiff.processes import Prediction

_LEAST = 1e-3


@pytree
@dataclasses.dataclass(frozen=True)
class Observed(OfMeasurement, Scaled):
    """The denoiser of p(x_0 | y): E[x_0 | x_t, y] for a measurement y = operator(x_0) + noise_std n, n standard normal.

        guided = jd.guidance.Observed(denoiser, jd.guidance.operators.average(4), noise_std=0.1)
        x = jd.sample(key, guided, (16, 32, 32, 3), cond=y)                                    y [16, 8, 8, 3]

    The prediction x̂_0 = E[x_0 | x_t] moves by scale W Hᵀ (s² I + H U Hᵀ)⁻¹ (y - A(x̂_0)), with H the operator's
    derivative at x̂_0 and s = noise_std. `spread` chooses W and U (`jaxdiff.denoisers.guidance.spreads` has the table);
    `Moment()` is exact for Gaussian data. The result is a denoiser like any other: samplers, `encode` and
    likelihoods take it.

    - `cond`: y [n, *measurement], or {"y": y, "cond": what the denoiser takes, "operator": parameters}, of which only y
      is required. A class or a text for the denoiser is given as "cond".
    - `operator(x0)` is called on one example, without a batch axis, or `operator(x0, parameters)` where cond has
      "operator", leaves [n, ...], such as one mask an example. A nonlinear operator is linearised at x̂_0. A plain
      function is compiled into the program; the leaves of a callable pytree, such as those of
      `jaxdiff.guidance.operators`, are arguments of the program.
    - `noise_std` is a number of 0 or more, or one an example. For 0 the measurement is fitted by least squares.
      `Point` requires a number above 0.
    - `scale` is a number or an `Interval`; 1 is Bayes' rule.

    At t = 0 of a process that ends at clean data the prediction does not move. Where α/σ is below 0.001, as at t = 1 of
    Flow and Cosine, the derivative of x̂_0 is lost in rounding: spreads that need it are then evaluated where α/σ =
    0.001. `Proximal` and `Prior` do not need it.

    Raises TypeError for a bridge, a process that is not of numbers, an operator that takes other arguments, or a y
    that does not hold floating values; ValueError for a y of another shape than operator(x_0), a noise_std below 0, or
    0 under `Point`; and what the denoiser raises.
    """

    denoiser: DenoiserLike
    operator: Callable[..., jax.Array]
    noise_std: float
    spread: Spread = Moment()
    scale: Scale | Interval = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self.denoiser, "Observed")
        if is_of_bridge(self.denoiser):
            raise TypeError(
                "denoiser is a bridge, whose x_t is not data and Gaussian noise; expected a denoiser of such"
            )
        check_instance("spread", self.spread, Spread, "one of jaxdiff.guidance's, such as Moment() or Isotropic(0.5)")
        self._check_measurement(self.spread)

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """The denoiser, with the part "cond"."""
        return [(self.denoiser, self._measurement.read(cond).cond)]

    def check_cond(self, cond) -> None:
        """Raise for a missing y, a y that is not finite, and a part "cond" that the denoiser does not take."""
        y = self._measurement.read(cond).y
        if is_concrete(y) and not np.isfinite(np.asarray(y)).all():
            raise ValueError(
                "y holds a NaN or an infinity; what was not measured goes into the operator, as mask(mask)"
            )
        super().check_cond(cond)

    def __call__(self, x, t, cond=None) -> Prediction:
        process: Any = self.process
        x, t = process.at(x, t)
        measurement = self._measurement
        observation = measurement.read(cond)
        measurement.check(x, observation)
        noise_variance = measurement.noise_variance(observation.y).astype(x.dtype)
        scale = along_batch(scale_at(self.scale, process, t, x, 0.0), x, "scale")
        near, lost = self._asked_at(t)
        asked = expand_time(process.scale(near) / process.scale(t), x) * x
        alpha, sigma = (expand_time(c, x) for c in process.marginal(near))

        def ask(x):
            predicted = self.denoiser(x, near, observation.cond)
            return predicted.data, predicted

        covariance = transposed = None
        if self.spread.differentiates:
            data, jacobian, predicted = jax.linearize(ask, asked, has_aux=True)
            back = jax.linear_transpose(jacobian, asked)
            covariance = lambda v: sigma**2 / alpha * jacobian(v)
            transposed = lambda v: sigma**2 / alpha * back(v)[0]
        else:
            data, predicted = ask(asked)
        measured = measurement.linearised(data, observation)
        move = self.spread.move(Around(measured, noise_variance, alpha, sigma, covariance, transposed))
        data = data + scale * move
        guided = with_data(process, predicted, data, near)
        alpha, sigma = (expand_time(c, x) for c in process.marginal(t))
        noise = jnp.where(expand_time(lost, x), (x - alpha * data) / jnp.where(sigma > 0, sigma, 1.0), guided.noise)
        return dataclasses.replace(guided, noise=noise)

    def _asked_at(self, t) -> tuple[jax.Array, jax.Array]:
        """The time at which the denoiser is evaluated, and whether it differs from `t`."""
        log_snr = self.process.log_snr(t)
        least = jnp.asarray(2 * math.log(_LEAST), log_snr.dtype)
        lost = (log_snr < least) & self.spread.differentiates
        return jnp.where(lost, self.process.time_at_log_snr(least), t), lost
