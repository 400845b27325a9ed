"""What strong guidance does to x_0, and two ways to undo it.

Guidance multiplies a difference, so that x_0 leaves the range of the data. Both remedies multiply x_0 alone and
recompute the noise, so that x = α x_0 + σ ε still holds (where σ > 0).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_batch, check_field
from jaxdiff.denoisers.denoiser import DenoiserLike, Wrapper, check_numbers
from jaxdiff.processes import Prediction, expand_time, pytree


def with_data(process: Any, predicted: Prediction, data, t) -> Prediction:
    """`predicted` with another `data`, and the matching noise at the same x."""
    alpha, sigma = (expand_time(c, data) for c in process.marginal(t))
    ratio = jnp.where(sigma > 0, alpha / jnp.where(sigma > 0, sigma, 1.0), 0.0)
    before, noise = predicted
    noise = noise + ratio * (before - data)
    return dataclasses.replace(predicted, data=data, noise=noise)


def rescaled(process: Any, guided: Prediction, conditional: Prediction, share, t) -> Prediction:
    """Guidance rescale (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", section 3.4).

        x_0 <- x_0 (share std(x_0 conditional)/std(x_0 guided) + 1 - share)

    with the standard deviation over all values of an example. The paper uses that of the network's output; here it is
    that of x_0, which every parameterisation has, and whose contrast guidance exaggerates. At high noise it is also
    that of the paper's v, up to a sign. If one of the two predictions is constant nothing changes.
    """
    variance = lambda one: jnp.var(one.data, range(1, one.data.ndim), keepdims=True)
    ours, like = variance(guided), variance(conditional)
    varies = (ours > 0) & (like > 0)
    ratio = jnp.where(varies, jnp.sqrt(jnp.where(varies, like, 1.0) / jnp.where(varies, ours, 1.0)), 1.0)
    share = along_batch(share, guided.data, "rescale")
    return with_data(process, guided, guided.data * (share * ratio + (1 - share)), t)


@pytree
@dataclasses.dataclass(frozen=True)
class DynamicThreshold(Wrapper):
    """Dynamic thresholding, for guidance so strong that x_0 leaves the range of the data.

    s is the `quantile` of |x_0| within each example, at least `bound`. x_0 is clipped to [-s, s] and divided by
    s/bound, so that it lies within ±bound. The noise is recomputed: x = α x_0 + σ ε still holds (where σ > 0).

    Args:
        denoiser: a denoiser of numbers, usually a guided one.
        quantile: a fraction in [0, 1], or one per example `[batch]`.
        bound: the largest absolute value of the data, above 0, or one per example `[batch]`.

    Raises:
        TypeError: if the process is not one of numbers.
        ValueError: if `quantile` is outside [0, 1] or `bound` is not above 0 (traced ones give NaN instead).

    Source:
        Saharia et al. 2022, "Photorealistic text-to-image diffusion models with deep language understanding" (Imagen),
        section 2.3.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.array([4.0, -2.0]), 0.01 * jnp.eye(2))
        >>> limited = jd.guidance.DynamicThreshold(denoiser, quantile=1.0, bound=1.0)
        >>> limited(jnp.zeros((1, 2)), 1.0).data.round(2).tolist()  # about (4, -2), divided by 4
        [[1.0, -0.5]]
    """

    denoiser: DenoiserLike
    quantile: float = 0.995
    bound: float = 1.0

    def __post_init__(self):
        check_numbers(self.denoiser, "DynamicThreshold")
        check_field(self, "quantile", least=0, most=1, noun="a fraction", fix=", such as 0.995")
        check_field(self, "bound", above=0, noun="the largest value of the data,")

    def __call__(self, x, t, cond=None) -> Prediction:
        x = check_batch(x)
        predicted = self.denoiser(x, t, cond)
        data, _ = predicted
        quantile = jnp.broadcast_to(along_batch(self.quantile, x, "quantile").ravel(), x.shape[:1])
        size = jax.vmap(jnp.quantile)(jnp.abs(data).reshape(len(data), -1), quantile)
        bound = along_batch(self.bound, x, "bound")
        size = jnp.maximum(expand_time(size, data), bound)
        return with_data(self.process, predicted, jnp.clip(data, -size, size) * (bound / size), t)
