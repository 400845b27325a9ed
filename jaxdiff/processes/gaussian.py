r"""A process is two curves, and every Gaussian process is one rotation.

1.  Data becomes noise along two curves α and σ over t in [0, 1]: x_t = α(t) x_0 + σ(t) ε.
2.  With q = √(α² + σ²), φ = atan2(σ, α) and z = x / q this is a rotation of x_0 into ε:

        z = cos φ x_0 + sin φ ε.

3.  λ = log α²/σ² = 2 log cot φ is the log-SNR (Kingma et al. 2021, "Variational diffusion models"). It decides
    every conditional: with r = exp(λ_t - λ_s) <= 1 for s < t,

        q(x_t | x_s)      = N(a x_s, (1 - r) σ_t²),                       a = α_t / α_s
        q(x_s | x_t, x_0) = N(a σ_s²/σ_t² x_t + α_s (1 - r) x_0, (1 - r) σ_s²)

    which stay finite at both ends, α_t = 0 and σ_s = 0 included.
4.  The same family as an SDE, dx = f x dt + g dw (Song et al. 2021, eq. 5; Kingma et al. 2021, eq. 14):

        f = d log α / dt,      g² = 2 σ (σ' - f σ) = -σ² dλ/dt.
"""

import abc
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_array, check_event, check_instance, check_key, check_time, expand_time, is_concrete
from jaxdiff.arrays.checks import floating, nan_unless
from jaxdiff.processes import ends


class Process(abc.ABC):
    """A Gaussian process x_t = α(t) x_0 + σ(t) ε; `t` has any shape in [0, 1] and grows with the noise.

    A process is written as its two curves, their log-SNR, its inverse, and its SDE: each in the form that float32
    keeps exact near both ends. Everything else follows.

    The constructors of the library's own raise ValueError for a number out of range; one that is traced gives NaN.
    """

    @abc.abstractmethod
    def _marginal(self, t: jax.Array) -> tuple[jax.Array, jax.Array]: ...

    @abc.abstractmethod
    def _log_snr(self, t: jax.Array) -> jax.Array: ...

    @abc.abstractmethod
    def _time_at(self, log_snr: jax.Array) -> jax.Array: ...

    @abc.abstractmethod
    def _sde(self, t: jax.Array) -> tuple[jax.Array, jax.Array]: ...

    @property
    def prior_std(self) -> jax.Array | float:
        """Standard deviation of the prior N(0, prior_std²), from which x at t = 1 is drawn; 1 unless it explodes."""
        return 1.0

    def marginal(self, t) -> tuple[jax.Array, jax.Array]:
        """(α(t), σ(t)), each of the shape of `t`. Raises ValueError for a concrete t outside [0, 1]."""
        alpha, sigma = _curve(_marginal, self, check_time(t))
        return _not_negative(alpha), _not_negative(sigma)

    def log_snr(self, t) -> jax.Array:
        """λ(t) = log α²/σ², of the shape of `t`; infinite where α or σ is 0."""
        t = check_time(t)
        log_snr = _curve(_log_snr, self, t)
        lost = jnp.isnan(log_snr)  # at an end where a curve is rounded to below 0, say
        return jnp.where(lost & (t == 1), -jnp.inf, jnp.where(lost & (t == 0), jnp.inf, log_snr))

    def angle(self, t) -> jax.Array:
        """φ(t) = atan2(σ, α) in [0, π/2]."""
        alpha, sigma = self.marginal(t)
        return jnp.arctan2(sigma, alpha)

    def scale(self, t) -> jax.Array:
        """q(t) = √(α² + σ²): x = q z."""
        return jnp.hypot(*self.marginal(t))

    def velocity(self, t) -> tuple[jax.Array, jax.Array]:
        """(α'(t), σ'(t)), the derivatives of the two curves in t."""
        return _curve(_velocity, self, check_time(t))

    def log_snr_slope(self, t) -> jax.Array:
        """dλ/dt, of the shape of `t`."""
        return _curve(_log_snr_slope, self, check_time(t))

    def time_at_log_snr(self, log_snr) -> jax.Array:
        """The t in [0, 1] whose log-SNR is `log_snr`, or the end of the process nearest to it."""
        log_snr = floating(check_array("log_snr", log_snr, most=math.inf))
        log_snr = log_snr.astype(jnp.promote_types(log_snr.dtype, jnp.float32))
        noisiest, middle, cleanest = jax.lax.stop_gradient(self.log_snr(jnp.array([1.0, 0.5, 0.0], log_snr.dtype)))
        outside = (log_snr <= noisiest) | (log_snr >= cleanest)
        t = jnp.clip(self._time_at(jnp.where(outside, middle, log_snr)), 0.0, 1.0)
        return jnp.where(outside, jnp.where(log_snr <= noisiest, 1.0, 0.0), t)

    def time_at_angle(self, angle) -> jax.Array:
        """The t in [0, 1] whose angle is `angle` in [0, π/2], or the end of the process nearest to it."""
        angle = floating(check_array("angle", angle))
        return self.time_at_log_snr(2 * (ends.log(jnp.cos(angle)) - ends.log(jnp.sin(angle))))


def _curve(function, process, t):
    """`function(process, t)` by `ends.curve`; a process that is no pytree is part of the program."""
    if jax.tree_util.all_leaves([process]):
        return ends.curve(lambda _, t: function(process, t), (), t)
    return ends.curve(function, process, t)


def _marginal(process, t):
    return process._marginal(t)


def _log_snr(process, t):
    return process._log_snr(t)


def _sde(process, t):
    return process._sde(t)


def _velocity(process, t):
    return jax.jvp(process._marginal, (t,), (jnp.ones_like(t),))[1]


def _log_snr_slope(process, t):
    return jax.jvp(process._log_snr, (t,), (jnp.ones_like(t),))[1]


def _not_negative(value):
    """`value`, with 0 for what rounding put below 0; its derivatives stay."""
    return value - jax.lax.stop_gradient(jnp.minimum(value, 0.0))


def check_process(process, name: str = "process") -> None:
    """Raise TypeError for what is no process."""
    check_instance(name, process, Process, "a process such as jaxdiff.VP()")


def forward_sde(process: Process, t) -> tuple[jax.Array, jax.Array]:
    """(f, g) of dx = f x dt + g dw at `t`; f is -inf and g inf at t = 1 where α(1) = 0 (Flow, Cosine)."""
    check_process(process)
    t = check_time(t)
    f, g = _curve(_sde, process, t)
    beyond = (process.marginal(t)[0] == 0) & ~((f <= 0) & (g >= 0))  # by rounding
    return jnp.where(beyond, -jnp.inf, f), jnp.where(beyond, jnp.inf, g)


def perturb(key, process: Process, x0, t) -> tuple[jax.Array, jax.Array]:
    """Draw (x_t, ε) with x_t = α x_0 + σ ε; x0 [batch, *event], t a scalar or [batch].

    Raises TypeError for integer x0, ValueError for a concrete NaN in x0, t outside [0, 1] or of another shape.
    """
    check_process(process)
    check_key(key)
    x0 = check_event(x0, "x0")
    alpha, sigma = process.marginal(t)
    noise = jax.random.normal(key, x0.shape, x0.dtype)
    return expand_time(alpha, x0) * x0 + expand_time(sigma, x0) * noise, noise


def _snr_loss(process: Process, s, t) -> jax.Array:
    """1 - exp(λ_t - λ_s), in [0, 1] for s <= t; 0 where both are at one end."""
    log_snr_s, log_snr_t = process.log_snr(s), process.log_snr(t)
    same_end = (log_snr_s == log_snr_t) & jnp.isinf(log_snr_t)
    return -jnp.expm1(jnp.where(same_end, 0.0, log_snr_t - log_snr_s))


def _in_order(process: Process, s, t) -> tuple[jax.Array, jax.Array]:
    """(s, t) as arrays; ValueError for concrete times with s above t, and NaN for a traced t below s."""
    check_process(process)
    times = check_time(s, "s"), check_time(t, "t")
    if is_concrete(s) and is_concrete(t) and (after := np.asarray(s) > np.asarray(t)).any():
        s, t = (np.broadcast_to(time, after.shape)[after].flat[0] for time in (s, t))
        raise ValueError(f"s = {s} is above t = {t}; expected s < t, the cleaner time first: swap them")
    return times[0], nan_unless(times[0] <= times[1], times[1])


def transition(process: Process, s, t) -> tuple[jax.Array, jax.Array]:
    """(a, std) of q(x_t | x_s) = N(a x_s, std²) for s < t, arrays of the shape of `s` and `t` together.

    Raises ValueError for concrete times the wrong way round; traced ones give NaN.
    """
    s, t = _in_order(process, s, t)
    alpha_s, _ = process.marginal(s)
    alpha_t, sigma_t = process.marginal(t)
    return ends.ratio(alpha_t, alpha_s), sigma_t * ends.sqrt(_snr_loss(process, s, t))


def posterior(process: Process, s, t) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(c_x, c_data, std) of q(x_s | x_t, x_0) = N(c_x x_t + c_data x_0, std²) for s < t (Ho et al. 2020, eq. 6-7).

    Raises ValueError for concrete times the wrong way round; traced ones give NaN.
    """
    s, t = _in_order(process, s, t)
    alpha_s, sigma_s = process.marginal(s)
    alpha_t, sigma_t = process.marginal(t)
    lost = _snr_loss(process, s, t)
    c_x = ends.ratio(alpha_t, alpha_s) * ends.ratio(sigma_s, sigma_t) ** 2
    return c_x, alpha_s * lost, sigma_s * ends.sqrt(lost)
