r"""How much each noise level counts, as a weight on the error of v = cos φ ε - sin φ x_0.

For the denoiser's x_0 and ε, which always recombine to x, the three errors are one:

    x_0 error = -sin φ · v error          ε error = cos φ · v error          out error = det/q · v error

so a weight w on |x_0 error|² is w sin² φ on |v error|², and stays finite at both ends. A weighting is a frozen
dataclass called as `weighting(denoiser, t) -> [n]`; Simple and EDM read the row and data_std of a `Denoiser`. A
number out of range raises ValueError; one that is traced gives NaN.
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
    """What a weighting is: one of this module, or a frozen dataclass of your own under `@jaxdiff.pytree`."""

    def __call__(self, denoiser, t, /) -> jax.Array:
        """Weights [n] of the errors of v at t [n]."""
        ...


def check_weighting(weighting) -> None:
    """Raise TypeError for what is no weighting."""
    check_function("weighting", weighting, "one of jaxdiff.losses.weightings, such as Simple()")


def weights(weighting, denoiser, t) -> jax.Array:
    """The weights of `weighting` at t [n]; an error where they have another shape."""
    found = weighting(denoiser, t)
    check_output("weighting", found, t)
    return found


def _check_own(weighting, denoiser, attribute: str) -> None:
    if not hasattr(denoiser, attribute):
        raise TypeError(
            f"weighting = {weighting} reads the {attribute} of a jaxdiff.Denoiser, which {type(denoiser).__name__} has "
            "not; expected Likelihood(), MinSNR() or Sigmoid()"
        )


@pytree
@dataclasses.dataclass(frozen=True)
class Simple:
    """Every error of the network's output counts the same, whatever the output is (Ho et al. 2020, eq. 14)."""

    def __call__(self, denoiser, t) -> jax.Array:
        check_denoiser(denoiser)
        _check_own(self, denoiser, "error_scale")
        return denoiser.error_scale(t) ** 2


@pytree
@dataclasses.dataclass(frozen=True)
class Likelihood:
    """-dλ/dt SNR/2 |x_0 error|² = cot φ dφ/dt |v error|² (Kingma et al. 2021, eq. 17): for t uniform the loss is the
    variational bound's diffusion term, nats a dimension; of numbers and of masks, `jaxdiff.losses.Bound` of all."""

    def __call__(self, denoiser, t) -> jax.Array:
        check_denoiser(denoiser)
        return denoiser.process.rate(t)


@pytree
@dataclasses.dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) |x_0 error|² (Hang et al. 2023, eq. 7; the minimum, also where it is coded otherwise)."""

    gamma: float = 5.0

    def __post_init__(self):
        check_field(self, "gamma", above=0, most=math.inf)

    def __call__(self, denoiser, t) -> jax.Array:
        phi = check_numbers(denoiser, f"weighting = {self}", _OF_ANY).angle(t)
        return jnp.minimum(jnp.cos(phi) ** 2, along_batch(self.gamma, phi, "gamma") * jnp.sin(phi) ** 2)


@pytree
@dataclasses.dataclass(frozen=True)
class EDM:
    """1/c_out² |x_0 error|², at α = 1 (σ² + s²)/(σ s)² (Karras et al. 2022, table 1), with s the denoiser's `data_std`:
    Simple under "edm"."""

    def __call__(self, denoiser, t) -> jax.Array:
        process = check_numbers(denoiser, f"weighting = {self}", _OF_ANY)
        _check_own(self, denoiser, "data_std")
        phi = process.angle(t)
        return (jnp.sin(phi) / along_batch(denoiser.data_std, phi, "data_std")) ** 2 + jnp.cos(phi) ** 2


@pytree
@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """Likelihood times sigmoid(bias - λ): the finest noise levels count less (Kingma and Gao 2023, section 3)."""

    bias: float = 2.0

    def __post_init__(self):
        check_field(self, "bias")

    def __call__(self, denoiser, t) -> jax.Array:
        check_denoiser(denoiser)
        bias = along_batch(self.bias, t, "bias")
        return denoiser.process.rate(t) * jax.nn.sigmoid(bias - denoiser.process.log_snr(t))
