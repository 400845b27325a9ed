r"""A schedule that learns to make the estimate of the loss steady (Kingma et al. 2021, section 5.1 and appendix I).

The bound in continuous time has the same mean L under every path of the log-SNR between two ends, so its own gradient
teaches the path nothing. E L² = (E L)² + Var L does: its gradient in the path is that of the variance. So the network
follows the gradient of L and the process, at the same draws, that of L².
"""

import dataclasses
from typing import ClassVar

import jax

from jaxdiff.arrays import as_argument, check_function, check_instance, pytree, said
from jaxdiff.denoisers import WithProcess
from jaxdiff.losses.counted import called
from jaxdiff.losses.loss import Loss


@pytree
@dataclasses.dataclass(frozen=True)
class LeastVariance:
    """`loss` of a `jaxdiff.denoisers.WithProcess`, from which the network learns `loss` and the process its square.

    Its value is that of `loss`, whose mean must not depend on what of the process learns, such as
    `Denoising(weightings.Likelihood(), times.Stratified(t_min=0.0))` of a `LearnedVP`.

    Raises TypeError for a denoiser that does not train its process, ValueError for a loss that drops conditions.
    """

    learns: ClassVar = "process"

    loss: Loss

    def __post_init__(self):
        check_function("loss", self.loss, "a loss, such as jaxdiff.losses.Denoising()")
        object.__setattr__(self, "loss", as_argument("loss", self.loss))
        if hasattr(self.loss, "rates"):
            raise ValueError(f"loss = {said(self.loss)} drops conditions; put it around LeastVariance, not inside")

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        check_instance("denoiser", denoiser, WithProcess, "jaxdiff.denoisers.WithProcess(denoiser)")
        params = denoiser.params
        holding = lambda part: denoiser.with_params(params | {part: jax.lax.stop_gradient(params[part])})
        value = called(self.loss, holding("process"), key, x0, cond, weight)
        square = called(self.loss, holding("network"), key, x0, cond, weight) ** 2
        return value + (square - jax.lax.stop_gradient(square))
