r"""The named processes of numbers.

With B(t) = ∫₀ᵗ β, the variance-preserving family (Song et al. 2021, "Score-based generative modeling through SDEs",
eq. 32-33 and appendix B, C) is

    VP      dx = -β/2 x dt + √β dw                      α = exp(-B/2)   σ = √(1 - exp(-B))    λ = -log(exp(B) - 1)
    SubVP   dx = -β/2 x dt + √(β (1 - exp(-2B))) dw     α = exp(-B/2)   σ = 1 - exp(-B)       λ = -2 log(2 sinh(B/2))

For β linear in t, B = β_min t + (β_max - β_min) t²/2, so α of VP is exp(-t² (β_max - β_min)/4 - t β_min/2), with half
the exponent that is sometimes copied. SubVP's standard deviation is 1 - exp(-B) itself; its square root is VP's.

A table of T DDPM steps is the same process with a piecewise constant β: B(k/T) = -Σ_{j<=k} log(1 - β_j), which gives
ᾱ_k = α(k/T)² exactly at every step (Ho et al. 2020, eq. 4).

The cosine schedule (Nichol and Dhariwal 2021, eq. 17) has ᾱ = cos²(u)/cos²(u_0), u = (t + s)/(1 + s) π/2: squared, and
divided by its value at t = 0. 1 - ᾱ = sin(u - u_0) sin(u + u_0)/cos²(u_0) needs no difference of near numbers.
"""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_array, check_field, check_field_above, check_number, is_concrete, pytree
from jaxdiff.processes.gaussian import Gaussian


def _check_rising(low: str, high: str, process: Gaussian) -> None:
    """Raise unless 0 < `low` < `high`, two fields of `process`."""
    check_field(process, low, above=0)
    check_field(process, high, above=0)
    check_field_above(process, high, low, f"{low} = {{low}} is not below {high} = {{high}}; swap them")


class _Decaying(Gaussian):
    """Drift -β/2 x and α = exp(-B/2), given B(t) = ∫₀ᵗ β, its derivative β(t), and its inverse."""

    @abc.abstractmethod
    def _integral(self, t) -> jax.Array: ...

    @abc.abstractmethod
    def _rate(self, t) -> jax.Array: ...

    @abc.abstractmethod
    def _inverse(self, integral) -> jax.Array: ...

    prior_std = 1.0  # pyright: ignore[reportAssignmentType]

    def alpha(self, t):
        return jnp.exp(-self._integral(t) / 2)


class _VariancePreserving(_Decaying):
    """α² + σ² = 1."""

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))

    def log_snr(self, t):
        integral = self._integral(t)
        return -integral - jnp.log(-jnp.expm1(-integral))

    def time_at_log_snr(self, log_snr):
        return self._inverse(jax.nn.softplus(-log_snr))

    def sde(self, t):
        rate = self._rate(t)
        return -rate / 2, jnp.sqrt(rate)


@dataclasses.dataclass(frozen=True)
class _LinearBeta(_Decaying):
    """β(t) = β_min + t (β_max - β_min)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        check_field(self, "beta_min", above=0)
        check_field(self, "beta_max", above=0)

    def _integral(self, t):
        return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

    def _rate(self, t):
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _inverse(self, integral):
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * integral))


@pytree
@dataclasses.dataclass(frozen=True)
class VP(_LinearBeta, _VariancePreserving):
    """The variance-preserving process with linear β(t), the continuous DDPM: α² + σ² = 1.

    Args:
        beta_min: β(0), above 0.
        beta_max: β(1), above 0.

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", eq. 32-33.

    Examples:
        >>> import jaxdiff as jd
        >>> process = jd.VP(beta_min=0.1, beta_max=20.0)
        >>> alpha, sigma = process.marginal(0.3)
        >>> round(float(alpha**2 + sigma**2), 3)
        1.0
    """


def OU(beta: float = 10.0) -> VP:
    """The Ornstein-Uhlenbeck process dx = -β/2 x dt + √β dw: `VP` with a constant β.

    Args:
        beta: the rate β, above 0.

    Returns:
        `VP(beta, beta)`.

    Examples:
        >>> import math
        >>> import jaxdiff as jd
        >>> process = jd.OU(beta=10.0)
        >>> round(float(process.alpha(0.5) / math.exp(-2.5)), 3)  # alpha = exp(-beta t/2)
        1.0
    """
    beta = check_number("beta", beta, above=0)
    return VP(beta, beta)


@pytree
@dataclasses.dataclass(frozen=True)
class SubVP(_LinearBeta):
    """The sub-variance-preserving process with linear β(t): α of `VP`, and σ = 1 - α².

    Args:
        beta_min: β(0), above 0.
        beta_max: β(1), above 0.

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", appendix B, eq. 28-29.

    Examples:
        >>> import jaxdiff as jd
        >>> alpha, sigma = jd.SubVP().marginal(0.3)
        >>> round(float(alpha**2 + sigma), 3)
        1.0
    """

    def sigma(self, t):
        return -jnp.expm1(-self._integral(t))

    def log_snr(self, t):
        integral = self._integral(t)
        return -integral - 2 * jnp.log(-jnp.expm1(-integral))

    def time_at_log_snr(self, log_snr):
        return self._inverse(2 * jnp.arcsinh(jnp.exp(-log_snr / 2) / 2))

    def sde(self, t):
        rate = self._rate(t)
        return -rate / 2, jnp.sqrt(-rate * jnp.expm1(-2 * self._integral(t)))


@pytree
@dataclasses.dataclass(frozen=True)
class _Table(_VariancePreserving):
    """VP with a piecewise constant β; `cumulative` [T + 1] holds B(k/T)."""

    cumulative: np.ndarray | jax.Array

    @property
    def _times(self):
        return jnp.linspace(0.0, 1.0, self.cumulative.shape[0])

    def _integral(self, t):
        cumulative = jnp.asarray(self.cumulative)
        steps = len(cumulative) - 1
        step = jnp.clip(jnp.floor(t * steps), 0, steps - 1).astype(int)
        below = cumulative[step].astype(t.dtype)
        return below + (t * steps - step.astype(t.dtype)) * (cumulative[step + 1].astype(t.dtype) - below)

    def _rate(self, t):
        steps = self.cumulative.shape[0] - 1
        step = jnp.clip(jnp.ceil(t * steps - 1e-3), 1, steps).astype(int)  # t = k/T takes the β of step k
        return jnp.diff(self.cumulative)[step - 1] * steps

    def _inverse(self, integral):
        return jnp.interp(integral, self.cumulative, self._times)


def from_betas(betas) -> Gaussian:
    """The process of a DDPM table β_1..β_T: step k of the table is exactly the time t = k/T.

    Args:
        betas: the table, shape `[T]`, values inside (0, 1). It may be traced, and so learned.

    Returns:
        A variance-preserving process with piecewise constant β(t).

    Raises:
        ValueError: if the table is empty or a concrete β is outside (0, 1) (a traced one gives NaN).

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 4.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.from_betas(jnp.array([0.1, 0.2, 0.5]))
        >>> round(float(process.alpha(2 / 3) ** 2), 3)  # (1 - 0.1) (1 - 0.2)
        0.72
    """
    array = check_array("betas", betas)
    known = all(map(is_concrete, jax.tree.leaves(betas)))
    betas = np.asarray(betas, np.float64) if known else jnp.asarray(array, float)
    if betas.ndim != 1 or betas.size == 0:
        raise ValueError(f"betas has shape {betas.shape}; expected a table [T] of T >= 1 steps")
    if not known:
        betas = jnp.where((betas > 0) & (betas < 1), betas, jnp.nan)
        return _Table(jnp.concatenate([jnp.zeros(1), jnp.cumsum(-jnp.log1p(-betas))]))
    outside = ~((betas > 0) & (betas < 1))
    if outside.any():
        k = int(outside.argmax())
        raise ValueError(
            f"betas[{k}] = {betas[k]}; expected values inside (0, 1): clip the table, for example at 0.999"
        )
    return _Table(np.concatenate([[0.0], np.cumsum(-np.log1p(-betas))]))


class _Undamped(Gaussian):
    """α = 1: noise is added to data that are not scaled."""

    def alpha(self, t):
        return jnp.ones_like(t)


@pytree
@dataclasses.dataclass(frozen=True)
class VE(_Undamped):
    """The variance-exploding process, α = 1 and σ(t) = σ_min (σ_max/σ_min)^t.

    As in the paper, x at t = 0 is not clean: it has noise of standard deviation σ_min.

    Args:
        sigma_min: σ(0), above 0.
        sigma_max: σ(1), above `sigma_min`; also the standard deviation of the prior.

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", eq. 30-31.

    Examples:
        >>> import jaxdiff as jd
        >>> process = jd.VE(sigma_min=0.01, sigma_max=100.0)
        >>> round(float(process.sigma(0.5)), 3)  # the geometric mean
        1.0
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self):
        _check_rising("sigma_min", "sigma_max", self)

    @property
    def prior_std(self):
        """σ(1), without the standard deviation of the data, as in the paper."""
        return self.sigma_max

    def _log_sigma(self, t):
        return jnp.log(self.sigma_min) + t * self._span

    @property
    def _span(self):
        return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)

    def sigma(self, t):
        return jnp.exp(self._log_sigma(t))

    def log_snr(self, t):
        return -2 * self._log_sigma(t)

    def time_at_log_snr(self, log_snr):
        return (-log_snr / 2 - jnp.log(self.sigma_min)) / self._span

    def sde(self, t):
        return jnp.zeros_like(t), jnp.exp(self._log_sigma(t)) * jnp.sqrt(2 * self._span)


@pytree
@dataclasses.dataclass(frozen=True)
class Brownian(_Undamped):
    """Brownian motion dx = std dw: α = 1 and σ(t) = std √t, the reference process of a Schrödinger bridge.

    Args:
        std: σ(1), above 0.

    Examples:
        >>> import jaxdiff as jd
        >>> round(float(jd.Brownian(std=3.0).sigma(0.25)), 3)
        1.5
    """

    std: float = 1.0

    def __post_init__(self):
        check_field(self, "std", above=0)

    def sigma(self, t):
        return self.std * jnp.sqrt(t)

    def log_snr(self, t):
        return -jnp.log(t) - 2 * jnp.log(self.std)

    def time_at_log_snr(self, log_snr):
        return jnp.exp(-log_snr) / self.std**2

    def sde(self, t):
        return jnp.zeros_like(t), self.std * jnp.ones_like(t)


@pytree
@dataclasses.dataclass(frozen=True)
class BrownianVE(_Undamped):
    """Variance exploding from clean data: α = 1 and dx = base^t dw, so that σ(t)² = (base^{2t} - 1) / (2 log base).

    Args:
        base: g(1) of the SDE, above 1.

    Examples:
        >>> import jaxdiff as jd
        >>> process = jd.BrownianVE(base=25.0)
        >>> f, g = jd.forward_sde(process, 0.5)
        >>> round(float(f), 3), round(float(g), 3)
        (0.0, 5.0)
    """

    base: float = 25.0

    def __post_init__(self):
        check_field(self, "base", above=1, fix=", since g(t) = base^t grows from 1")

    def _variance(self, t):
        return jnp.expm1(2 * t * jnp.log(self.base)) / (2 * jnp.log(self.base))

    def sigma(self, t):
        return jnp.sqrt(self._variance(t))

    def log_snr(self, t):
        return -jnp.log(self._variance(t))

    def time_at_log_snr(self, log_snr):
        log_base = jnp.log(self.base)
        return jnp.log1p(2 * log_base * jnp.exp(-log_snr)) / (2 * log_base)

    def sde(self, t):
        return jnp.zeros_like(t), jnp.exp(t * jnp.log(self.base))


@pytree
@dataclasses.dataclass(frozen=True)
class EDM(_Undamped):
    """The process of Karras et al.: α = 1 and σ(t) = (σ_min^{1/ρ} + t (σ_max^{1/ρ} - σ_min^{1/ρ}))^ρ.

    Uniform steps in t are the paper's steps in σ. x at t = 0 is not clean: it has noise of standard deviation σ_min.

    Args:
        sigma_min: σ(0), above 0.
        sigma_max: σ(1), above `sigma_min`; also the standard deviation of the prior.
        rho: ρ, above 0; larger values take smaller steps near the data.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", eq. 5.

    Examples:
        >>> import jaxdiff as jd
        >>> process = jd.EDM(sigma_min=0.002, sigma_max=80.0)
        >>> round(float(process.sigma(0.0)), 4), round(float(process.sigma(1.0)), 2)
        (0.002, 80.0)
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        _check_rising("sigma_min", "sigma_max", self)
        check_field(self, "rho", above=0)

    @property
    def prior_std(self):
        """σ(1), without the standard deviation of the data, as in the paper."""
        return self.sigma_max

    def _root(self, t):
        low, high = self._roots
        return low + t * (high - low)

    @property
    def _roots(self):
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def sigma(self, t):
        return self._root(t) ** self.rho

    def log_snr(self, t):
        return -2 * self.rho * jnp.log(self._root(t))

    def time_at_log_snr(self, log_snr):
        low, high = self._roots
        return (jnp.exp(-log_snr / (2 * self.rho)) - low) / (high - low)

    def sde(self, t):
        low, high = self._roots
        root = self._root(t)
        return jnp.zeros_like(t), jnp.sqrt(2 * self.rho * (high - low) * root ** (2 * self.rho - 1))


@pytree
@dataclasses.dataclass(frozen=True)
class Cosine(Gaussian):
    """The cosine schedule: variance preserving with α = cos(u)/cos(u_0), u = (t + s)/(1 + s) π/2.

    Args:
        s: the offset, 0 or more, which keeps the noise of the first steps from being too small.

    Source:
        Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models", eq. 17.

    Examples:
        >>> import jaxdiff as jd
        >>> alpha, sigma = jd.Cosine(s=0.0).marginal(1 / 3)  # cos(30°), sin(30°)
        >>> round(float(alpha**2), 3), round(float(sigma), 3)
        (0.75, 0.5)
    """

    s: float = 0.008

    def __post_init__(self):
        check_field(self, "s", least=0)

    @property
    def _rate(self):
        return math.pi / 2 / (1 + self.s)

    prior_std = 1.0  # pyright: ignore[reportAssignmentType]

    def _variance(self, t):
        return jnp.sin(t * self._rate) * jnp.sin((t + 2 * self.s) * self._rate) / jnp.cos(self.s * self._rate) ** 2

    def _left(self, t):
        return jnp.sin((1 - t) * self._rate) / jnp.cos(self.s * self._rate)

    def alpha(self, t):
        return self._left(t)

    def sigma(self, t):
        return jnp.sqrt(self._variance(t))

    def log_snr(self, t):
        return 2 * jnp.log(self._left(t)) - jnp.log(self._variance(t))

    def time_at_log_snr(self, log_snr):
        cos0, sin0 = (function(self.s * self._rate) for function in (jnp.cos, jnp.sin))
        alpha, sigma = (jnp.exp(jax.nn.log_sigmoid(sign * log_snr) / 2) for sign in (1, -1))
        cos_u, sin_u = alpha * cos0, jnp.hypot(sigma, alpha * sin0)
        sine = sigma * cos0 * (sigma * cos0 / (sin_u * cos0 + cos_u * sin0))  # sin(u - u_0)
        return jnp.arctan2(sine, cos_u * cos0 + sin_u * sin0) / self._rate

    def sde(self, t):
        f = -self._rate / jnp.tan((1 - t) * self._rate)
        return f, jnp.sqrt(-2 * f)


@pytree
@dataclasses.dataclass(frozen=True)
class Flow(Gaussian):
    """The straight line of flow matching: α = 1 - t and σ = t + σ_min (1 - t).

    σ_min = 0 is rectified flow; σ_min > 0 is the Gaussian path of Lipman et al., where x at t = 0 has that much noise.
    Flow matching papers count time the other way: their time is 1 - t here, and their velocity the negative of ours.

    Args:
        sigma_min: σ(0), in [0, 1).

    Source:
        Liu et al. 2023, "Flow straight and fast"; Lipman et al. 2023, "Flow matching for generative modeling",
        eq. 20-22.

    Examples:
        >>> import jaxdiff as jd
        >>> alpha, sigma = jd.Flow().marginal(0.25)
        >>> float(alpha), float(sigma)
        (0.75, 0.25)
    """

    sigma_min: float = 0.0

    def __post_init__(self):
        check_field(self, "sigma_min", least=0, below=1)

    prior_std = 1.0  # pyright: ignore[reportAssignmentType]

    def _noise(self, t):
        return t + self.sigma_min * (1 - t)

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return self._noise(t)

    def log_snr(self, t):
        return 2 * (jnp.log1p(-t) - jnp.log(self._noise(t)))

    def time_at_log_snr(self, log_snr):
        share, rest = jax.nn.sigmoid(-log_snr / 2), jax.nn.sigmoid(log_snr / 2)
        return (share - self.sigma_min * rest) / (1 - self.sigma_min * rest)  # σ/α - σ_min = t/(1 - t)

    def sde(self, t):
        return -1 / (1 - t), jnp.sqrt(2 * self._noise(t) / (1 - t))
