"""Autoguidance: away from a weaker model of the same."""

import dataclasses
from typing import Any

from jaxdiff.denoisers.checks import check_same_process
from jaxdiff.denoisers.denoiser import DenoiserLike, check_denoiser, check_start_of
from jaxdiff.denoisers.guidance.scale import Interval, Scale, Scaled, scale_at
from jaxdiff.processes import extrapolated, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Auto(Scaled):
    """Autoguidance (Karras et al. 2024, "Guiding a diffusion model with a bad version of itself"): away from `weak`.

    weak + scale (denoiser - weak), both under the same cond: 0 is the weak model, 1 the denoiser itself; a number or an
    `Interval`. `weak` is a smaller or less trained model of the same process; one of another process goes through
    `OnProcess`. Raises ValueError where the processes are seen to differ.
    """

    denoiser: DenoiserLike
    weak: DenoiserLike
    scale: Scale | Interval = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_denoiser(self.weak, "weak")
        check_same_process("weak", self.weak, self.denoiser, "wrap weak in OnProcess")

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """Both, under the same cond."""
        return [(self.weak, cond), (self.denoiser, cond)]

    def check_start(self, t) -> None:
        """Raise where one of both denoisers has no answer at a concrete `t`."""
        check_start_of(self.denoiser, t)
        check_start_of(self.weak, t)

    def __call__(self, x, t, cond=None) -> Any:
        answers = [denoiser(x, t, given) for denoiser, given in self.asked(cond)]
        return extrapolated(answers, [scale_at(self.scale, self.process, t, x, 1.0)])
