"""A denoiser and its process trained together: the schedule learns with the network."""

import dataclasses
from typing import Any

from jaxdiff.arrays import pytree, rebuilt, said
from jaxdiff.denoisers.condition import no_label_of
from jaxdiff.denoisers.denoiser import Wrapper, check_denoiser, with_params


@pytree
@dataclasses.dataclass(frozen=True)
class WithProcess(Wrapper):
    """A denoiser whose process is trained with its network.

    Its `params` are `{"network": ..., "process": ...}`, the parameters of the denoiser and those of its process. Train
    it like any other denoiser; then `.denoiser` of the result holds the learned weights and the learned process.

    Args:
        denoiser: a denoiser with `params`, whose process has `params` and `with_params(params)`, such as
            `jaxdiff.LearnedVP`.

    Raises:
        TypeError: if the denoiser or its process has no parameters.

    Source:
        Kingma et al. 2021, "Variational diffusion models", for a learned schedule.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params["scale"] * x
        >>> denoiser = jd.Denoiser(network, {"scale": jnp.ones(())}, jd.LearnedVP())
        >>> sorted(jd.denoisers.WithProcess(denoiser).params)
        ['network', 'process']
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
        """The parameters of the network and of the process."""
        process: Any = self.process
        return {"network": self.denoiser.params, "process": process.params}

    def with_params(self, params: dict[str, Any]) -> "WithProcess":
        """The same with other weights and other numbers of the process."""
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
