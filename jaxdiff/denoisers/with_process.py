"""A denoiser and its process as one thing that is trained: a schedule that learns beside the network."""

import dataclasses
from typing import Any

from jaxdiff.arrays import pytree, rebuilt, said
from jaxdiff.denoisers.condition import no_label_of
from jaxdiff.denoisers.denoiser import Wrapper, check_denoiser, with_params


@pytree
@dataclasses.dataclass(frozen=True)
class WithProcess(Wrapper):
    """`denoiser`, whose `params` are {"network": its own, "process": what of its process learns}.

    A process that learns has `params` and `with_params(params)`, as `jaxdiff.LearnedVP`. It is trained as any denoiser
    is; `.denoiser` of the result has both the weights and the process that were learned.

    Raises TypeError for a denoiser or a process that has nothing to learn.
    """

    denoiser: Any

    def __post_init__(self):
        check_denoiser(self.denoiser)
        if not hasattr(self.denoiser, "params"):
            raise TypeError(f"denoiser = {said(self.denoiser)}; expected one with `params` to train")
        if not hasattr(self.process, "with_params"):
            raise TypeError(
                f"{said(self.process)} has nothing to learn; expected a process with `params` and `with_params`, "
                "such as jaxdiff.LearnedVP()"
            )

    @property
    def params(self) -> dict[str, Any]:
        """Those of the network, and those of the process."""
        process: Any = self.process
        return {"network": self.denoiser.params, "process": process.params}

    def with_params(self, params: dict[str, Any]) -> "WithProcess":
        """The same with another network's weights and another process's numbers."""
        process: Any = self.process
        denoiser = rebuilt(self.denoiser, process=process.with_params(params["process"]))
        return rebuilt(self, denoiser=with_params(denoiser, params["network"]))

    def no_label(self) -> int | None:
        return no_label_of(self.denoiser)

    @property
    def parameterization(self) -> Any:
        return self.denoiser.parameterization

    @property
    def data_std(self) -> Any:
        return self.denoiser.data_std

    def error_scale(self, t) -> Any:
        return self.denoiser.error_scale(t)

    def __call__(self, x, t, cond=None) -> Any:
        return self.denoiser(x, t, cond)
