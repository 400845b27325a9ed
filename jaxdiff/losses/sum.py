"""Several losses at once."""

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
    """`loss(denoiser, key, x0, cond, weight) -> [batch]`: losses, each times a number.

        Sum((Bound(), 1.0), (Denoising(), 0.01))        D3PM's hybrid (Austin et al. 2021, eq. 5)

    All are given the same key: losses that draw their times alike see the same x_t, and the compiled program asks the
    network once for all of them.

    Raises TypeError for a term that is no pair of a loss and a number; ValueError for none, for losses that train
    different kinds of models (`learns`), and for one that drops conditions, which belongs around the sum.
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
        """What the terms train, beside a denoiser as it is, which all but a bridge's are."""
        kinds = [getattr(loss, "learns", "denoiser") for loss in self.losses]
        more = sorted({*kinds} - {"denoiser"})
        return sorted({*kinds}) if "bridge" in more else more

    @property
    def learns(self) -> str:
        """What the loss trains."""
        return next(iter(self._learns), "denoiser")

    def check(self, denoiser, x0, cond) -> None:
        """Raise where a term does not take x0."""
        for loss in self.losses:
            check_examples(loss, denoiser, x0, cond)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        values = [called(loss, denoiser, key, x0, cond, weight) for loss in self.losses]
        scaled = [along_batch(scale, value, "a term's number") * value for scale, value in zip(self.scales, values)]
        return functools.reduce(operator.add, scaled)
