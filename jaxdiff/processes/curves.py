"""The two curves of a process, and what follows from them.

`alpha(t)` and `sigma(t)` are enough. The log-SNR, its inverse and the SDE are derived from them, and may be overridden
by formulas that are accurate in float32 near both ends. A subclass writes plain formulas: they need not check t, and
may be infinite, or rounded to below 0, at an end. Each formula is wrapped in a guard, so that for callers t is checked,
α and σ are not negative, and derivatives are finite (`jaxdiff.processes.ends`).
"""

import abc
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_array, check_time, is_concrete
from jaxdiff.arrays.checks import floating
from jaxdiff.processes import ends
from jaxdiff.processes.grids import Angle
from jaxdiff.processes.plausible import check_curves
from jaxdiff.processes.process import Process

_HALVINGS = 40


class Curves(Process):
    """A process given by two curves `alpha(t)` and `sigma(t)`."""

    sampling_grid = Angle()

    power: int
    """The power p in q = (α^p + σ^p)^(1/p): 2 for standard deviations, 1 for probabilities."""

    def __init_subclass__(cls, **settings):
        super().__init_subclass__(**settings)
        _guard(cls)

    @abc.abstractmethod
    def alpha(self, t) -> jax.Array:
        """α(t), the weight of the data, of the shape of `t`."""

    @abc.abstractmethod
    def sigma(self, t) -> jax.Array:
        """σ(t), the weight of the noise, of the shape of `t`."""

    def marginal(self, t) -> tuple[jax.Array, jax.Array]:
        """(α(t), σ(t)), each of the shape of `t`. Raises ValueError for a concrete t outside [0, 1]."""
        return self.alpha(t), self.sigma(t)

    def log_snr(self, t) -> jax.Array:
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def time_at_log_snr(self, log_snr) -> jax.Array:
        return inverse(lambda process, t: process.log_snr(t), self, log_snr)

    def angle(self, t) -> jax.Array:
        alpha, sigma = self.marginal(t)
        return jnp.arctan2(sigma, alpha)

    def time_at_angle(self, angle) -> jax.Array:
        angle = floating(check_array("angle", angle))
        return self.time_at_log_snr(2 * (ends.log(jnp.cos(angle)) - ends.log(jnp.sin(angle))))

    def velocity(self, t) -> tuple[jax.Array, jax.Array]:
        """(α'(t), σ'(t)), the derivatives of the two curves, each of the shape of `t`."""
        return curve(_velocity, self, check_time(t))

    def log_snr_slope(self, t) -> jax.Array:
        """dλ/dt, of the shape of `t`."""
        return curve(_log_snr_slope, self, check_time(t))

    def rate(self, t) -> jax.Array:
        """d log(σ/q)/dt = -1/2 dλ/dt sigmoid(p λ/2), the weight of an error in the bound, of the shape of `t`.

        It is 0 where α is 0, or so small that the sigmoid is 0.
        """
        left = jax.nn.sigmoid(self.power / 2 * self.log_snr(t))
        return jnp.where(left > 0, -self.log_snr_slope(t), 0.0) / 2 * left

    def log_share(self, t) -> jax.Array:
        """log σ/q = -1/p log(1 + exp(p λ/2)), of the shape of `t`; its derivative in t is the rate."""
        return -jax.nn.softplus(self.power / 2 * self.log_snr(t)) / self.power

    def time_at_log_share(self, log_share) -> jax.Array:
        return self.time_at_log_snr(2 / self.power * jnp.log(jnp.expm1(-self.power * log_share)))

    def formulas(self) -> tuple[Callable, Callable]:
        """The formulas of α and σ as written, without their guards."""
        return _formula(self, "alpha"), _formula(self, "sigma")

    def check_times(self, times: Callable) -> None:
        """Accepts every time, since curves have x at every t; `times` is not called."""

    def _check_data_left(self, parameterization: str, t, instead: str) -> None:
        """Raise ValueError if α = 0 at a concrete `t`, where a network of that parameterization does not tell x_0."""
        if not all(map(is_concrete, [t, *jax.tree.leaves(self)])):
            return
        with jax.ensure_compile_time_eval():
            nothing = bool(self.alpha(t) == 0)
        if nothing:
            raise ValueError(
                f"alpha({float(t)}) = 0 for {type(self).__name__}: a network trained on "
                f'"{parameterization}" does not determine the data there. Start below, for example '
                f't_start=0.999, or train with "{instead}"'
            )

    def check_curves(self) -> None:
        """Raise ValueError if user-defined curves are not finite, contradict each other, or lose precision."""
        check_curves(self)

    def c_noise(self, t) -> jax.Array:
        return jnp.clip(-self.log_snr(t) / 8, -3.0, 3.0)


def _velocity(process, t):
    alpha, sigma = process.formulas()
    formulas = lambda t: (alpha(t), sigma(t))
    return jax.jvp(formulas, (t,), (jnp.ones_like(t),))[1]


def _log_snr_slope(process, t):
    return jax.jvp(_formula(process, "log_snr"), (t,), (jnp.ones_like(t),))[1]


def curve(function: Callable, process: Curves, t):
    """`function(process, t)` with finite derivatives (`ends.curve`); a process that is not a pytree is a constant."""
    if jax.tree_util.all_leaves([process]):
        return ends.curve(lambda _, t: function(process, t), (), t)
    return ends.curve(function, process, t)


def _of_time(formula: Callable, process: Curves, t):
    """`formula` with t checked and finite derivatives."""
    return curve(formula, process, check_time(t))


def _share(formula: Callable, process: Curves, t) -> jax.Array:
    """The guard of α and σ: `_of_time`, with values that rounding put below 0 set to 0; derivatives are kept."""
    value = _of_time(formula, process, t)
    return value - jax.lax.stop_gradient(jnp.minimum(value, 0.0))


def _of_log_snr(formula: Callable, process: Curves, t) -> jax.Array:
    """The guard of the log-SNR: `_of_time`, infinite at an end where a curve is rounded to below 0."""
    t = check_time(t)
    value = curve(formula, process, t)
    lost = jnp.isnan(value)
    return jnp.where(lost & (t == 1), -jnp.inf, jnp.where(lost & (t == 0), jnp.inf, value))


def _held_within(formula: Callable, process: Curves, log_snr) -> jax.Array:
    """The guard of the inverse of the log-SNR: evaluated within the range of the process, clipped to an end beyond."""
    log_snr = floating(check_array("log_snr", log_snr, most=math.inf))
    log_snr = log_snr.astype(jnp.promote_types(log_snr.dtype, jnp.float32))
    times = jnp.array([1.0, 0.5, 0.0], log_snr.dtype)
    noisiest, middle, cleanest = jax.lax.stop_gradient(process.log_snr(times))
    outside = (log_snr <= noisiest) | (log_snr >= cleanest)
    t = jnp.clip(formula(process, jnp.where(outside, middle, log_snr)), 0.0, 1.0)
    return jnp.where(outside, jnp.where(log_snr <= noisiest, 1.0, 0.0), t)


_GUARDS = {
    "alpha": _share,
    "sigma": _share,
    "log_snr": _of_log_snr,
    "sde": _of_time,
    "time_at_log_snr": _held_within,
}


def _guard(cls: type) -> None:
    """Wrap each formula of `cls` that has no guard yet."""
    for name, guard in _GUARDS.items():
        formula = getattr(cls, name, None)
        if formula is not None and not callable(formula):
            raise TypeError(f"{cls.__name__}.{name} = {formula!r}; {name}(t) is a curve: rename this field")
        if formula is not None and not hasattr(formula, "formula"):
            setattr(cls, name, _guarded(formula, guard))


def _guarded(formula: Callable, guard: Callable) -> Callable:
    @functools.wraps(formula)
    def method(self, *value, **named):
        return guard(formula, self, *value, **named)

    method.formula = formula  # pyright: ignore[reportAttributeAccessIssue]
    return method


_guard(Curves)


def _formula(process: Curves, name: str) -> Callable:
    """The formula of t as written, without its guard."""
    return functools.partial(getattr(type(process), name).formula, process)


def inverse(function: Callable, process: Any, value) -> jax.Array:
    """The t in [0, 1] where the decreasing `function(process, t)` is `value`, by bisection and one Newton step.

    Only the Newton step is differentiated, which gives the derivatives of the inverse function.
    """
    held, target = jax.lax.stop_gradient((process, value))

    def halve(_, between):
        low, high = between
        middle = (low + high) / 2
        cleaner = function(held, middle) > target
        return jnp.where(cleaner, middle, low), jnp.where(cleaner, high, middle)

    start = jnp.zeros_like(target), jnp.ones_like(target)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, start)
    t = (low + high) / 2
    found, slope = jax.jvp(functools.partial(function, held), (t,), (jnp.ones_like(t),))
    usable = jnp.isfinite(slope) & (slope != 0) & jnp.isfinite(found)
    step = jnp.where(usable, (value - function(process, t)) / jnp.where(usable, slope, 1.0), 0.0)
    return jnp.clip(t + step, 0.0, 1.0)
