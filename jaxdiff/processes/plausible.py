"""Check that the four methods of a user's own process agree with each other, at ten times."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import is_concrete
from jaxdiff.processes.gaussian import Process

_TIMES = np.array([0.0, 0.013, 0.11, 0.27, 0.43, 0.59, 0.73, 0.87, 0.971, 1.0])  # off the corners of a table
_CLOSE = 1e-2


def check_curves(process: Process) -> None:
    """Raise ValueError where the methods of an own process contradict each other, as far as its numbers are known.

    Looked at are whether the curves are finite and not negative, the log-SNR is theirs and falls, the inverse inverts
    it, and the SDE is theirs. The library's own processes are held to their papers by its tests.
    """
    own = type(process).__module__.partition(".")[0] == __name__.partition(".")[0]
    if not own and all(map(is_concrete, jax.tree.leaves(process))):
        _check(process)


@functools.lru_cache(maxsize=16)
def _check(process: Process) -> None:
    t = np.asarray(_TIMES, jnp.result_type(float))

    def values(function):
        with jax.ensure_compile_time_eval():
            curves = function(jnp.asarray(t))
        return [np.broadcast_to(np.asarray(curve, np.float64), t.shape) for curve in curves]

    def hold(right, method: str, *gives, expected: str):
        wrong = np.flatnonzero(~right)
        if wrong.size:
            given = ", ".join(f"{value[wrong[0]]:.6g}" for value in gives)
            name = type(process).__name__
            raise ValueError(f"{name}: {method} gives {given} at t = {t[wrong[0]]:.3g}; expected {expected}")

    def near(one, other):
        return (np.abs(one - other) <= _CLOSE * (1 + np.abs(other))) | outside

    alpha, sigma = values(process._marginal)
    finite = np.isfinite(alpha) & np.isfinite(sigma) & (alpha >= -1e-6) & (sigma >= -1e-6) & (alpha + sigma > 0)
    hold(finite, "_marginal", alpha, sigma, expected="alpha and sigma, finite and of 0 or more, not both 0")
    outside = (alpha <= 0) | (sigma <= 0) | (t == 0) | (t == 1)
    with np.errstate(all="ignore"):
        (log_snr,) = values(lambda t: [process.log_snr(t)])
        hold(
            near(log_snr, 2 * (np.log(alpha) - np.log(sigma))),
            "_log_snr",
            log_snr,
            expected="log alpha^2/sigma^2 of _marginal",
        )
        falls = np.append(True, np.diff(log_snr) <= 0)
        hold(falls, "_log_snr", log_snr, expected="one that falls as t grows")
        (back,) = values(lambda t: [process.log_snr(process.time_at_log_snr(process.log_snr(t)))])
        hold(near(back, log_snr), "_log_snr(_time_at(_log_snr(t)))", back, log_snr, expected="the log-SNR itself")
        d_alpha, d_sigma, f, g = values(lambda t: [*process.velocity(t), *process._sde(t)])
        hold(near(f, d_alpha / alpha), "_sde", f, expected="f = d log alpha/dt of _marginal")
        spread = 2 * sigma * (d_sigma - d_alpha / alpha * sigma)
        hold(near(g**2, spread) & ((g >= 0) | outside), "_sde", g, expected="g^2 = 2 sigma (sigma' - f sigma)")
