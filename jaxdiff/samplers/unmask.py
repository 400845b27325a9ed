r"""Unmasking: the grid sets how many masks a step reveals, and an order which ones.

1.  Of the n masks at the start of a run, at level σ_1, exactly

        round(n σ_s/σ_1)

    are left at s (σ_1 = 1 at t = 1). `Ancestral` draws for each mask whether it is revealed, so that this is the mean
    number left; here the grid sets the exact number of each step, for example one.
2.  The revealed values are drawn from p(x_0 | x_t). One mask a step is the chain rule, and therefore exact for an exact
    denoiser in any order that depends on the visible values but not on those about to be drawn. Several masks are drawn
    independently of each other; all masks in one step are drawn from the product of the marginals.
3.  The orders by confidence rank masks by max p, by the entropy, or by the margin between the two most probable values
    (Kim et al. 2025, "Train for the worst, plan for the best", section 4). Ranking by the probability of the value that
    was drawn, as Chang et al. 2022 (MaskGIT) and Nie et al. 2025 (LLaDA) do, reveals probable values first and is not
    exact even at one mask a step (tests/samplers/test_token_samplers.py).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_choice, check_whole, pytree, split_keys, uniform
from jaxdiff.processes import check_absorbing
from jaxdiff.samplers.sampler import Sampler


def _confidence(log_p) -> jax.Array:
    return log_p.max(-1)


def _certainty(log_p) -> jax.Array:
    return -jax.scipy.special.entr(jnp.exp(log_p)).sum(-1)


def _margin(log_p) -> jax.Array:
    first, second = jnp.unstack(jnp.exp(jax.lax.top_k(log_p, 2)[0]), axis=-1)
    return first - second


_ASKED = {"confidence": _confidence, "entropy": _certainty, "margin": _margin}
_ORDERS = ("random", "left to right", *_ASKED)


@pytree
@dataclasses.dataclass(frozen=True)
class Unmask(Sampler):
    """Reveal masks in an order, exactly as many at each step as the grid sets: one a step for as many steps as masks.

    `x_start` may hold masks; its visible values stay. To sharpen the values that are drawn, wrap the denoiser in
    `guidance.Temperature`, `TopK` or `Nucleus`. "random" and "left to right" read the denoiser's prediction of the
    revealed values only, the other orders that of all positions.

    Args:
        order: "random" (uniform over all orders); "left to right" (row by row); "confidence", "entropy" or "margin":
            first where p(x_0 | x_t) has the largest maximum, the smallest entropy, or the largest gap between the two
            most probable values. Ties go left to right.
        block: length of blocks that are revealed one after the other, each in the order (semi-autoregressive); 1 is
            left to right, None is one block. A step may end a block and begin the next.

    Raises:
        ValueError: for another order or a block below 1.
        TypeError: when run, for a process without masks.

    Source:
        Kim et al. 2025, "Train for the worst, plan for the best", section 4.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [[0.5, 0.0], [0.0, 0.5]])  # two tokens that are always equal
        >>> x = jd.sample(jax.random.key(0), denoiser, (8, 2), jd.samplers.Unmask("confidence"), steps=2)
        >>> bool((x[:, 0] == x[:, 1]).all())
        True
    """

    order: Literal["random", "left to right", "confidence", "entropy", "margin"] = dataclasses.field(
        default="random", metadata={"static": True}
    )
    block: int | None = None

    def __post_init__(self):
        check_choice("order", self.order, _ORDERS)
        if self.block is not None:
            object.__setattr__(self, "block", check_whole("block", self.block))

    def check_process(self, process) -> None:
        """Raise TypeError for a process without masks."""
        check_absorbing(process, "Unmask", "take Ancestral()")

    def init(self, process, x, steps):
        """The number of masks of each sample at the start of the run, and σ there: 0 before the first step."""
        return jnp.zeros(x.shape[0], int), jnp.zeros(())

    def move(self, keys, process, prediction, x, t, s, state):
        """x with the first of its masks revealed, each as a draw of the prediction."""
        which, what = split_keys(keys)
        masked = x == process.mask
        left, (masks, sigma) = masked.reshape(x.shape[0], -1).sum(1), state
        masks, sigma = jnp.where(sigma == 0, left, masks), jnp.where(sigma == 0, process.sigma(t), sigma)
        share = process.sigma(s) / jnp.where(sigma > 0, sigma, 1.0)
        stay = jnp.round(masks.astype(share.dtype) * share).astype(int)
        shown = self._first(which, prediction, masked, left - stay)
        return jnp.where(shown, prediction.draw(what, shown), x), (masks, sigma)

    def _first(self, keys, prediction, masked, count) -> jax.Array:
        """Which are the first `count` [n] of the masks, [n, *event]."""
        if self.order == "random":
            rank = uniform(keys, masked)
        elif self.order == "left to right":
            rank = jnp.zeros(masked.shape)
        else:
            unsharpened = dataclasses.replace(prediction, sharpenings=())  # TopK(1) makes all values equally certain
            rank = -unsharpened.ask(_ASKED[self.order])
        flat = masked.reshape(masked.shape[0], -1)
        block = jnp.arange(flat.shape[1]) // (flat.shape[1] if self.block is None else self.block)
        order = jnp.lexsort((rank.reshape(flat.shape), jnp.broadcast_to(block, flat.shape), ~flat))
        place = jnp.argsort(order, axis=-1)
        return (place < count[:, None]).reshape(masked.shape) & masked
