"""Checks, once and at a few times, that the formulas of a user-defined process are consistent and keep precision."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import is_concrete

_TIMES = np.array([0.0, 0.013, 0.11, 0.27, 0.43, 0.59, 0.73, 0.87, 0.971, 1.0])  # no multiples of a common step
_NEAR_THE_ENDS = np.array([1e-5, 1e-4, 1e-3, 1 - 1e-3])
_CLOSE, _LOST = 1e-2, 1e-3


def check_curves(process: Any) -> None:
    """Check that the formulas of a user-defined process are consistent, where its values are concrete.

    The curves must be finite and not negative; the log-SNR must follow from them, decrease, and agree with float64; its
    inverse must invert it; and the SDE must follow from the curves. The processes of this library are not checked here
    but in its tests. Losses, samplers and likelihoods call this before they run.

    Args:
        process: the process to check.

    Raises:
        ValueError: if a check fails; the message has the time, the value, and what was expected.

    Examples:
        >>> import dataclasses
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Wrong(jd.Gaussian):
        ...     def alpha(self, t):
        ...         return 1 - t
        ...
        ...     def sigma(self, t):
        ...         return t - 0.5  # negative for t < 0.5
        >>> jd.processes.check_curves(Wrong())
        Traceback (most recent call last):
        ValueError: Wrong: (alpha, sigma) gives ...; expected two finite numbers of 0 or more, not both 0
    """
    own = lambda part: type(part).__module__.partition(".")[0] != __name__.partition(".")[0]
    if any(map(own, (process, getattr(process, "schedule", process)))) and all(
        map(is_concrete, jax.tree.leaves(process))
    ):
        _check(process)


@functools.lru_cache(maxsize=16)
def _check(process: Any) -> None:
    def values(function, times):
        with jax.ensure_compile_time_eval():
            curves = function(jnp.asarray(times))
        return [np.broadcast_to(np.asarray(curve, np.float64), times.shape) for curve in curves]

    def hold(right, method: str, *gives, expected: str, times):
        wrong = np.flatnonzero(~right)
        if wrong.size:
            given = ", ".join(f"{value[wrong[0]]:.6g}" for value in gives)
            name = type(process).__name__
            raise ValueError(f"{name}: {method} gives {given} at t = {times[wrong[0]]:.3g}; expected {expected}")

    def near(one, other):
        return (np.abs(one - other) <= _CLOSE * (1 + np.abs(other))) | outside

    t = np.asarray(_TIMES, jnp.result_type(float))
    look, hold_here = functools.partial(values, times=t), functools.partial(hold, times=t)
    (alpha,), (sigma,) = (look(lambda t, formula=formula: [formula(t)]) for formula in process.formulas())
    both = np.isfinite(alpha) & np.isfinite(sigma) & (alpha >= -1e-6) & (sigma >= -1e-6) & (alpha + sigma > 0)
    hold_here(both, "(alpha, sigma)", alpha, sigma, expected="two finite numbers of 0 or more, not both 0")
    outside = (alpha <= 0) | (sigma <= 0) | (t == 0) | (t == 1)
    with np.errstate(all="ignore"):
        (log_snr,) = look(lambda t: [process.log_snr(t)])
        expected = 2 * (np.log(alpha) - np.log(sigma))
        hold_here(near(log_snr, expected), "log_snr", log_snr, expected="log alpha^2/sigma^2 of the curves")
        falls = np.append(True, np.diff(log_snr) <= 0)
        hold_here(falls, "log_snr", log_snr, expected="one that falls as t grows")
        if hasattr(process, "sde"):  # for categories, draws and weights use the same rounded α
            fine = np.asarray(_NEAR_THE_ENDS, t.dtype)
            (rounded,) = values(lambda t: [process.log_snr(t)], fine)
            with jax.enable_x64(True):
                (exact,) = values(lambda t: [process.log_snr(t)], fine.astype(np.float64))
            kept = (np.abs(rounded - exact) <= _LOST) | ~np.isfinite(exact)
            lost = f"{exact[np.argmin(kept)]:.6g}, as in float64: give log_snr(t) in a form that loses no digits there"
            hold(kept, f"log_snr in {t.dtype}", rounded, expected=lost, times=fine)
        (back,) = look(lambda t: [process.log_snr(process.time_at_log_snr(process.log_snr(t)))])
        inverts = "log_snr(time_at_log_snr(log_snr(t)))"
        hold_here(near(back, log_snr), inverts, back, expected="the log-SNR itself")
        if not hasattr(process, "sde"):
            return
        d_alpha, d_sigma, f, g = look(lambda t: [*process.velocity(t), *process.sde(t)])
        hold_here(near(f, d_alpha / alpha), "sde", f, expected="f = d log alpha/dt")
        spread = 2 * sigma * (d_sigma - d_alpha / alpha * sigma)
        fits = near(g**2, spread) & ((g >= 0) | outside)
        hold_here(fits, "sde", g, expected="g^2 = 2 sigma (sigma' - f sigma)")
