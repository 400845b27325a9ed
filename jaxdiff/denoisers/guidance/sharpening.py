r"""Sharper draws of categories: a temperature, the k most probable, or those that hold a mass p.

All three act on p(x_0 | x_t), the network's logits and the evidence together, and so on what a sampler draws. Of masks
it makes no difference, since a mask has no evidence. Of uniform noise x_t speaks for itself: the k best of the logits
alone may leave x_t out, and a temperature of the logits alone sharpens what the others say and not what x_t says.

They are not the same as sharpening the law of whole samples: p(x_0)^{1/τ} is no product of tempered conditionals.

The smallest set is found by its threshold on -log p, bit by bit: a float that is not negative has the order of its
bits, so that as many counts over the categories as a float has bits find the threshold exactly, without sorting.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import along_batch, check_field, check_instance, is_concrete, said
from jaxdiff.denoisers.denoiser import DenoiserLike, Wrapper, check_denoiser
from jaxdiff.processes import Discrete, pytree


def _tempered(log_p, number) -> jax.Array:
    return log_p / number[..., None]


def _k_best(log_p, number) -> jax.Array:
    return _best(log_p, number, lambda inside: inside.sum(-1) >= number)


def _nucleus(log_p, number) -> jax.Array:
    share = jax.lax.stop_gradient(jnp.exp(log_p))
    mass = lambda inside: jnp.where(inside, share, 0.0).sum(-1)
    return _best(log_p, number, lambda inside: (mass(inside) >= number) & (number < 1))


def _best(log_p, number, enough) -> jax.Array:
    """log_p [..., K] of the fewest most probable categories that are `enough`, -inf elsewhere; equal ones go together.

    `enough(inside)` says of sets [..., K], which grow, whether each is. NaN where the `number` of it is.
    """
    kind = np.dtype(f"int{8 * log_p.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(jnp.abs(log_p), kind)
    last = 8 * kind.itemsize - 2

    def halve(i, least):
        bit = jnp.left_shift(kind.type(1), (last - i).astype(kind))
        found = enough(bits <= (least + (bit - 1))[..., None])
        return jnp.where(found, least, least + bit)

    threshold = jax.lax.fori_loop(0, last + 1, halve, jnp.zeros_like(bits[..., 0]))
    return jnp.where(bits <= threshold[..., None], log_p, -jnp.inf) + 0 * number[..., None]


class _Sharpened(Wrapper):
    """A denoiser of categories whose p(x_0 | x_t) goes through a function of it and of a number."""

    denoiser: DenoiserLike

    def _check_denoiser(self) -> None:
        check_denoiser(self.denoiser)
        check_instance("denoiser.process", self.denoiser.process, Discrete, "a process of categories")

    def _through(self, function, name: str, x, t, cond) -> Any:
        prediction, number = self.denoiser(x, t, cond), along_batch(getattr(self, name), x, name)
        return prediction.sharpened(function, jnp.broadcast_to(number, jnp.shape(x)))


@pytree
@dataclasses.dataclass(frozen=True)
class Temperature(_Sharpened):
    """p(x_0 | x_t)^(1/tau), normalised: below 1 sharper, 1 as it is, above 1 flatter.

        jd.guidance.Temperature(denoiser, 0.8)

    Raises TypeError for a process without categories, ValueError for a tau that is not above 0 (traced, NaN).
    """

    denoiser: DenoiserLike
    tau: float = 1.0

    def __post_init__(self):
        self._check_denoiser()
        check_field(self, "tau", above=0, noun="a temperature")

    def __call__(self, x, t, cond=None):
        return self._through(_tempered, "tau", x, t, cond)


@pytree
@dataclasses.dataclass(frozen=True)
class TopK(_Sharpened):
    """p(x_0 | x_t) of its `k` most probable categories, normalised; those that are equal to the last stay too.

    Raises TypeError for a process without categories, ValueError for a k below 1 (traced, NaN).
    """

    denoiser: DenoiserLike
    k: int = 1

    def __post_init__(self):
        self._check_denoiser()
        check_field(self, "k", least=1, noun="a whole number of categories")
        if is_concrete(self.k) and np.any(np.asarray(self.k) % 1 != 0):
            raise ValueError(f"k = {said(self.k)}; expected a whole number of categories")

    def __call__(self, x, t, cond=None):
        return self._through(_k_best, "k", x, t, cond)


@pytree
@dataclasses.dataclass(frozen=True)
class Nucleus(_Sharpened):
    """p(x_0 | x_t) of its most probable categories that together have at least the mass `p`, normalised.

    (Holtzman et al. 2020, "The curious case of neural text degeneration".) 1 is p(x_0 | x_t) as it is. Raises TypeError
    for a process without categories, ValueError for a p outside (0, 1] (traced, NaN).
    """

    denoiser: DenoiserLike
    p: float = 0.9

    def __post_init__(self):
        self._check_denoiser()
        check_field(self, "p", above=0, most=1, noun="a probability")

    def __call__(self, x, t, cond=None):
        return self._through(_nucleus, "p", x, t, cond)
