r"""Masks: the noise of `Absorbing` is a category of its own, which data never holds.

(Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", section 3.1.)

1.  The evidence is 0 at x_t and -inf elsewhere for a value that is seen, so that it stays what it is, and says nothing
    for a mask: the two rules of Sahoo et al. 2024 ("Simple and effective masked diffusion language models", section
    3.2.3). All rows read the logits alike: what is seen is certain, and of a mask p(x_0 | x_t) is the leave-one-out
    law, of which the score is α/σ p(v).
2.  A step back from t to s leaves what is seen, and of the masks shows each with probability

        (α_s - α_t)/(1 - α_t),

    as the category that is drawn from p(x_0 | x_t). So the bound pays -log p(x_0 | x_t) of each mask times that
    probability (their eq. 7), and in the limit of many steps times the rate d log σ/dt = -α'/(1 - α) (their eq. 10).
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_output, expand_time, pytree, split_keys, uniform
from jaxdiff.processes import ends
from jaxdiff.processes.discrete import Mixing
from jaxdiff.processes.heads import Seen
from jaxdiff.processes.predictions import Categorical, Certain
from jaxdiff.processes.process import check_kind


@pytree
@dataclasses.dataclass(frozen=True)
class Absorbing(Mixing):
    """Masking: each value becomes the mask, category number `categories`, with probability σ(t) of `schedule`.

    α of one of `jaxdiff.schedules` falls from 1 to 0 to the bit; a subclass may write `alpha(t)` in its place.
    `jaxdiff.Denoiser` reads a network's output [n, *event, categories] as logits; it has none for the mask.

    Raises TypeError for categories that are no whole number or for no schedule, ValueError for fewer than two, and
    before a run for a schedule that leaves noise at t = 0 or data at t = 1.
    """

    @property
    def states(self) -> int:
        return self.categories + 1

    @property
    def mask(self) -> int:
        """The value that says nothing."""
        return self.categories

    def _check_ends(self, first: float, last: float) -> None:
        schedule = type(self if self._writes_curves else self.schedule).__name__
        if first != 1:
            raise ValueError(f"{schedule}: alpha(0) = {first}; expected 1, data without noise")
        if last != 0:
            raise ValueError(
                f"{schedule}: alpha(1) = {last}; expected 0 to the bit, for a run starts where all is masked: return "
                "jnp.where(t < 1, alpha, 0.0), or take another of jaxdiff.schedules, such as Linear()"
            )

    def prior(self, keys, shape, t) -> jax.Array:
        return jnp.full((len(keys), *shape[1:]), self.mask, jnp.int32)

    def unknown(self, shape) -> jax.Array:
        return jnp.full(shape, self.mask, jnp.int32)

    def known(self, x) -> jax.Array:
        """What is seen."""
        return x != self.mask

    def evidence(self, x, t) -> Seen:
        """What is seen is certain, a mask says nothing."""
        seen = x != self.mask
        return Seen(jnp.where(seen, x, 0), jnp.where(seen, jnp.inf, 0.0))

    def log_kernel(self, t) -> jax.Array:
        self.check_table()
        alpha, sigma = (jnp.log(share)[..., None, None] for share in self.marginal(t))
        stays = jnp.where(jnp.eye(self.categories, dtype=bool), alpha, -jnp.inf)
        return jnp.concatenate([stays, jnp.broadcast_to(sigma, (*stays.shape[:-2], 1, self.categories))], -2)

    def read(self, parameterization, out, x, t, data_std) -> Categorical:
        """The logits, with what is seen as evidence."""
        note = f" (one logit for each of {self.categories} categories, none for the mask)"
        check_output("the network", out, x, (*x.shape, self.categories), note)
        return Categorical(out, self.evidence(x, t))

    def _shown(self, x, t, s) -> jax.Array:
        """The probability with which a step from t to s shows a mask, broadcast against x; 1 where none can be."""
        sigma_t = self.sigma(t)
        shown = jnp.where(sigma_t > 0, self._lost(s, t) / jnp.where(sigma_t > 0, sigma_t, 1.0), 1.0)
        return expand_time(shown, x)

    def _some_shown(self, keys, prediction: Categorical, x, chance) -> jax.Array:
        """x with each mask shown with probability `chance`, as a draw of the prediction."""
        which, what = split_keys(keys)
        shown = (x == self.mask) & (uniform(which, x) < chance)
        return jnp.where(shown, prediction.draw(what, shown), x)

    def reverse(self, keys, prediction: Categorical, x, t, s) -> jax.Array:
        """x with some of the masks shown, each as a draw of the prediction."""
        return self._some_shown(keys, prediction, x, self._shown(x, t, s))

    def remasked(self, keys, prediction: Categorical, x, t, s, share) -> jax.Array:
        """The same, but what is seen is masked with `share` of the largest probability that keeps the marginals."""
        show, hide = split_keys(keys)
        alpha_t, sigma_t = self.marginal(t)
        again = share * expand_time(jnp.minimum(1.0, ends.ratio(self.sigma(s), alpha_t)), x)
        chance = self._shown(x, t, s) + again * expand_time(ends.ratio(alpha_t, sigma_t), x)
        shown = self._some_shown(show, prediction, x, chance)
        return jnp.where(self.known(x) & (uniform(hide, x) < again), self.mask, shown)

    def leap(self, keys, prediction: Categorical, x, t, s) -> jax.Array:
        """The same with probability 1 - exp(-rate (t - s)): of masks the rate is that of the bound."""
        return self._some_shown(keys, prediction, x, expand_time(-jnp.expm1(-self.rate(t) * (t - s)), x))

    def error(self, prediction: Categorical, truth: Certain, x, t) -> jax.Array:
        """-log p(x_0 | x_t) of the masks, nats, 0 of what is seen; NaN for a category that does not exist."""
        there = (truth.data >= 0) & (truth.data < self.categories)
        return jnp.where((x == truth.data) & there, 0.0, -prediction.log_prob(truth.data))

    def kl(self, prediction: Categorical, truth: Certain, x, t, s) -> jax.Array:
        """The error times the probability with which a mask is shown."""
        return self._shown(x, t, s) * self.error(prediction, truth, x, t)

    def prior_kl(self, x0, t) -> jax.Array:
        """0 where nothing is left at t, infinite elsewhere: all masks never are what is seen."""
        return jnp.broadcast_to(expand_time(jnp.where(self.alpha(t) > 0, jnp.inf, 0.0), x0), x0.shape)


def check_absorbing(process, what: str, instead: str = "") -> Absorbing:
    """`process`, one of masks; TypeError where `what` is asked of another. `instead` says what to take."""
    return check_kind(process, Absorbing, "masks, Absorbing(categories)", what, instead)
