r"""A schedule that learns to minimise the variance of the loss (Kingma et al. 2021, section 5.1 and appendix I).

The bound in continuous time has the same mean L under every path of the log-SNR between two ends, so its gradient in
the path has mean 0. E L² = (E L)² + Var L, so the gradient of L² in the path is that of the variance. Therefore the
network follows the gradient of L and the process, at the same random numbers, that of L².
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
    """Train a network together with its process: the network minimises a loss, the process the loss's variance.

    The denoiser must be a `jaxdiff.denoisers.WithProcess`. The value is that of `loss`; its gradient in the parameters
    of the process is that of the squared loss.

    Args:
        loss: a loss whose mean does not depend on the process's parameters, such as
            `Denoising(weightings.Likelihood(), times.Stratified(t_min=0.0))` for a `LearnedVP`.

    Raises:
        TypeError: if the denoiser is not a `WithProcess`.
        ValueError: if `loss` drops conditions.

    Source:
        Kingma et al. 2021, "Variational diffusion models", section 5.1 and appendix I.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * x
        >>> denoiser = jd.denoisers.WithProcess(jd.Denoiser(network, jnp.ones(()), jd.LearnedVP()))
        >>> loss = jd.losses.LeastVariance(jd.losses.Bound(jd.losses.times.Stratified(t_min=0.0)))
        >>> loss(denoiser, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
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
