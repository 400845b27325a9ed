"""The scale of guidance: a number, or a number between two noise levels."""

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    along_batch,
    check_field,
    check_field_above,
    check_scalar,
    check_shared,
    count,
    nan_unless,
    said,
)
from jaxdiff.denoisers.denoiser import Wrapper, check_denoiser
from jaxdiff.processes import Process, pytree

if TYPE_CHECKING:
    Scale = float | np.ndarray | jax.Array
else:
    Scale = float  # as words read it


@pytree
@dataclasses.dataclass(frozen=True)
class Interval:
    """A guidance scale that applies where low < σ/α <= high, with no guidance elsewhere.

    It may be given wherever a scale is expected. Outside, the scale is 1 for `ClassifierFree` and `Auto`, and 0 for
    classifiers and measurements.

    Args:
        scale: the scale inside, a number or one per example `[batch]`.
        low: the lower noise level, 0 or more, or one per example `[batch]`.
        high: the upper noise level, above `low`, or one per example `[batch]`.

    Raises:
        ValueError: if the interval is empty (a traced one gives NaN instead).

    Source:
        Kynkäänniemi et al. 2024, "Applying guidance in a limited interval improves sample and distribution quality in
        diffusion models", section 3.

    Examples:
        >>> import jaxdiff as jd
        >>> scale = jd.guidance.Interval(3.0, low=0.5, high=2.0)
        >>> process = jd.Flow()  # σ/α = t/(1 - t)
        >>> [float(scale.at(process, t, 1.0)) for t in (0.2, 0.5, 0.8)]
        [1.0, 3.0, 1.0]
    """

    scale: Scale
    low: Scale = 0.0
    high: Scale = math.inf

    def __post_init__(self):
        check_field(self, "scale")
        check_field(self, "low", least=0)
        check_field(self, "high", above=0, most=math.inf)
        message = "low = {low}, high = {high}; expected noise levels σ/α with 0 <= low < high"
        check_field_above(self, "high", "low", message)

    def at(self, process: Process, t, otherwise: float) -> jax.Array:
        """The scale at `t`, of the shape of `t`; `otherwise` outside the interval."""
        ratio = jnp.exp(-process.log_snr(t) / 2)
        scale, low, high = (along_batch(getattr(self, name), ratio, name) for name in ("scale", "low", "high"))
        within = jnp.where((low < ratio) & (ratio <= high), scale, otherwise)
        return nan_unless((low >= 0) & (high > 0), within)


@pytree
@dataclasses.dataclass(frozen=True)
class Parts:
    """A scale for each named part of a condition, in the order in which the parts are revealed."""

    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    scales: tuple[Scale | Interval, ...]


def as_parts(scale: dict) -> Parts:
    """A dictionary of scales as `Parts`, which keep its order (JAX would sort it); raises for anything else."""
    if not scale or not all(isinstance(name, str) for name in scale):
        raise ValueError(f"scale = {said(scale)}; expected a scale for each named part of cond, at least one")
    if "token_mask" in scale:
        raise ValueError(f"scale = {said(scale)}; token_mask is revealed with tokens, leave it out")
    checked = []
    for name, value in scale.items():
        shown = f"scale[{name!r}]"
        check_shared(shown, value)
        checked.append(value if isinstance(value, Interval) else check_scalar(shown, value))
    return Parts(tuple(scale), tuple(checked))


class Scaled(Wrapper):
    """Guidance by a number or an `Interval`."""

    scale: Scale | Interval

    def __post_init__(self):
        check_denoiser(self.denoiser)
        if not isinstance(self.scale, Interval | Parts):
            check_field(self, "scale")


def scale_at(scale, process: Process, t, x, otherwise: float):
    """`scale` at t: one number, or one per example; `otherwise` outside an interval."""
    if isinstance(scale, Interval):
        return scale.at(process, jnp.broadcast_to(t, count(x)), otherwise)
    return scale
