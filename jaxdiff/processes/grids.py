"""The times at which a sampler runs: equal steps in t, in the angle, in log-SNR, in α, or in the ρ-th root of σ/α.

A grid is a coordinate u(t). With `t_end` it returns `steps + 1` times from `t_start` to `t_end`, equally spaced in u.
Without `t_end` the run goes on to clean data: the grid returns the `steps` times at which the denoiser is called, and
the sampler's last step is the denoiser's answer at the last of them. For a process with noise at t = 0 the last time is
t = 0 (VE, EDM: this is the sequence of Karras et al. 2022, eq. 5). For the others t = 0 is the clean data, which is the
end of the last of the equal steps (T, ..., 1 of a DDPM table), except where u is infinite there: log-SNR and Karras
grids stop at t = 0.001 (Song et al. 2021, appendix C).
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    as_argument,
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
_LOWEST_LOG_SNR = -14.0  # where a grid begins whose u is infinite at α = 0; VP(0.1, 20) ends at -10.05


def check_times(times) -> jax.Array:
    """`times` as an array of at least two times in [0, 1], strictly decreasing.

    Traced times outside [0, 1] or increasing give NaN; two equal ones have no step between them.
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
    """(high, low) as single times in [0, 1]: ValueError if concrete ones do not decrease, NaN for traced ones."""
    high, low = check_one_time(high, names[0]), check_one_time(low, names[1])
    first, second = names
    message = f"{first} = {{high}}, {second} = {{low}}; expected times that decrease from noise to data: swap them"
    return check_above(high, low, message), low


def check_beside(name: str, t, default: float, end, verb: str) -> jax.Array:
    """`end`, the first or last of an array of times, if the argument `t` given along with it is its default or `end`.

    `verb` is "start" or "end". Raises ValueError if both are concrete and `t` differs; a traced one gives NaN.
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
    """`grid` if it is a grid, or as an array of decreasing times; an error for anything else."""
    if isinstance(grid, str | type) or (callable(grid) and not isinstance(grid, Grid)):
        raise TypeError(f"grid = {said(grid)}; expected one of jaxdiff.grids, such as Angle(), or an array of times")
    return as_argument("grid", grid) if isinstance(grid, Grid) else check_times(grid)


class Grid(abc.ABC):
    """The times of a run, equally spaced in a coordinate u(t); the base class of the grids.

    Call it as `grid(process, steps)`. An array of decreasing times can be given in place of a grid everywhere.

    Examples:
        >>> import jaxdiff as jd
        >>> grid = jd.grids.Time()
        >>> grid(jd.VP(), 4).tolist()  # on to clean data
        [1.0, 0.75, 0.5, 0.25]
        >>> grid(jd.VP(), 2, 1.0, 0.5).tolist()  # down to t_end
        [1.0, 0.75, 0.5]
    """

    _finite = True  # whether u(0) is finite for σ(0) = 0

    @abc.abstractmethod
    def _coordinate(self, process: Process, t) -> jax.Array: ...

    @abc.abstractmethod
    def _time(self, process: Process, u) -> jax.Array: ...

    def _between(self, process: Process, first, last, fraction) -> jax.Array:
        span = jnp.where(first == last, 0.0, last - first)  # both may be infinite at t = 0
        return self._time(process, first + fraction * span)

    def __call__(self, process: Process, steps: int, t_start: Any = 1.0, t_end: Any = None) -> jax.Array:
        """The decreasing times of a run of `process`.

        Args:
            process: the process.
            steps: the number of steps, at least 1.
            t_start: the first time, where the run starts.
            t_end: the last time; None goes on to clean data.

        Returns:
            Times `[steps]` for a run to clean data, or `[steps + 1]` down to `t_end`.

        Raises:
            ValueError: if `steps` is less than 1, or concrete ends are not decreasing numbers in [0, 1] (traced ones
                give NaN).
        """
        check_process(process)
        steps = check_whole("steps", steps)
        check_room(f"the grid of steps = {steps}, with its intermediate arrays,", steps, itemsize=32)
        if ended := t_end is not None:
            t_start, t_end = check_ends(t_start, t_end)
        else:
            t_start, t_end = check_one_time(t_start, "t_start"), 0.0
        clean = process.angle(t_end) == 0
        if self._finite:
            to_end, last_time = ended | clean, t_end
        else:  # the last step to clean data starts where u is still finite
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
    """Equal steps in t.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.grids.Time()(jd.VP(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25]
    """

    def _coordinate(self, process, t):
        return jnp.asarray(t, float)

    def _time(self, process, u):
        return u


@pytree
@dataclasses.dataclass(frozen=True)
class Angle(Grid):
    """Equal steps in the rotation's angle φ = atan2(σ, α), which is finite at both ends of every process.

    Examples:
        >>> import jaxdiff as jd
        >>> times = jd.grids.Angle()(jd.Flow(), 2)
        >>> [round(t, 3) for t in times.tolist()]  # half way in the angle, alpha = sigma
        [1.0, 0.5]
    """

    def _coordinate(self, process, t):
        return process.angle(t)

    def _time(self, process, u):
        return process.time_at_angle(u)


@pytree
@dataclasses.dataclass(frozen=True)
class LogSNR(Grid):
    """Equal steps in log-SNR, starting at λ = -14 where α(1) = 0 (`Flow`, `Cosine`).

    Source:
        Lu et al. 2022, "DPM-Solver", section 4.

    Examples:
        >>> import jaxdiff as jd
        >>> times = jd.grids.LogSNR()(jd.VE(0.01, 100.0), 3)
        >>> [round(t, 3) for t in times.tolist()]  # the log-SNR of VE is linear in t
        [1.0, 0.5, 0.0]
    """

    _finite = False

    def _coordinate(self, process, t):
        return jnp.maximum(process.log_snr(t), _LOWEST_LOG_SNR)

    def _time(self, process, u):
        return process.time_at_log_snr(u)


@pytree
@dataclasses.dataclass(frozen=True)
class Karras(Grid):
    """Equal steps in (σ/α)^{1/ρ}.

    Args:
        rho: ρ, above 0; larger values take smaller steps near the data.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", eq. 5.

    Examples:
        >>> import jaxdiff as jd
        >>> times = jd.grids.Karras(rho=7.0)(jd.EDM(rho=7.0), 3)
        >>> [round(t, 3) for t in times.tolist()]  # for EDM these are equal steps in t
        [1.0, 0.5, 0.0]
    """

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
    """Equal steps in α/(α + σ), which for categories is α: each step of `Absorbing` unmasks as many values on average.

    On this grid the steps of `Ancestral` and `Unmask` do not depend on the schedule. Those of `TauLeaping` do, since it
    holds the rates at t for a time t - s.

    Source:
        Shi et al. 2024, "Simplified and generalized masked diffusion for discrete data".

    Examples:
        >>> import jaxdiff as jd
        >>> process = jd.Absorbing(27, jd.schedules.Cosine())
        >>> times = jd.grids.Kept()(process, 4)
        >>> [round(alpha, 3) for alpha in process.alpha(times).tolist()]
        [0.0, 0.25, 0.5, 0.75]
    """

    def _coordinate(self, process, t):
        return jax.nn.sigmoid(process.log_snr(t) / 2)

    def _time(self, process, u):
        return process.time_at_log_snr(2 * (ends.log(u) - ends.log(1 - u)))
