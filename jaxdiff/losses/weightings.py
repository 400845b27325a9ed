r"""Weightings of the noise levels in a loss, as a weight on the squared error of v = cos φ ε - sin φ x_0.

For the denoiser's x_0 and ε, which always recombine to x, the three errors are one:

    x_0 error = -sin φ · v error          ε error = cos φ · v error          out error = det/q · v error

so a weight w on |x_0 error|² is w sin² φ on |v error|², and stays finite at both ends. A weighting is a frozen
dataclass called as `weighting(denoiser, t) -> [n]`; `Simple` and `EDM` read the parameterization and data_std of a
`Denoiser`. A number out of range raises ValueError; a traced one gives NaN.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_field, check_function, check_output
from jaxdiff.denoisers import check_denoiser, check_numbers
from jaxdiff.processes import pytree

_OF_ANY = "take Simple(), Likelihood() or Sigmoid()"


class Weighting(Protocol):
    """The interface of a weighting: a callable pytree `(denoiser, t) -> weights`.

    To define a weighting, write `__call__` in a frozen dataclass under `@jaxdiff.pytree`.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class OfData:
        ...     def __call__(self, denoiser, t):
        ...         return jnp.sin(denoiser.process.angle(t)) ** 2  # the squared error of x_0
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params * x, jnp.ones(()), jd.Flow())
        >>> weights = OfData()(denoiser, jnp.array([0.5]))  # alpha = sigma: sin(45°)²
        >>> round(float(weights[0]), 3)
        0.5
    """

    def __call__(self, denoiser, t, /) -> jax.Array:
        """The weights [n] of the squared errors of v at t [n]."""
        ...


def check_weighting(weighting) -> None:
    """Raise TypeError if `weighting` is not a weighting."""
    check_function("weighting", weighting, "one of jaxdiff.losses.weightings, such as Simple()")


def weights(weighting, denoiser, t) -> jax.Array:
    """The weights of `weighting` at t [n]; an error if they have another shape."""
    found = weighting(denoiser, t)
    check_output("weighting", found, t)
    return found


def _check_own(weighting, denoiser, attribute: str) -> None:
    if not hasattr(denoiser, attribute):
        raise TypeError(
            f"weighting = {weighting} reads the {attribute} of a jaxdiff.Denoiser, but {type(denoiser).__name__} has "
            "none; expected Likelihood(), MinSNR() or Sigmoid()"
        )


@pytree
@dataclasses.dataclass(frozen=True)
class Simple:
    """The same weight for every error of the network's output, by its parameterization; L_simple of DDPM for "noise".

    Raises:
        TypeError: when called, if the denoiser has no parameterization.

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 14.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * x
        >>> denoiser = jd.Denoiser(network, jnp.ones(()), jd.Flow(), "noise")
        >>> weights = jd.losses.weightings.Simple()(denoiser, jnp.array([0.5]))
        >>> round(float(weights[0]), 3)  # |noise error|² = cos² φ |v error|², with φ = 45°
        0.5
    """

    def __call__(self, denoiser, t) -> jax.Array:
        check_denoiser(denoiser)
        _check_own(self, denoiser, "error_scale")
        return denoiser.error_scale(t) ** 2


@pytree
@dataclasses.dataclass(frozen=True)
class Likelihood:
    """The weight -dλ/dt SNR/2 of |x_0 error|², the rate: with t uniform the loss is the variational bound.

    `Denoising` with it is the diffusion term of the bound in nats per dimension, for numbers and for masks;
    `jaxdiff.losses.Bound` is the bound of every process.

    Source:
        Kingma et al. 2021, "Variational diffusion models", eq. 17.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * jnp.ones((*x.shape, 4))
        >>> denoiser = jd.Denoiser(network, jnp.ones(()), jd.Absorbing(4))
        >>> weights = jd.losses.weightings.Likelihood()(denoiser, jnp.array([0.5]))
        >>> round(float(weights[0]), 3)  # 1/t
        2.0
    """

    def __call__(self, denoiser, t) -> jax.Array:
        check_denoiser(denoiser)
        return denoiser.process.rate(t)


@pytree
@dataclasses.dataclass(frozen=True)
class MinSNR:
    """The weight min(SNR, gamma) of |x_0 error|².

    It is the minimum of the paper, which some implementations replace by another function.

    Args:
        gamma: the upper bound of the weight, above 0; inf weighs the squared error of the noise.

    Source:
        Hang et al. 2023, "Efficient diffusion training via min-SNR weighting strategy", eq. 7.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params * x, jnp.ones(()), jd.Flow())
        >>> weights = jd.losses.weightings.MinSNR(5.0)(denoiser, jnp.array([0.5]))
        >>> round(float(weights[0]), 3)  # SNR = 1: sin² φ |v error|², with φ = 45°
        0.5
    """

    gamma: float = 5.0

    def __post_init__(self):
        check_field(self, "gamma", above=0, most=math.inf)

    def __call__(self, denoiser, t) -> jax.Array:
        phi = check_numbers(denoiser, f"weighting = {self}", _OF_ANY).angle(t)
        return jnp.minimum(jnp.cos(phi) ** 2, along_batch(self.gamma, phi, "gamma") * jnp.sin(phi) ** 2)


@pytree
@dataclasses.dataclass(frozen=True)
class EDM:
    """The weight 1/c_out² of |x_0 error|², (σ² + s²)/(σ s)² at α = 1, with s the denoiser's `data_std`.

    It equals `Simple` for the parameterization "edm".

    Raises:
        TypeError: when called, if the denoiser has no `data_std`, or its process is not one of numbers.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", table 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * x
        >>> denoiser = jd.Denoiser(network, jnp.ones(()), jd.EDM(), "edm", data_std=0.5)
        >>> t = jnp.array([0.2, 0.8])
        >>> weightings = jd.losses.weightings
        >>> bool(jnp.allclose(weightings.EDM()(denoiser, t), weightings.Simple()(denoiser, t), rtol=1e-3))
        True
    """

    def __call__(self, denoiser, t) -> jax.Array:
        process = check_numbers(denoiser, f"weighting = {self}", _OF_ANY)
        _check_own(self, denoiser, "data_std")
        phi = process.angle(t)
        return (jnp.sin(phi) / along_batch(denoiser.data_std, phi, "data_std")) ** 2 + jnp.cos(phi) ** 2


@pytree
@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """The weight of `Likelihood` times sigmoid(bias - λ), which lowers that of the smallest noise levels.

    Args:
        bias: the log-SNR at which the sigmoid is 1/2.

    Source:
        Kingma and Gao 2023, "Understanding diffusion objectives as the ELBO with simple data augmentation", section 3.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * jnp.ones((*x.shape, 4))
        >>> denoiser = jd.Denoiser(network, jnp.ones(()), jd.Absorbing(4))
        >>> weights = jd.losses.weightings.Sigmoid(bias=0.0)(denoiser, jnp.array([0.5]))  # λ = 0 at t = 1/2
        >>> round(float(weights[0]), 3)  # 1/t times sigmoid(0)
        1.0
    """

    bias: float = 2.0

    def __post_init__(self):
        check_field(self, "bias")

    def __call__(self, denoiser, t) -> jax.Array:
        check_denoiser(denoiser)
        bias = along_batch(self.bias, t, "bias")
        return denoiser.process.rate(t) * jax.nn.sigmoid(bias - denoiser.process.log_snr(t))
