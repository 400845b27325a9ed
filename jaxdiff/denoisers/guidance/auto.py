"""Autoguidance: guidance away from a weaker version of the same model."""

import dataclasses
from typing import Any

from jaxdiff.denoisers.checks import check_same_process
from jaxdiff.denoisers.denoiser import DenoiserLike, check_denoiser, check_start_of
from jaxdiff.denoisers.guidance.scale import Interval, Scale, Scaled, scale_at
from jaxdiff.denoisers.guidance.sharpening import check_same_sharpenings
from jaxdiff.processes import extrapolated, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Auto(Scaled):
    """Autoguidance: weak + scale (denoiser - weak), both with the same cond.

    Args:
        denoiser: the denoiser; scale 1 is this one alone.
        weak: a smaller or less trained model of the same process; scale 0 is this one alone. Wrap one of another
            process in `OnProcess`.
        scale: a number, one per example `[batch]`, or an `Interval`.

    Raises:
        TypeError: if one of the two is not a denoiser.
        ValueError: if their processes or their sharpenings (`TopK`, ...) differ; when called, if the logits of one
            model of categories are read as "data" and those of the other as "leave_one_out".

    Source:
        Karras et al. 2024, "Guiding a diffusion model with a bad version of itself".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> weak = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), 4 * jnp.eye(2))
        >>> guided = jd.guidance.Auto(denoiser, weak, 2.0)
        >>> x = jnp.ones((1, 2))
        >>> expected = 2 * jd.score(denoiser, x, 0.5) - jd.score(weak, x, 0.5)
        >>> bool(jnp.allclose(jd.score(guided, x, 0.5), expected, atol=1e-5))
        True
    """

    denoiser: DenoiserLike
    weak: DenoiserLike
    scale: Scale | Interval = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_denoiser(self.weak, "weak")
        check_same_process("weak", self.weak, self.denoiser, "wrap weak in OnProcess")
        check_same_sharpenings("weak", self.weak, self.denoiser)

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """Both denoisers, with the same cond."""
        return [(self.weak, cond), (self.denoiser, cond)]

    def check_start(self, t) -> None:
        """Raise if one of the denoisers has no prediction at a concrete `t`."""
        check_start_of(self.denoiser, t)
        check_start_of(self.weak, t)

    def __call__(self, x, t, cond=None) -> Any:
        answers = [denoiser(x, t, given) for denoiser, given in self.asked(cond)]
        return extrapolated(answers, [scale_at(self.scale, self.process, t, x, 1.0)])
