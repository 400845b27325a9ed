"""Sharper draws of categories: a temperature, the k most probable, or those that hold a mass p.

All three act on p(x_0 | x_t), that is on the network's logits and the evidence together, and so on what a sampler
draws. For masks it makes no difference, since a mask has no evidence. Under uniform noise x_t itself is evidence: the k
best of the logits alone may leave x_t out, and a temperature of the logits alone sharpens the information in the other
tokens and not that in x_t.

This is not the same as sharpening the distribution of whole samples: p(x_0)^{1/τ} is not a product of tempered
conditionals.

The smallest set is found by its threshold on -log p, bit by bit: non-negative floats have the same order as their bits,
so that as many counts over the categories as a float has bits find the threshold exactly, without sorting.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import along_batch, check_field, check_instance, is_concrete, said
from jaxdiff.denoisers.checks import differ
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
    """log_p [..., K] of the fewest most probable categories that are `enough`, -inf elsewhere; ties go together.

    `enough(inside)` says for growing sets [..., K] whether each is large enough. NaN where `number` is NaN.
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
    """Base of denoisers of categories that apply a function with one number to p(x_0 | x_t)."""

    denoiser: DenoiserLike
    _number: str
    """The name of the field with its number."""

    def _check_denoiser(self) -> None:
        check_denoiser(self.denoiser)
        check_instance("denoiser.process", self.denoiser.process, Discrete, "a process of categories")

    def _through(self, function, x, t, cond) -> Any:
        prediction = self.denoiser(x, t, cond)
        number = along_batch(getattr(self, self._number), x, self._number)
        return prediction.sharpened(function, jnp.broadcast_to(number, jnp.shape(x)))


def check_same_sharpenings(name: str, other, denoiser) -> None:
    """Raise ValueError if `other`, a user's `name`, and `denoiser` are sharpened differently.

    Guidance mixes their logits and then sharpens once. Traced numbers are not compared.
    """
    one, two = _sharpenings(other), _sharpenings(denoiser)
    if differ(one, two):
        words = lambda found: ", ".join(f"{kind}({said(of[kind])})" for of in found for kind in of) or "nothing"
        raise ValueError(
            f"{name} is sharpened by {words(one)}, the denoiser by {words(two)}, but guidance mixes logits before they "
            "are sharpened; sharpen what is guided instead, such as TopK(Auto(denoiser, weak), 5)"
        )


def _sharpenings(denoiser) -> list[dict[str, Any]]:
    """{class: number} of each sharpening in `denoiser`, the first one applied first."""
    inside = _sharpenings(denoiser.denoiser) if hasattr(denoiser, "denoiser") else []
    if not isinstance(denoiser, _Sharpened):
        return inside
    return [*inside, {type(denoiser).__name__: getattr(denoiser, denoiser._number)}]


@pytree
@dataclasses.dataclass(frozen=True)
class Temperature(_Sharpened):
    """p(x_0 | x_t)^(1/tau), normalised: sharper below 1, unchanged at 1, flatter above 1.

    Args:
        denoiser: a denoiser of categories.
        tau: the temperature, above 0, or one per example `[batch]`.

    Raises:
        TypeError: if the process is not one of categories.
        ValueError: if `tau` is not above 0 (a traced one gives NaN instead).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [0.25, 0.75])
        >>> sharper = jd.guidance.Temperature(denoiser, 0.5)  # squares the probabilities, 1 : 3 becomes 1 : 9
        >>> p = sharper(jnp.array([[2]]), 1.0).probabilities()
        >>> round(float(p[0, 0, 1]), 3)
        0.9
    """

    denoiser: DenoiserLike
    tau: float = 1.0

    _number = "tau"

    def __post_init__(self):
        self._check_denoiser()
        check_field(self, "tau", above=0, noun="a temperature")

    def __call__(self, x, t, cond=None):
        return self._through(_tempered, x, t, cond)


@pytree
@dataclasses.dataclass(frozen=True)
class TopK(_Sharpened):
    """p(x_0 | x_t) restricted to its `k` most probable categories, normalised; ties with the last one stay too.

    Args:
        denoiser: a denoiser of categories.
        k: the number of categories, 1 or more, or one per example `[batch]`.

    Raises:
        TypeError: if the process is not one of categories.
        ValueError: if `k` is below 1 (a traced one gives NaN instead) or not a whole number.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(3), [0.2, 0.5, 0.3])
        >>> best = jd.guidance.TopK(denoiser, 1)
        >>> best(jnp.array([[3]]), 1.0).probabilities().round(3).ravel().tolist()
        [0.0, 1.0, 0.0]
    """

    denoiser: DenoiserLike
    k: int = 1

    _number = "k"

    def __post_init__(self):
        self._check_denoiser()
        check_field(self, "k", least=1, noun="a whole number of categories")
        if is_concrete(self.k) and np.any(np.asarray(self.k) % 1 != 0):
            raise ValueError(f"k = {said(self.k)}; expected a whole number of categories")

    def __call__(self, x, t, cond=None):
        return self._through(_k_best, x, t, cond)


@pytree
@dataclasses.dataclass(frozen=True)
class Nucleus(_Sharpened):
    """p(x_0 | x_t) restricted to the fewest most probable categories whose total mass is at least `p`, normalised.

    Args:
        denoiser: a denoiser of categories.
        p: the mass, in (0, 1], or one per example `[batch]`; 1 leaves p(x_0 | x_t) unchanged.

    Raises:
        TypeError: if the process is not one of categories.
        ValueError: if `p` is outside (0, 1] (a traced one gives NaN instead).

    Source:
        Holtzman et al. 2020, "The curious case of neural text degeneration".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(3), [0.1, 0.6, 0.3])
        >>> nucleus = jd.guidance.Nucleus(denoiser, 0.5)
        >>> nucleus(jnp.array([[3]]), 1.0).probabilities().round(3).ravel().tolist()
        [0.0, 1.0, 0.0]
    """

    denoiser: DenoiserLike
    p: float = 0.9

    _number = "p"

    def __post_init__(self):
        self._check_denoiser()
        check_field(self, "p", above=0, most=1, noun="a probability")

    def __call__(self, x, t, cond=None):
        return self._through(_nucleus, x, t, cond)
