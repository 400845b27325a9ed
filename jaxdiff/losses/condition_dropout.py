r"""Dropping conditions in training, so that one network also predicts without them (Ho and Salimans 2022, algorithm 1).

Each example's condition c is replaced by a fixed null ∅ with probability p, independently. A loss whose minimiser is a
conditional mean then has, at the condition c' that the network gets, the minimiser

    D(x, t, c') = E[x_0 | x_t = x, c'].

No example of the data has the null, so c' = ∅ means only that the condition was dropped, which is independent of x_0
and of the noise; and c' = c means c, and that it was not dropped:

    D(x, t, ∅) = E[x_0 | x_t = x]        D(x, t, c) = E[x_0 | x_t = x, c],

the two predictions that guidance needs, at any p in (0, 1); p weighs them, (1 - p) L(c) + p L(∅). If a share π of the
data did have the null as their condition, D(x, t, ∅) would be the mean over both, in the ratio (1 - p) π to p.

If parts of a condition are dropped independently, with c_S the parts S that were not dropped, in the same way

    D(x, t, c_S with nulls elsewhere) = E[x_0 | x_t = x, c_S]        for each S of positive probability.

Brooks et al. 2023 ("InstructPix2Pix", section 3.2) train in this way on a picture and a text.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import (
    as_argument,
    check_field,
    check_function,
    check_scalar,
    count,
    example_keys,
    nan_unless,
    pytree,
    said,
)
from jaxdiff.denoisers import check_cond_of, no_label_of
from jaxdiff.denoisers.condition import ALONG, as_nulls, check_null, label_of, of_parts, parts_of, together
from jaxdiff.losses.counted import called
from jaxdiff.losses.inputs import check_examples, prepared
from jaxdiff.losses.loss import Loss

MASK = 4
"""The number that is folded into a loss's key to draw what is dropped."""


@pytree
@dataclasses.dataclass(frozen=True)
class ConditionDropout:
    """A loss with the condition of each example dropped at random, as classifier-free guidance needs.

    A dropped condition is replaced by `null`. It is called as `loss`, and draws the same times and noise.

    Args:
        loss: the loss, such as `Denoising()`.
        null: the value that means no condition: one example's condition without a batch axis, or a dictionary of the
            parts that have a rate. None is the network's own label for none, if only a label is dropped.
        rate: the probability that the whole condition is dropped; or a dictionary with the probability of each named
            part, dropped independently; other parts are never dropped. A token_mask is dropped along with its tokens.

    Raises:
        TypeError: if `loss` is not a loss, or a rate is not a number.
        ValueError: if a rate is outside [0, 1] (traced, the loss is NaN) or `loss` drops conditions itself; when
            called, if the condition is missing or has no part of that name, or `null` is not like one example.

    Source:
        Ho and Salimans 2022, "Classifier-free diffusion guidance", algorithm 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params[cond][:, None] * x
        >>> denoiser = jd.Denoiser(network, jnp.ones(11), jd.VP())
        >>> loss = jd.losses.ConditionDropout(jd.losses.Denoising(), null=10, rate=0.1)  # labels 0 to 9
        >>> loss(denoiser, jax.random.key(0), jnp.ones((4, 2)), jnp.array([3, 1, 4, 1])).shape
        (4,)
    """

    loss: Loss
    null: Any = None
    rate: float | dict[str, float] = 0.1

    def __post_init__(self):
        check_function("loss", self.loss, "a loss, such as jaxdiff.losses.Denoising()")
        object.__setattr__(self, "loss", as_argument("loss", self.loss))
        check_null(self.null)
        if hasattr(self.loss, "rates"):
            raise ValueError(f"loss = {said(self.loss)} drops conditions itself; give one of them all the rates")
        if not isinstance(self.rate, dict):
            check_field(self, "rate", least=0, most=1)
            check_scalar("rate", self.rate)
            return
        rates = {name: check_scalar(f"rate[{name!r}]", rate, least=0, most=1) for name, rate in self.rate.items()}
        if not rates or ALONG.keys() & rates.keys():
            along = " and ".join(f"{name} along with its {owner}" for name, owner in ALONG.items())
            raise ValueError(f"rate = {said(self.rate)}; expected numbers for parts that are dropped, {along}")
        object.__setattr__(self, "rate", rates)

    @property
    def learns(self) -> str:
        """What the loss trains (`Loss`)."""
        return getattr(self.loss, "learns", "denoiser")

    def check(self, denoiser, x0, cond) -> None:
        """Raise if the loss does not accept x0, or if `cond` cannot be dropped."""
        check_examples(self.loss, denoiser, x0, cond)
        cond = jax.tree.map(jnp.asarray, cond)
        drop = lambda null, part: jnp.broadcast_to(null, (len(part), *null.shape))
        parts = parts_of(cond)
        gone = {name: jax.tree.map(drop, null, parts[name]) for name, null in self._nulls(denoiser, cond).items()}
        check_cond_of(denoiser, of_parts(parts | gone, cond))

    def rates(self, cond) -> dict[tuple[str, ...], Any]:
        """{names of the parts that are dropped together: probability}."""
        parts = parts_of(cond)
        if not parts:
            raise ValueError(f"cond = {said(cond)} leaves ConditionDropout nothing to drop; give the loss a cond")
        if not isinstance(self.rate, dict):
            return {tuple(parts): self.rate}
        if unknown := [name for name in self.rate if name not in parts]:
            raise ValueError(f"rate has {unknown[0]!r}; expected a part of cond, which has {', '.join(parts)}")
        return {together(name, cond): rate for name, rate in self.rate.items()}

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        self.rates(cond)
        _, _, cond = prepared(denoiser, key, x0, cond)
        parts, nulls, within = parts_of(cond), self._nulls(denoiser, cond), True
        for number, (names, rate) in enumerate(self.rates(cond).items()):
            keys = example_keys(jax.random.fold_in(jax.random.fold_in(key, MASK), number), count(x0))
            gone = jax.vmap(jax.random.uniform)(keys) < rate
            parts |= {name: _dropped(gone, nulls[name], parts[name]) for name in names}
            within &= rate == rate
        return nan_unless(within, called(self.loss, denoiser, key, x0, of_parts(parts, cond), weight))

    def _nulls(self, denoiser, cond) -> dict[str, Any]:
        """{name of a part that can be dropped: its null, of the structure and type of the part}."""
        parts, null = parts_of(cond), self.null
        names = [name for drawn in self.rates(cond) for name in drawn]
        if null is None:
            null = _no_label(denoiser, cond, names)
        nulls = null if isinstance(cond, dict) else {names[0]: null}
        if not isinstance(nulls, dict) or {*nulls} != {*names}:
            raise ValueError(f"null = {said(null)}; expected one example of what is dropped: {', '.join(names)}")
        word = (lambda name: f"null[{name!r}]") if isinstance(cond, dict) else (lambda name: "null")
        return {name: as_nulls(nulls[name], parts[name], word(name)) for name in names}


def _no_label(denoiser, cond, names: list[str]) -> Any:
    """The network's own label for none; ValueError if anything but a label is dropped."""
    if names != ["label"] or label_of(cond) is None:
        raise ValueError(
            f"null = None is the network's label for none, but what is dropped is {', '.join(names)}; give null, one "
            "example of it that means no condition"
        )
    label = no_label_of(denoiser)
    if label is None:
        raise ValueError(
            "null = None, but the network has no label that means none. Build one of jaxdiff.networks with "
            "classes=..., give your network a method `no_label(params)` that returns the label, or give null"
        )
    return {"label": label} if isinstance(cond, dict) else label


def _dropped(gone, null, part) -> Any:
    """`part`, leaves [n, ...], with the examples where `gone` [n] is true replaced by `null`."""
    choose = lambda null, leaf: jnp.where(gone.reshape(-1, *[1] * null.ndim), null[None], leaf.astype(null.dtype))
    return jax.tree.map(choose, null, part)
