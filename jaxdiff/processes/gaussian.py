r"""Processes of numbers, x_t = α x_0 + σ ε with ε standard normal: each is one rotation.

1.  With q = √(α² + σ²), φ = atan2(σ, α) and z = x / q the process is a rotation of x_0 into ε:

        z = cos φ x_0 + sin φ ε,        v = cos φ ε - sin φ x_0 = dz/dφ.

2.  The log-SNR λ decides every conditional: with r = exp(λ_t - λ_s) <= 1 for s < t,

        q(x_t | x_s)      = N(a x_s, (1 - r) σ_t²),                       a = α_t / α_s
        q(x_s | x_t, x_0) = N(a σ_s²/σ_t² x_t + α_s (1 - r) x_0, (1 - r) σ_s²)

    which stay finite at both ends, α_t = 0 and σ_s = 0 included.
3.  The same family as an SDE, dx = f x dt + g dw (Song et al. 2021, eq. 5; Kingma et al. 2021, eq. 14):

        f = d log α / dt,      g² = 2 σ (σ' - f σ) = -σ² dλ/dt.

4.  One step back is the posterior with the denoiser's x_0 in it. Its variance has two natural values (Ho et al. 2020,
    section 3.2), which differ by a factor that does not depend on r:

        small   β̃ = (1 - r) σ_s²      of q(x_s | x_t, x_0): right for data that is a point
        large   β = (1 - r) σ_t²      of q(x_t | x_s): right for data of unit variance, under variance preserving

    so that β̃ (σ_t/σ_s)^{2 share} is the small one at share 0 and the large one at share 1. A network that learns the
    variance predicts the share: log β share + log β̃ (1 - share) (Nichol and Dhariwal 2021, eq. 15). The best share is
    known for any data: q(x_s | x_t) has variance β̃ + c_data² Var[x_0 | x_t] (Bao et al. 2022, "Analytic-DPM", eq. 11).
    Where the law of x_s is multiplied by exp(g · x_s), its mean moves by the variance of the step times g.
5.  An error e of v is -sin φ e of x_0 and cos φ e of ε, and stays finite at both ends: the error of a denoiser is e².
    With ρ the log of the variance over β̃ and c_data²/β̃ = SNR_s - SNR_t (Kingma et al. 2021, eq. 13),

        KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = 1/2 Σ [ρ + e^{-ρ} - 1 + e^{-ρ} (SNR_s - SNR_t)(x_0 - x̂_0)²],

    where (SNR_s - SNR_t)(x_0 - x̂_0)² = (sin² φ_t / sin² φ_s - 1) e², finite where α_t = 0.

6.  An integer k becomes the middle of its cell, x_0 = 2 (k + 1/2)/levels - 1. Its probability given x_t is that of
    the cell under N(x̂_0, sin² φ); the two outer cells include the tails (Ho et al. 2020, eq. 13).
"""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from jaxdiff.arrays import (
    along_batch,
    check_batch,
    check_event,
    check_instance,
    check_integers,
    check_number,
    check_output,
    check_shape,
    check_time,
    count,
    example_keys,
    expand_time,
    is_concrete,
    normal,
)
from jaxdiff.arrays.checks import nan_unless
from jaxdiff.processes import ends
from jaxdiff.processes.curves import Curves
from jaxdiff.processes.grids import LogSNR
from jaxdiff.processes.parameterization import ROWS, check_parameterization
from jaxdiff.processes.predictions import Prediction
from jaxdiff.processes.process import Process, check_kind, check_process

_LEVELS = 256
_COVERED = 0.25


class Gaussian(Curves):
    """A process of numbers, x_t = α(t) x_0 + σ(t) ε with ε standard normal.

    The base class of `VP`, `Flow` and the others. To define a process, write `alpha(t)` and `sigma(t)` in a frozen
    dataclass; the log-SNR, its inverse and the SDE follow from them. Override `log_snr(t)` too where the curves lose
    digits near an end. Data are floating-point arrays `[n, *event]`.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Quarter(jd.Gaussian):
        ...     def alpha(self, t):
        ...         return jnp.cos(jnp.pi / 2 * t)
        ...
        ...     def sigma(self, t):
        ...         return jnp.sin(jnp.pi / 2 * t)
        >>> round(float(jnp.exp(Quarter().log_snr(1 / 3))), 2)  # cos²(30°) / sin²(30°)
        3.0
    """

    power = 2
    bound_grid = LogSNR()

    def sde(self, t) -> tuple[jax.Array, jax.Array]:
        """(f, g) of dx = f x dt + g dw, from the derivatives of α and of the log-SNR."""
        t = jnp.maximum(t, _EARLIEST)
        alpha, log_snr = self.alpha(t), self.log_snr(t)
        g = alpha * jnp.exp(-log_snr / 2) * jnp.sqrt(jnp.maximum(-self.log_snr_slope(t), 0.0))
        return self.velocity(t)[0] / alpha, g

    @property
    def prior_std(self) -> jax.Array | float:
        """Standard deviation σ(1) of the prior N(0, prior_std²), from which x at t = 1 is drawn."""
        return self.sigma(1.0)

    def scale(self, t) -> jax.Array:
        """q(t) = √(α² + σ²): x = q z."""
        return jnp.hypot(*self.marginal(t))

    def _prior_std_at(self, t) -> jax.Array:
        return self.prior_std * self.scale(t) / self.scale(1.0)

    def check(self, x, name: str = "x", noised: bool = False) -> jax.Array:
        """`x` as a batch of finite floating events; TypeError or ValueError for anything else."""
        return check_event(x, name)

    def check_shape(self, shape) -> tuple[int, ...]:
        """`shape` as (n, *event); an event has at least one axis."""
        return check_shape("shape", shape, "(n, *event), n samples of at least one axis", least_axes=2)

    def check_reading(self, parameterization, data_std, learned_variance: bool) -> tuple[str, Any]:
        """(parameterization, data_std), "v" and 0.5 by default; ValueError for an unknown name or data_std <= 0."""
        parameterization = "v" if parameterization is None else parameterization
        check_parameterization(parameterization)
        return parameterization, check_number("data_std", 0.5 if data_std is None else data_std, above=0)

    def check_start(self, parameterization, t) -> None:
        """Raise ValueError if α = 0 at a concrete `t`, where "noise" and "score" do not determine x_0."""
        if parameterization in ("noise", "score"):
            self._check_data_left(parameterization, t, "v")

    def check_prediction(self, prediction, x) -> None:
        """Raise if a denoiser's answer for x is not a `Prediction` with data and noise of the shape of x."""
        check_instance("the denoiser's answer", prediction, Prediction, "a jaxdiff.Prediction(data, noise)")
        check_output("the denoiser (data)", prediction.data, x)
        check_output("the denoiser (noise)", prediction.noise, x)
        if prediction.tilt is not None:
            check_output("the denoiser (tilt)", prediction.tilt, x)

    def warn_uncovered(self, data_std) -> None:
        """Warn if α(1) data_std is above a quarter of the prior's standard deviation, as far as these are concrete.

        x_1 = α x_0 + σ ε is then wider than the prior N(0, prior_std²) that samples and likelihoods use in its place:
        its standard deviation is 3 % larger at a ratio of a quarter, and 41 % larger at a ratio of 1.
        """
        if data_std is None or not all(map(is_concrete, [data_std, *jax.tree.leaves(self)])):
            return
        with jax.ensure_compile_time_eval():
            left, prior_std = float(self.alpha(1.0)), float(self.prior_std)
        spread = float(np.max(np.asarray(data_std)))
        if left * spread > _COVERED * prior_std:
            warnings.warn(
                f"{type(self).__name__} does not cover data of data_std = {spread:.4g}: alpha(1) data_std = "
                f"{left * spread:.3g} against a prior of standard deviation {prior_std:.3g}, so samples are narrower "
                "than the data. Divide the data by its standard deviation, or give the process more noise "
                "(beta_max, sigma_max)",
                UserWarning,
                stacklevel=4,
            )

    def at(self, x, t) -> tuple[jax.Array, jax.Array]:
        x = check_batch(x)
        return x, jnp.broadcast_to(expand_time(check_time(t), x).ravel(), x.shape[:1])

    def prior(self, keys, shape, t) -> jax.Array:
        """A draw of N(0, prior_std² q(t)²/q(1)²), so that z = x/q has the prior's law at any t."""
        return self._prior_std_at(t) * normal(keys, jnp.empty(shape))

    def unknown(self, shape):
        """Always raises ValueError: the noise of numbers is random."""
        raise ValueError(
            f"{type(self).__name__}: a part of numbers has no value that means unknown; give it as cond, or draw "
            "jointly and drop it"
        )

    def perturb(self, keys, x0, t) -> tuple[jax.Array, Prediction]:
        """(x_t, truth), where truth holds the data and the noise of x_t."""
        alpha, sigma = (expand_time(c, x0) for c in self.marginal(t))
        noise = normal(keys, x0)
        return alpha * x0 + sigma * noise, Prediction(x0, noise)

    def present(self, x, t, data_std) -> jax.Array:
        """x / √(α² data_std² + σ²), which has unit variance at every t (c_in of Karras et al. 2022, table 1)."""
        alpha, sigma = self.marginal(t)
        return expand_time(1 / jnp.hypot(alpha * along_batch(data_std, t, "data_std"), sigma), x) * x

    def read(self, parameterization, out, x, t, data_std) -> Prediction:
        """Data and noise from the network's output, by the row of the parameterisation."""
        check_output("the network", out, x)
        alpha, sigma = self.marginal(t)
        a, b = ROWS[parameterization](self, t, alpha, sigma, along_batch(data_std, t, "data_std"))
        det = alpha * b - sigma * a
        alpha, sigma, a, b, det = (expand_time(c, x) for c in (alpha, sigma, a, b, det))
        return Prediction((b * x - sigma * out) / det, (alpha * out - a * x) / det)

    def step_back(self, prediction: Prediction, x, t, s) -> tuple[jax.Array, jax.Array]:
        """(mean, std) of p(x_s | x_t = x) for x [batch, *event] and s < t, scalars or [batch]."""
        c_x, c_data, std = (expand_time(c, x) for c in posterior(self, s, t))
        mean, std = c_x * x + c_data * prediction.data, std * jnp.exp(self.log_variance_ratio(prediction, t, s) / 2)
        return (mean if prediction.tilt is None else mean + std**2 * prediction.tilt), std

    def reverse(self, keys, prediction: Prediction, x, t, s) -> jax.Array:
        mean, std = self.step_back(prediction, x, t, s)
        return mean + std * normal(keys, x)

    def log_variance_ratio(self, prediction: Prediction, t, s) -> jax.Array | float:
        """log of the variance of p(x_s | x_t) over β̃, 2 share log σ_t/σ_s, broadcast against x; 0 where σ_s = 0."""
        if prediction.share is None:
            return 0.0
        (_, sigma_t), (_, sigma_s) = self.marginal(t), self.marginal(s)
        log_ratio = jnp.log(sigma_t) - jnp.log(jnp.where(sigma_s > 0, sigma_s, sigma_t))
        return 2 * prediction.share * expand_time(log_ratio, prediction.data)

    def answer(self, keys, prediction: Prediction) -> jax.Array:
        return prediction.data

    def velocity_error(self, prediction: Prediction, truth: Prediction, t) -> jax.Array:
        """The error of the prediction in v = cos φ ε - sin φ x_0, [batch, *event]."""
        self.check_prediction(prediction, truth.data)
        phi, (data, noise) = expand_time(self.angle(t), truth.data), prediction
        return jnp.cos(phi) * (noise - truth.noise) - jnp.sin(phi) * (data - truth.data)

    def error(self, prediction: Prediction, truth: Prediction, x, t) -> jax.Array:
        """|v error|², [batch, *event]."""
        return self.velocity_error(prediction, truth, t) ** 2

    def error_scale(self, parameterization, t, data_std) -> jax.Array:
        """det/q, of the shape of `t`: an error e of v is det/q e of the network's output."""
        alpha, sigma = self.marginal(t)
        a, b = ROWS[parameterization](self, t, alpha, sigma, data_std)
        return (alpha * b - sigma * a) / jnp.hypot(alpha, sigma)

    def kl(self, prediction: Prediction, truth: Prediction, x, t, s) -> jax.Array:
        rho = self.log_variance_ratio(prediction, t, s)
        lost = jnp.expm1(jax.nn.softplus(self.log_snr(s)) - jax.nn.softplus(self.log_snr(t)))
        error = self.velocity_error(prediction, truth, t)
        return (rho + jnp.expm1(-rho) + jnp.exp(-rho) * expand_time(lost, truth.data) * error**2) / 2

    def check_data(self, data, levels) -> np.ndarray:
        """Integers [n, *event] in 0..levels-1; `levels` is 256 by default."""
        return np.asarray(check_integers(data, _levels(levels)))

    def clean(self, data, levels) -> jax.Array:
        """The middles of the integers' cells, in [-1, 1]."""
        return 2 * (jnp.asarray(data, float) + 0.5) / _levels(levels) - 1

    def last_time(self, levels) -> jax.Array:
        """The time at which σ/α is the width of a cell, clipped to the nearer end of the process."""
        return self.time_at_log_snr(2 * math.log(max(_levels(levels), 2) / 2))

    def prior_kl(self, x0, t) -> jax.Array:
        """KL(q(x_t | x_0) || N(0, prior_std² q(t)²/q(1)²)), nats, [batch, *event]."""
        alpha, sigma, std = (expand_time(c, x0) for c in (*self.marginal(t), self._prior_std_at(t)))
        log_ratio = 2 * jnp.log(sigma / std)
        return (jnp.expm1(log_ratio) - log_ratio + (alpha * x0 / std) ** 2) / 2

    def reconstruction(self, prediction: Prediction, data, x0, t, levels) -> jax.Array:
        """-log of the probability of each integer's cell under N(x̂_0, sin² φ), nats, [batch, *event]."""
        std = jnp.sin(expand_time(self.angle(t), x0))
        return -log_cell(data, prediction.data.astype(x0.dtype), std, _levels(levels))


_EARLIEST = 1e-6  # the least t at which g is computed: slopes may be infinite at t = 0


def _levels(levels: int | None) -> int:
    return _LEVELS if levels is None else levels


def log_cell(integers, mean, std, levels: int) -> jax.Array:
    """log of the probability of each integer's cell under N(mean, std²); the outer cells extend to infinity."""
    edge = lambda k: jnp.where(k <= 0, -jnp.inf, jnp.where(k >= levels, jnp.inf, (2 * k / levels - 1 - mean) / std))
    k = jnp.asarray(integers, float)  # k + 1 = 256 overflows uint8
    low, high = edge(k), edge(k + 1)
    low, high = jnp.where(low > -high, -high, low), jnp.where(low > -high, -low, high)  # mirror into the lower tail
    mass = log_ndtr(high)
    return mass + jnp.log1p(-jnp.exp(log_ndtr(low) - mass))


def check_gaussian(process, what: str, instead: str = "") -> Gaussian:
    """Check that `process` is a process of numbers.

    Args:
        process: the process to check.
        what: the function or class that needs it, as the message calls it.
        instead: how to continue with another process, the end of the message; may be empty.

    Returns:
        `process` itself.

    Raises:
        TypeError: if `process` is not a `Gaussian`.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.processes.check_gaussian(jd.VP(), "my sampler") == jd.VP()
        True
        >>> jd.processes.check_gaussian(jd.Absorbing(3), "my sampler", "take Ancestral()")
        Traceback (most recent call last):
        TypeError: my sampler takes processes of numbers, such as VP(), not Absorbing; take Ancestral()
    """
    return check_kind(process, Gaussian, "processes of numbers, such as VP()", what, instead)


def perturb(key, process: Process, x0, t) -> tuple[Any, Any]:
    """Draw x_t given x_0: noise the examples `x0` to time `t`.

    Args:
        key: one key, or one per example. Example i depends on the key and on i alone, not on the other examples.
        process: the process.
        x0: data of the process, shape `[n, *event]`.
        t: the time in [0, 1], a scalar or shape `[n]`; for a product also a tree of times.

    Returns:
        `(x_t, truth)`: the noised examples, of the shape of `x0`, and the prediction that a denoiser without error
        would make. For numbers it is `Prediction(x0, ε)`, for categories `Certain(x0)`.

    Raises:
        TypeError: if `x0` is not data of the process, such as integers for a process of numbers.
        ValueError: if `x0` or `t` has another shape, or a concrete `t` is outside [0, 1].

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> x0 = jnp.ones((3, 2))
        >>> x, truth = jd.perturb(jax.random.key(0), jd.Flow(), x0, 0.25)  # alpha = 0.75, sigma = 0.25
        >>> bool(jnp.allclose(x, 0.75 * x0 + 0.25 * truth.noise))
        True
    """
    check_process(process)
    process.check_times(lambda: check_time(t))
    x0, t = process.at(process.check(x0, "x0"), t)
    return process.perturb(example_keys(key, count(x0)), x0, t)


def forward_sde(process: Process, t) -> tuple[jax.Array, jax.Array]:
    """The coefficients of the forward SDE dx = f x dt + g dw at time `t`.

    Args:
        process: a process of numbers.
        t: times in [0, 1], of any shape.

    Returns:
        `(f, g)`, each of the shape of `t`. At t = 1, f is -inf and g is inf where α(1) = 0 (`Flow`, `Cosine`).

    Raises:
        TypeError: if `process` is not a process of numbers.
        ValueError: if a concrete `t` is outside [0, 1].

    Source:
        Song et al. 2021, "Score-based generative modeling through SDEs", eq. 5.

    Examples:
        >>> import jaxdiff as jd
        >>> f, g = jd.forward_sde(jd.OU(beta=9.0), 0.5)  # f = -beta/2, g = sqrt(beta)
        >>> round(float(f), 3), round(float(g), 3)
        (-4.5, 3.0)
    """
    process = check_gaussian(process, "an SDE")
    f, g = process.sde(t)
    beyond = (process.alpha(t) == 0) & ~((f <= 0) & (g >= 0))  # NaN, or of the wrong sign by rounding
    return jnp.where(beyond, -jnp.inf, f), jnp.where(beyond, jnp.inf, g)


def _snr_loss(process: Gaussian, s, t) -> jax.Array:
    """1 - exp(λ_t - λ_s), in [0, 1] for s <= t; 0 where both are at the same end."""
    log_snr_s, log_snr_t = process.log_snr(s), process.log_snr(t)
    same_end = (log_snr_s == log_snr_t) & jnp.isinf(log_snr_t)
    return -jnp.expm1(jnp.where(same_end, 0.0, log_snr_t - log_snr_s))


def _in_order(process: Gaussian, s, t) -> tuple[jax.Array, jax.Array]:
    """(s, t) as arrays; ValueError for concrete times with s above t, NaN in place of a traced t below s."""
    check_gaussian(process, "a transition of x")
    times = check_time(s, "s"), check_time(t, "t")
    if is_concrete(s) and is_concrete(t) and (after := np.asarray(s) > np.asarray(t)).any():
        s, t = (np.broadcast_to(time, after.shape)[after].flat[0] for time in (s, t))
        raise ValueError(f"s = {s} is above t = {t}; expected s < t, the cleaner time first: swap them")
    return times[0], nan_unless(times[0] <= times[1], times[1])


def transition(process: Gaussian, s, t) -> tuple[jax.Array, jax.Array]:
    """The transition q(x_t | x_s) = N(a x_s, std²) from a cleaner time s to a noisier time t.

    Args:
        process: a process of numbers.
        s: the earlier (cleaner) times.
        t: the later (noisier) times; broadcast against `s`.

    Returns:
        `(a, std)`, of the broadcast shape of `s` and `t`.

    Raises:
        TypeError: if `process` is not a process of numbers.
        ValueError: if concrete times have s > t (traced times give NaN), or are outside [0, 1].

    Examples:
        >>> import jaxdiff as jd
        >>> a, std = jd.transition(jd.Brownian(), 0.25, 1.0)  # alpha = 1, sigma = sqrt(t)
        >>> round(float(a), 3), round(float(std) ** 2, 3)
        (1.0, 0.75)
    """
    s, t = _in_order(process, s, t)
    alpha_s, _ = process.marginal(s)
    alpha_t, sigma_t = process.marginal(t)
    return ends.ratio(alpha_t, alpha_s), sigma_t * ends.sqrt(_snr_loss(process, s, t))


def posterior(process: Gaussian, s, t) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The posterior q(x_s | x_t, x_0) = N(c_x x_t + c_data x_0, std²) of a cleaner time s given a noisier time t.

    Args:
        process: a process of numbers.
        s: the earlier (cleaner) times.
        t: the later (noisier) times; broadcast against `s`.

    Returns:
        `(c_x, c_data, std)`, of the broadcast shape of `s` and `t`.

    Raises:
        TypeError: if `process` is not a process of numbers.
        ValueError: if concrete times have s > t (traced times give NaN), or are outside [0, 1].

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 6-7.

    Examples:
        >>> import jaxdiff as jd
        >>> c_x, c_data, std = jd.posterior(jd.Brownian(), 0.25, 1.0)  # a Brownian bridge
        >>> round(float(c_x), 3), round(float(c_data), 3), round(float(std) ** 2, 4)
        (0.25, 0.75, 0.1875)
    """
    s, t = _in_order(process, s, t)
    alpha_s, sigma_s = process.marginal(s)
    alpha_t, sigma_t = process.marginal(t)
    lost = _snr_loss(process, s, t)
    c_x = ends.ratio(alpha_t, alpha_s) * ends.ratio(sigma_s, sigma_t) ** 2
    return c_x, alpha_s * lost, sigma_s * ends.sqrt(lost)
