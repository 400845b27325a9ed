"""Noise levels to sample at: equal steps in t, in the angle, in log-SNR, in α, or in the ρ-th root of σ/α.

A grid is a coordinate u(t). With `t_end` given it returns `steps + 1` times from `t_start` to `t_end`, equally far
apart in u. Without, the run goes on to clean data and the grid returns the `steps` noise levels it visits on the way;
the sampler's last step is the denoiser's answer at the last of them. That last level is σ(0) for a process that has
noise at t = 0 (VE, EDM: this is the sequence of Karras et al. 2022, eq. 5). For the others t = 0 is the clean data
itself and counts as the last of the equal steps (T, ..., 1 of a DDPM table), except where u is infinite there: log-SNR
and Karras grids stop at t = 0.001 (Song et al. 2021, appendix C).
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    check_above,
    check_field,
    check_room,
    check_scalar,
    check_time,
    check_whole,
    is_concrete,
    nan_unless,
    pytree,
    said,
)
from jaxdiff.processes import ends
from jaxdiff.processes.process import Process, check_process

_LAST_TIME = 1e-3
_LOWEST_LOG_SNR = -14.0  # a grid that is infinite at α = 0 counts from here; VP(0.1, 20) ends at -10.05


def check_times(times) -> jax.Array:
    """`times` as an array of at least two, decreasing strictly within [0, 1].

    Traced ones that leave [0, 1] or rise are NaN; where two of them are equal, there is no step between them.
    """
    given, times = times, check_time(times, "grid")
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"grid has shape {times.shape}; expected an array of at least two times, from noise to data")
    if not is_concrete(given):
        return nan_unless((jnp.diff(times) <= 0).all(), times)
    if not (np.diff(np.asarray(given).astype(times.dtype)) < 0).all():
        raise ValueError("grid must decrease strictly from noise (t near 1) to data (t near 0); reverse or sort it")
    return times


def check_one_time(t, name: str) -> jax.Array:
    """`t` as a single time in [0, 1]; ValueError for an array of several."""
    t = check_time(t, name)
    if t.ndim:
        check_scalar(name, t)
    return t


def check_ends(high, low, names: tuple[str, str] = ("t_start", "t_end")) -> tuple[jax.Array, jax.Array]:
    """(high, low) as single times in [0, 1]: ValueError where they are known and do not decrease, otherwise NaN."""
    high, low = check_one_time(high, names[0]), check_one_time(low, names[1])
    first, second = names
    message = f"{first} = {{high}}, {second} = {{low}}; expected times that decrease from noise to data: swap them"
    return check_above(high, low, message), low


def check_beside(name: str, t, default: float, end, verb: str) -> jax.Array:
    """`end`, at which an array of times begins or ends (`verb`), where `t` given beside it is the default or `end`.

    Raises ValueError where both are known and `t` is another; a traced one gives NaN.
    """
    t = check_one_time(t, name)
    agrees = (t == jnp.asarray(default, t.dtype)) | (t == end.astype(t.dtype))
    if not is_concrete(agrees):
        return nan_unless(agrees, end)
    if not agrees:
        at = f"{verb}s at {float(end):.6g}; leave {name} out, or {verb} the array there"
        raise ValueError(f"{name} = {float(t):.6g}, but the array as grid {at}")
    return end


def check_grid(grid) -> "Grid | jax.Array":
    """`grid`, one of this module's or an array of decreasing times; an error for what is neither."""
    if isinstance(grid, str | type) or (callable(grid) and not isinstance(grid, Grid)):
        raise TypeError(f"grid = {said(grid)}; expected one of jaxdiff.grids, such as Angle(), or an array of times")
    return grid if isinstance(grid, Grid) else check_times(grid)


class Grid(abc.ABC):
    """A coordinate u(t) and its inverse; `_finite` says that u(0) is finite where σ = 0."""

    _finite = True

    @abc.abstractmethod
    def _coordinate(self, process: Process, t) -> jax.Array: ...

    @abc.abstractmethod
    def _time(self, process: Process, u) -> jax.Array: ...

    def _between(self, process: Process, first, last, fraction) -> jax.Array:
        span = jnp.where(first == last, 0.0, last - first)  # both may be infinite, at the data
        return self._time(process, first + fraction * span)

    def __call__(self, process: Process, steps: int, t_start: Any = 1.0, t_end: Any = None) -> jax.Array:
        """Decreasing times, [steps] to go on to clean data or [steps + 1] down to `t_end`.

        Raises ValueError for fewer than one step, and for ends that are no numbers in [0, 1] or the wrong way round
        (traced, these give NaN).
        """
        check_process(process)
        steps = check_whole("steps", steps)
        check_room(f"the grid of steps = {steps}, with what it is made of,", steps, itemsize=32)
        if ended := t_end is not None:
            t_start, t_end = check_ends(t_start, t_end)
        else:
            t_start, t_end = check_one_time(t_start, "t_start"), 0.0
        clean = process.angle(t_end) == 0
        if self._finite:
            to_end, last_time = ended | clean, t_end
        else:  # the last step to clean data goes from where u is still finite
            to_end, last_time = ended & ~clean, jnp.where(clean, jnp.minimum(_LAST_TIME, t_start / 2), t_end)
        index = jnp.arange(steps + ended)
        fraction = jnp.where(to_end, index / steps, index / max(steps - 1, 1))
        first, last = self._coordinate(process, t_start), self._coordinate(process, last_time)
        times = jnp.clip(self._between(process, first, last, fraction), t_end, t_start).at[0].set(t_start)
        times = times.at[-1].set(t_end) if ended else times
        process.check_times(lambda: times)
        return times


@pytree
@dataclasses.dataclass(frozen=True)
class Time(Grid):
    """Equal steps in t."""

    def _coordinate(self, process, t):
        return jnp.asarray(t, float)

    def _time(self, process, u):
        return u


@pytree
@dataclasses.dataclass(frozen=True)
class Angle(Grid):
    """Equal steps in the rotation's angle φ = atan2(σ, α): finite at both ends of every process."""

    def _coordinate(self, process, t):
        return process.angle(t)

    def _time(self, process, u):
        return process.time_at_angle(u)


@pytree
@dataclasses.dataclass(frozen=True)
class LogSNR(Grid):
    """Equal steps in log-SNR (Lu et al. 2022, section 4); from λ = -14 down where α(1) = 0 (Flow, Cosine)."""

    _finite = False

    def _coordinate(self, process, t):
        return jnp.maximum(process.log_snr(t), _LOWEST_LOG_SNR)

    def _time(self, process, u):
        return process.time_at_log_snr(u)


@pytree
@dataclasses.dataclass(frozen=True)
class Karras(Grid):
    """Equal steps in (σ/α)^{1/ρ} (Karras et al. 2022, eq. 5)."""

    rho: float = 7.0

    _finite = False

    def __post_init__(self):
        check_field(self, "rho", above=0)

    def _coordinate(self, process, t):
        return jnp.exp(-jnp.maximum(process.log_snr(t), _LOWEST_LOG_SNR) / (2 * self.rho))

    def _time(self, process, u):
        return process.time_at_log_snr(-2 * self.rho * ends.log(u))


@pytree
@dataclasses.dataclass(frozen=True)
class Kept(Grid):
    """Equal steps in α/(α + σ), of categories α itself, the share that is kept: each step of `Absorbing` shows as many.

    Every schedule is one sampler of categories on it (Shi et al. 2024, "Simplified and generalized masked diffusion").
    """

    def _coordinate(self, process, t):
        return jax.nn.sigmoid(process.log_snr(t) / 2)

    def _time(self, process, u):
        return process.time_at_log_snr(2 * (ends.log(u) - ends.log(1 - u)))
