"""A weighted sum of losses."""

import dataclasses
import functools
import operator
from typing import Any

import jax

from jaxdiff.arrays import along_batch, as_argument, check_function, check_number, pytree, said
from jaxdiff.losses.counted import called
from jaxdiff.losses.inputs import check_examples
from jaxdiff.losses.loss import Loss


@pytree
@dataclasses.dataclass(frozen=True, init=False)
class Sum:
    """A weighted sum of losses, called as one of them.

    All terms get the same key: losses that draw times in the same way see the same x_t, and the compiled program then
    evaluates the network once for all of them. `Sum((Bound(), 1.0), (Denoising(), 0.01))` is the hybrid loss of D3PM.

    Args:
        terms: pairs `(loss, number)`.

    Raises:
        TypeError: if a term is not a pair of a loss and a number.
        ValueError: if there are no terms, if they train different kinds of models (`learns`), or if one drops
            conditions: `ConditionDropout` goes around the sum.

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", eq. 5.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params * x, jnp.ones(()), jd.VP())
        >>> plain = jd.losses.Denoising()
        >>> loss = jd.losses.Sum((plain, 1.0), (plain, 2.0))
        >>> arguments = denoiser, jax.random.key(0), jnp.ones((4, 2))
        >>> bool(jnp.allclose(loss(*arguments), 3 * plain(*arguments)))
        True
    """

    losses: tuple[Loss, ...]
    scales: tuple[Any, ...]

    def __init__(self, *terms):
        for term in terms:
            if not isinstance(term, tuple | list) or len(term) != 2:
                raise TypeError(f"a term = {said(term)}; expected (loss, number), such as (Bound(), 1.0)")
            check_function("a term's loss", term[0], "a loss, such as jaxdiff.losses.Denoising()")
            if hasattr(term[0], "rates"):
                raise ValueError(f"loss = {said(term[0])} drops conditions; put it around Sum, not inside")
        if not terms:
            raise ValueError("Sum() has no terms; expected pairs (loss, number), such as (Bound(), 1.0)")
        object.__setattr__(self, "losses", tuple(as_argument("a term's loss", loss) for loss, _ in terms))
        object.__setattr__(self, "scales", tuple(check_number("a term's number", scale) for _, scale in terms))
        if len(self._learns) > 1:
            raise ValueError(f"the terms train {' and '.join(self._learns)}; expected losses of one kind of model")

    @property
    def _learns(self) -> list[str]:
        """The distinct `learns` of the terms; "denoiser" counts only with "bridge", which excludes it."""
        kinds = [getattr(loss, "learns", "denoiser") for loss in self.losses]
        more = sorted({*kinds} - {"denoiser"})
        return sorted({*kinds}) if "bridge" in more else more

    @property
    def learns(self) -> str:
        """What the loss trains (`Loss`)."""
        return next(iter(self._learns), "denoiser")

    def check(self, denoiser, x0, cond) -> None:
        """Raise if a term does not accept x0."""
        for loss in self.losses:
            check_examples(loss, denoiser, x0, cond)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        values = [called(loss, denoiser, key, x0, cond, weight) for loss in self.losses]
        scaled = [along_batch(scale, value, "a term's number") * value for scale, value in zip(self.scales, values)]
        return functools.reduce(operator.add, scaled)
