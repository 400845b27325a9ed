r"""Schedules of categories: α(t), the probability that a token is still x_0 at t, which falls from t = 0 to t = 1.

    Linear                   α = 1 - t                        Austin et al. 2021, for masks (by mutual information)
    Cosine                   α = 1 - cos(π(1 - t)/2)          Shi et al. 2024
    CosineHoogeboom(s)       α = cos(u)/cos(u_0)              u = (t + s)/(1 + s) π/2; Hoogeboom et al. 2021
    Polynomial(power)        α = 1 - t^power                  Shi et al. 2024
    Geometric(low, high)     α = exp(-low^(1 - t) high^t)     Lou et al. 2024

σ = 1 - α loses the digits of a small σ, and α = 1 - σ those of a small α. So each curve is written in a form that keeps
them, by half angles and expm1, and so are the log-odds log α/σ and their inverse.
"""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_field, check_field_above, check_instance, pytree
from jaxdiff.processes.curves import inverse


class Schedule(abc.ABC):
    """The curve α(t) of a process of categories.

    To define a schedule, write `alpha(t)` in a frozen dataclass under `@jaxdiff.pytree`. It is a plain formula that
    need not check t, and may have infinite slopes. The other methods follow; override them with formulas that keep
    their digits near both ends.

    Examples:
        >>> import dataclasses
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Late(jd.schedules.Schedule):
        ...     def alpha(self, t):
        ...         return 1 - t**2
        >>> process = jd.Absorbing(27, Late())
        >>> float(process.alpha(0.5))
        0.75
    """

    @abc.abstractmethod
    def alpha(self, t) -> jax.Array:
        """The probability that a token has not been replaced by noise at t, of the shape of `t`."""

    def sigma(self, t) -> jax.Array:
        """1 - α, the probability that a token has been replaced by noise at t."""
        return 1 - self.alpha(t)

    def log_odds(self, t) -> jax.Array:
        """log α/σ, half the log-SNR; infinite where α or σ is 0."""
        return jnp.log(self.alpha(t)) - jnp.log(self.sigma(t))

    def time_at_log_odds(self, log_odds) -> jax.Array:
        """The t in [0, 1] at which the log-odds are `log_odds`, a value within their range."""
        return inverse(lambda schedule, t: schedule.log_odds(t), self, log_odds)


@pytree
@dataclasses.dataclass(frozen=True)
class Linear(Schedule):
    """α = 1 - t: tokens become noise at a constant rate.

    For masks it is the mutual-information schedule of the source.

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces".

    Examples:
        >>> import jaxdiff as jd
        >>> float(jd.schedules.Linear().alpha(0.25))
        0.75
    """

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def log_odds(self, t):
        return jnp.log1p(-t) - jnp.log(t)

    def time_at_log_odds(self, log_odds):
        return jax.nn.sigmoid(-log_odds)


@pytree
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """α = 1 - cos(π(1 - t)/2): most tokens become noise early, and the last ones slowly.

    Source:
        Shi et al. 2024, "Simplified and generalized masked diffusion for discrete data".

    Examples:
        >>> import jaxdiff as jd
        >>> round(float(jd.schedules.Cosine().alpha(1 / 3)), 3)  # 1 - cos(60°)
        0.5
    """

    def _halves(self, t):
        """(σ from t, α from 1 - t), each accurate near the end where it is 0."""
        return jnp.sin(math.pi / 2 * t), 2 * jnp.sin(math.pi / 4 * (1 - t)) ** 2

    def alpha(self, t):
        sigma, alpha = self._halves(t)
        return jnp.where(t < 0.5, 1 - sigma, alpha)

    def sigma(self, t):
        sigma, alpha = self._halves(t)
        return jnp.where(t < 0.5, sigma, 1 - alpha)

    def time_at_log_odds(self, log_odds):
        alpha, sigma = jax.nn.sigmoid(log_odds), jax.nn.sigmoid(-log_odds)
        return 2 / math.pi * jnp.arctan2(sigma, jnp.sqrt(alpha * (1 + sigma)))


@pytree
@dataclasses.dataclass(frozen=True)
class CosineHoogeboom(Schedule):
    """α = cos(u)/cos(u_0) with u = (t + s)/(1 + s) π/2, the curve of `jaxdiff.Cosine`.

    Args:
        s: the offset of Nichol and Dhariwal 2021, 0 or more.

    Source:
        Hoogeboom et al. 2021, "Argmax flows and multinomial diffusion".

    Examples:
        >>> import jaxdiff as jd
        >>> round(float(jd.schedules.CosineHoogeboom(s=0.0).alpha(2 / 3)), 3)  # cos(60°)
        0.5
    """

    s: float = 0.008

    def __post_init__(self):
        check_field(self, "s", least=0)

    @property
    def _rate(self):
        return math.pi / 2 / (1 + self.s)

    def alpha(self, t):
        left = jnp.sin((1 - t) * self._rate) / jnp.cos(self.s * self._rate)
        return jnp.where(t < 0.5, 1 - self.sigma(t), left)

    def sigma(self, t):
        half = t / 2 * self._rate
        return 2 * jnp.sin(half) * jnp.sin(half + self.s * self._rate) / jnp.cos(self.s * self._rate)

    def time_at_log_odds(self, log_odds):
        alpha, sigma = jax.nn.sigmoid(log_odds), jax.nn.sigmoid(-log_odds)
        cos0, sin0 = (function(self.s * self._rate) for function in (jnp.cos, jnp.sin))
        lost = sigma * (1 + alpha)  # 1 - α²
        cos_u, sin_u = alpha * cos0, jnp.sqrt(sin0**2 + lost * cos0**2)
        sine = lost * cos0**2 / (sin_u * cos0 + cos_u * sin0)  # sin(u - u_0)
        return jnp.arctan2(sine, cos_u * cos0 + sin_u * sin0) / self._rate


@pytree
@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """α = 1 - t^power: a power above 1 noises tokens late, 1 is `Linear`.

    Args:
        power: the exponent, above 0.

    Source:
        Shi et al. 2024, "Simplified and generalized masked diffusion for discrete data".

    Examples:
        >>> import jaxdiff as jd
        >>> round(float(jd.schedules.Polynomial(2.0).alpha(0.5)), 3)
        0.75
    """

    power: float

    def __post_init__(self):
        check_field(self, "power", above=0)

    def alpha(self, t):
        return -jnp.expm1(self.power * jnp.log(t))

    def sigma(self, t):
        return t**self.power

    def log_odds(self, t):
        return jnp.log(self.alpha(t)) - self.power * jnp.log(t)

    def time_at_log_odds(self, log_odds):
        return jnp.exp(-jax.nn.softplus(log_odds) / self.power)


@pytree
@dataclasses.dataclass(frozen=True)
class Geometric(Schedule):
    """α = exp(-sigma_min^(1 - t) sigma_max^t), the geometric total noise of SEDD.

    α(0) is below 1 and α(1) above 0, so that x at t = 0 has a little noise: `Absorbing` does not accept this schedule.

    Args:
        sigma_min: the total noise -log α at t = 0, above 0.
        sigma_max: the total noise -log α at t = 1, above `sigma_min`.

    Source:
        Lou et al. 2024, "Discrete diffusion modeling by estimating the ratios of the data distribution".

    Examples:
        >>> import math
        >>> import jaxdiff as jd
        >>> schedule = jd.schedules.Geometric(sigma_min=0.01, sigma_max=100.0)
        >>> round(-math.log(float(schedule.alpha(0.5))), 3)  # the geometric mean
        1.0
    """

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self):
        check_field(self, "sigma_min", above=0)
        check_field(self, "sigma_max", above=0)
        message = "sigma_min = {low} is not below sigma_max = {high}; swap them"
        check_field_above(self, "sigma_max", "sigma_min", message)

    def _total(self, t):
        return jnp.exp((1 - t) * jnp.log(self.sigma_min) + t * jnp.log(self.sigma_max))

    def alpha(self, t):
        return jnp.exp(-self._total(t))

    def sigma(self, t):
        total = self._total(t)
        return jnp.where(total < 1, -jnp.expm1(-jnp.minimum(total, 1.0)), 1 - jnp.exp(-total))

    def log_odds(self, t):
        total = self._total(t)
        return -total - jnp.log(-jnp.expm1(-total))

    def time_at_log_odds(self, log_odds):
        low, high = jnp.log(self.sigma_min), jnp.log(self.sigma_max)
        return (jnp.log(jax.nn.softplus(-log_odds)) - low) / (high - low)


def check_schedule(schedule) -> None:
    """Raise TypeError if `schedule` is not a schedule."""
    check_instance("schedule", schedule, Schedule, "one of jaxdiff.schedules, such as Linear()")
