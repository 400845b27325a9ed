r"""Masks: the noise of `Absorbing` is an additional category, the mask, which data never hold.

(Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", section 3.1.)

1.  The evidence of a visible value is 0 at x_t and -inf elsewhere, so that the value stays as it is; the evidence of a
    mask is 0 everywhere. These are the two rules of Sahoo et al. 2024 ("Simple and effective masked diffusion language
    models", section 3.2.3). All parameterizations read the logits alike: a visible value is certain, and p(x_0 | x_t)
    of a mask is the leave-one-out law, for which the score is α/σ p(v).
2.  A step back from t to s leaves visible values as they are, and unmasks each mask with probability

        (α_s - α_t)/(1 - α_t),

    to a category drawn from p(x_0 | x_t). So the cost of a step in the bound is -log p(x_0 | x_t) of each mask times
    that probability (their eq. 7), and in the limit of many steps times the rate d log σ/dt = -α'/(1 - α) (their
    eq. 10).
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_output, expand_time, pytree, split_keys, uniform
from jaxdiff.processes import ends
from jaxdiff.processes.discrete import Mixing
from jaxdiff.processes.heads import Seen, nan_unless_category
from jaxdiff.processes.predictions import Categorical, Certain
from jaxdiff.processes.process import check_kind


@pytree
@dataclasses.dataclass(frozen=True)
class Absorbing(Mixing):
    """Masked diffusion: each value is replaced by the mask with probability σ(t) = 1 - α(t).

    The mask is the integer `categories`, one above the largest category. A network returns logits
    `[n, *event, categories]`, none for the mask. A subclass may write `alpha(t)` in place of a schedule.

    Args:
        categories: the number of categories, at least 2, without the mask.
        schedule: α(t), one of `jaxdiff.schedules`. α(0) must be exactly 1 and α(1) exactly 0, which is checked
            before a run.

    Raises:
        TypeError: if `categories` is not a whole number or `schedule` is not a schedule.
        ValueError: if `categories` is less than 2.

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", section 3.1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.Absorbing(categories=27)
        >>> x0 = jnp.zeros((2, 5), int)
        >>> x, _ = jd.perturb(jax.random.key(0), process, x0, 1.0)  # all values are masked
        >>> x.tolist()
        [[27, 27, 27, 27, 27], [27, 27, 27, 27, 27]]
    """

    @property
    def states(self) -> int:
        return self.categories + 1

    @property
    def mask(self) -> int:
        """The integer that stands for the mask."""
        return self.categories

    def _check_ends(self, first: float, last: float) -> None:
        schedule = type(self if self._writes_curves else self.schedule).__name__
        if first != 1:
            raise ValueError(f"{schedule}: alpha(0) = {first}; expected 1, data without noise")
        if last != 0:
            raise ValueError(
                f"{schedule}: alpha(1) = {last}; expected exactly 0, since a run starts with all values masked: return "
                "jnp.where(t < 1, alpha, 0.0), or take another of jaxdiff.schedules, such as Linear()"
            )

    def prior(self, keys, shape, t) -> jax.Array:
        return jnp.full((len(keys), *shape[1:]), self.mask, jnp.int32)

    def unknown(self, shape) -> jax.Array:
        return jnp.full(shape, self.mask, jnp.int32)

    def known(self, x) -> jax.Array:
        """Which values are visible (not masked)."""
        return x != self.mask

    def evidence(self, x, t) -> Seen:
        """The evidence of x: a visible value is certain, a mask has none."""
        seen = x != self.mask
        return Seen(jnp.where(seen, x, 0), jnp.where(seen, jnp.inf, 0.0))

    def log_kernel(self, t) -> jax.Array:
        self.check_table()
        alpha, sigma = (jnp.log(share)[..., None, None] for share in self.marginal(t))
        stays = jnp.where(jnp.eye(self.categories, dtype=bool), alpha, -jnp.inf)
        return jnp.concatenate([stays, jnp.broadcast_to(sigma, (*stays.shape[:-2], 1, self.categories))], -2)

    def read(self, parameterization, out, x, t, data_std) -> Categorical:
        """The logits, with the visible values as evidence."""
        note = f" (one logit for each of {self.categories} categories, none for the mask)"
        check_output("the network", out, x, (*x.shape, self.categories), note)
        return Categorical(out, self.evidence(x, t))

    def _shown(self, x, t, s) -> jax.Array:
        """The probability that a step from t to s unmasks a mask, broadcast against x; 1 where σ_t = 0."""
        sigma_t = self.sigma(t)
        shown = jnp.where(sigma_t > 0, self._lost(s, t) / jnp.where(sigma_t > 0, sigma_t, 1.0), 1.0)
        return expand_time(shown, x)

    def _some_shown(self, keys, prediction: Categorical, x, chance) -> jax.Array:
        """x with each mask replaced by a draw of the prediction with probability `chance`."""
        which, what = split_keys(keys)
        shown = (x == self.mask) & (uniform(which, x) < chance)
        return jnp.where(shown, prediction.draw(what, shown), x)

    def reverse(self, keys, prediction: Categorical, x, t, s) -> jax.Array:
        """x with some of the masks replaced by draws of the prediction."""
        return self._some_shown(keys, prediction, x, self._shown(x, t, s))

    def remasked(self, keys, prediction: Categorical, x, t, s, share) -> jax.Array:
        """As `reverse`, but visible values are masked again, with `share` of the most that preserves the marginals."""
        show, hide = split_keys(keys)
        alpha_t, sigma_t = self.marginal(t)
        again = share * expand_time(jnp.minimum(1.0, ends.ratio(self.sigma(s), alpha_t)), x)
        chance = self._shown(x, t, s) + again * expand_time(ends.ratio(alpha_t, sigma_t), x)
        shown = self._some_shown(show, prediction, x, chance)
        return jnp.where(self.known(x) & (uniform(hide, x) < again), self.mask, shown)

    def leap(self, keys, prediction: Categorical, x, t, s) -> jax.Array:
        """As `reverse`, with probability 1 - exp(-rate (t - s)) per mask, since masks jump at the rate of the bound."""
        return self._some_shown(keys, prediction, x, expand_time(-jnp.expm1(-self.rate(t) * (t - s)), x))

    def error(self, prediction: Categorical, truth: Certain, x, t) -> jax.Array:
        """-log p(x_0 | x_t) of the masks, nats, 0 for visible values; NaN where x_0 is not a category."""
        found = jnp.where(x == truth.data, 0.0, -prediction.log_prob(truth.data))
        return nan_unless_category(truth.data, self.categories, found)

    def kl(self, prediction: Categorical, truth: Certain, x, t, s) -> jax.Array:
        """The error times the probability that a step unmasks a mask."""
        return self._shown(x, t, s) * self.error(prediction, truth, x, t)

    def prior_kl(self, x0, t) -> jax.Array:
        """0 where α(t) = 0, infinite elsewhere: the prior has masks alone."""
        return jnp.broadcast_to(expand_time(jnp.where(self.alpha(t) > 0, jnp.inf, 0.0), x0), x0.shape)


def check_absorbing(process, what: str, instead: str = "") -> Absorbing:
    """Check that `process` is a process of masks.

    Args:
        process: the process to check.
        what: the function or class that needs it, as the message calls it.
        instead: how to continue with another process, the end of the message; may be empty.

    Returns:
        `process` itself.

    Raises:
        TypeError: if `process` is not an `Absorbing`.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.processes.check_absorbing(jd.Absorbing(3), "my loss").mask
        3
        >>> jd.processes.check_absorbing(jd.VP(), "my loss")
        Traceback (most recent call last):
        TypeError: my loss takes masks, Absorbing(categories), not VP
    """
    return check_kind(process, Absorbing, "masks, Absorbing(categories)", what, instead)
