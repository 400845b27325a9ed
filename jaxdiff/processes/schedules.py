r"""Schedules of categories: how likely a token is to be still x_0 at t, the curve α that falls from t = 0 to t = 1.

    Linear                   α = 1 - t                        Austin et al. 2021, for masks (by mutual information)
    Cosine                   α = 1 - cos(π(1 - t)/2)          Shi et al. 2024
    CosineHoogeboom(s)       α = cos(u)/cos(u_0)              u = (t + s)/(1 + s) π/2; Hoogeboom et al. 2021
    Polynomial(power)        α = 1 - t^power                  Shi et al. 2024
    Geometric(low, high)     α = exp(-low^(1 - t) high^t)     Lou et al. 2024

σ = 1 - α loses the digits of a small σ, and α = 1 - σ those of a small α. So each curve is written in the form that
keeps them, by half angles and expm1, and with them the log-odds log α/σ and the time at which they have a value.
"""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_field, check_field_above, check_instance, pytree
from jaxdiff.processes.curves import inverse


class Schedule(abc.ABC):
    """The curve α(t) of categories, written as a formula: it need not check t, and may have infinite slopes.

    One of your own is a frozen dataclass under `@jaxdiff.pytree` with `alpha(t)`, of the shape of t. The rest follows;
    override it by formulas that keep their digits near both ends. A process asks it, and checks t.

        @jd.pytree
        @dataclasses.dataclass(frozen=True)
        class Late(jd.schedules.Schedule):
            def alpha(self, t):
                return 1 - t**2

        process = jd.Absorbing(27, Late())
    """

    @abc.abstractmethod
    def alpha(self, t) -> jax.Array:
        """The probability that a token is x_0 at t, without what the noise has in common with it."""

    def sigma(self, t) -> jax.Array:
        """1 - α: the probability that a token is drawn from the noise."""
        return 1 - self.alpha(t)

    def slope(self, t) -> jax.Array:
        """dσ/dt = -dα/dt, the rate at which tokens become noise."""
        t = jnp.asarray(t, jnp.result_type(t, float))
        return jax.jvp(self.sigma, (t,), (jnp.ones_like(t),))[1]

    def log_odds(self, t) -> jax.Array:
        """log α/σ, half the log-SNR; infinite where one of them is 0."""
        return jnp.log(self.alpha(t)) - jnp.log(self.sigma(t))

    def time_at_log_odds(self, log_odds) -> jax.Array:
        """The t in [0, 1] with these log-odds, which the schedule has somewhere."""
        return inverse(lambda schedule, t: schedule.log_odds(t), self, log_odds)


@pytree
@dataclasses.dataclass(frozen=True)
class Linear(Schedule):
    """α = 1 - t: as many tokens become noise at every t.

    Of masks it is the mutual-information schedule of Austin et al. 2021 ("Structured denoising diffusion models in
    discrete state-spaces").
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

    (Shi et al. 2024, "Simplified and generalized masked diffusion for discrete data".)
    """

    def _halves(self, t):
        """σ by t and α by 1 - t, each exact near its end."""
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

    (Hoogeboom et al. 2021, "Argmax flows and multinomial diffusion"; s of Nichol and Dhariwal 2021.)
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
    """α = 1 - t^power; 1 is `Linear`, above 1 tokens become noise late (Shi et al. 2024)."""

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
    """α = exp(-sigma_min^(1 - t) sigma_max^t), the total noise of Lou et al. 2024.

    ("Discrete diffusion modeling by estimating the ratios of the data distribution".)

    α(0) is below 1 and α(1) above 0: x at t = 0 has a little noise, and `Absorbing` refuses it.
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
    """Raise TypeError for what is no schedule."""
    check_instance("schedule", schedule, Schedule, "one of jaxdiff.schedules, such as Linear()")
