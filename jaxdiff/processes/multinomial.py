r"""Uniform noise: a value that is noised is any of the K categories (Hoogeboom et al. 2021, "Argmax flows and
multinomial diffusion", section 4).

1.  q(x_t | x_0) is α + σ/K at x_0 and σ/K elsewhere. Only the ratio matters, 1 + g with g = α K/σ: the evidence adds
    log(1 + g) to the one logit at x_t. As t -> 0 x_0 is x_t; as t -> 1 the other values alone determine its law.
2.  With c the leave-one-out law the ratios r̂ of the bound (`jaxdiff.processes.discrete`, 3.) are sums of positive
    terms,

        r̂_y = (c Q̄)_y/(c Q̄)_x = (1 + g c_y)/(1 + g c_x),        y ≠ x,

    The ratios r given x_0 are the same with c_y = [y = x_0]: where x = x_0, r_y is 1/(1 + g) for every y; elsewhere it
    is 1 + g for y = x_0 and 1 for every other y. With d = log(r̂_y/r_y) a term r̂ - r + r log(r/r̂) of the bound is
    r (e^d - 1 - d). It is computed in this form, since the difference of r̂ and r loses its digits where they agree.
3.  For the same reason a step back of the model is p(x_s = y | x_t) ∝ q(x_t | y) (c Q̄_s)_y, K numbers beside those of
    q(x_s | x_t, x_0): the divergence of a step is a sum over K.
4.  The reverse rates of a value sum to rate (1 - p_x) towards the data, by c without x, and to β (K - 1)/K m towards
    any other value, m = 1 - p_x g/(1 + g), p_x = p(x_0 = x | x_t).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py

from jaxdiff.arrays import check_output, expand_time, pytree, split_keys, uniform
from jaxdiff.processes.discrete import Mixing, divergence
from jaxdiff.processes.heads import Head, Seen, is_category, nan_unless_category
from jaxdiff.processes.predictions import Categorical, Certain

_MOST = 40.0  # upper bound of log(1 + g): σ is then so small that no draw in floating point is noise
_CERTAIN = 1e4  # a log-ratio against which all else has probability 0


@pytree
@dataclasses.dataclass(frozen=True)
class Multinomial(Mixing):
    """Uniform noise: each value is replaced by a uniformly drawn category with probability σ(t) = 1 - α(t).

    The drawn category may be the value itself. A network returns logits `[n, *event, categories]`, which a `Denoiser`
    reads as "leave_one_out" by default, or as "data" or "score" (`jaxdiff.processes.discrete`). A subclass may write
    `alpha(t)` in place of a schedule.

    Args:
        categories: the number of categories, at least 2.
        schedule: α(t), one of `jaxdiff.schedules`.

    Raises:
        TypeError: if `categories` is not a whole number or `schedule` is not a schedule.
        ValueError: if `categories` is less than 2.

    Source:
        Hoogeboom et al. 2021, "Argmax flows and multinomial diffusion", section 4.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.Multinomial(4)
        >>> kernel = jnp.exp(process.log_kernel(0.5))  # [x_t, x_0]: alpha + sigma/4 where equal, sigma/4 elsewhere
        >>> [round(p, 3) for p in kernel[:, 0].tolist()]
        [0.625, 0.125, 0.125, 0.125]
    """

    def check_start(self, parameterization, t) -> None:
        """Raise ValueError if α = 0 at a concrete `t`, where "score" does not determine the law of x_0."""
        if parameterization == "score":
            self._check_data_left(parameterization, t, "leave_one_out")

    def prior(self, keys, shape, t) -> jax.Array:
        one = lambda key: jax.random.randint(key, shape[1:], 0, self.categories, jnp.int32)
        return jax.vmap(one)(keys)

    def unknown(self, shape):
        """Always raises ValueError: uniform noise is random."""
        raise ValueError(
            f"{type(self).__name__}: a part of uniform noise has no value that means unknown; give it as cond, draw "
            "jointly and drop it, or take jaxdiff.Absorbing"
        )

    def _gain(self, t) -> jax.Array:
        """log(1 + α K/σ), of the shape of `t`."""
        return jax.nn.softplus(self.log_snr(t) / 2 + np.log(self.categories))

    def evidence(self, x, t) -> Seen:
        return Seen(x, jnp.broadcast_to(expand_time(self._gain(t), x), x.shape))

    def log_kernel(self, t) -> jax.Array:
        self.check_table()
        alpha, sigma = (share[..., None, None] for share in self.marginal(t))
        return jnp.log(alpha * jnp.eye(self.categories) + sigma / self.categories)

    def read(self, parameterization, out, x, t, data_std) -> Categorical:
        """The logits by their parameterization, with the evidence of x."""
        check_output("the network", out, x, (*x.shape, self.categories), " (one logit for each category)")
        if parameterization == "data":
            return Categorical(out)
        if parameterization == "score":
            if isinstance(out, Head):
                raise TypeError(
                    'the network returned a jaxdiff.Head, but parameterization = "score" reads all ratios of a value '
                    'at once; expected an array, or parameterization = "leave_one_out"'
                )
            share = jax.nn.softmax(jnp.where(self._own(x), 0.0, out.astype(jnp.promote_types(out.dtype, jnp.float32))))
            noise = expand_time(self.sigma(t), x)[..., None] / self.categories
            out = jnp.log(jnp.maximum(share - noise, jnp.finfo(share.dtype).eps * share))  # log c, as c Q̄ = α c + σ/K
        return Categorical(out, self.evidence(x, t))

    def _own(self, x) -> jax.Array:
        """Whether x is each category, [*x.shape, categories]."""
        return jnp.arange(self.categories) == x[..., None]

    def reverse(self, keys, prediction, x, t, s) -> jax.Array:
        """A draw of x_0 and then of x_s given it: x_0, a random category, or still x."""
        what, which, noise = split_keys(keys, 3)
        x0 = prediction.draw(what)
        (alpha_s, sigma_s), alpha_t = self.marginal(s), self.alpha(t)
        lost = self._lost(s, t)
        shares = lost * alpha_s, lost * sigma_s, alpha_t * sigma_s, self.categories * alpha_t * alpha_s
        clean, noised, stays, both = (expand_time(share, x) for share in shares)
        at = uniform(which, x) * (clean + noised + stays + jnp.where(x == x0, both, 0.0))
        moved = jnp.where(at < clean, x0, self.prior(noise, x.shape, 1.0))
        return jnp.where(at < clean + noised, moved, x)

    def leap(self, keys, prediction, x, t, s) -> jax.Array:
        """x with each value moved to another with probability 1 - exp(-rate (t - s)), in proportion to its rate."""
        which, where, what, noise = split_keys(keys, 4)
        log_p = prediction.log_prob(x)
        others = -jnp.expm1(log_p)
        rate, alpha, gain = (expand_time(value, x) for value in (self.rate(t), self.alpha(t), self._gain(t)))
        towards = rate * others
        unseen = (others + jnp.exp(log_p - gain)) * (self.categories - 1) / self.categories
        away = rate * expand_time(self.sigma(t), x) * unseen / alpha
        jumps = uniform(which, x) < -jnp.expm1(-(towards + away) * expand_time(t - s, x))
        clean = uniform(where, x) * (towards + away) < towards
        elsewhere = prediction.sharpened(_other_than, x)
        drawn = elsewhere.draw(what, jumps & clean)
        shift = jax.vmap(lambda key: jax.random.randint(key, x.shape[1:], 1, self.categories, jnp.int32))(noise)
        return jnp.where(jumps, jnp.where(clean, drawn, (x + shift) % self.categories), x)

    def _left_out(self, log_p, x, gain) -> tuple[jax.Array, jax.Array]:
        """(log of the leave-one-out law, whether x is each category), given log p(x_0 | x_t)."""
        own = self._own(x)
        return jax.nn.log_softmax(log_p - jnp.where(own, gain[..., None], 0.0), -1), own

    def _asked(self, question, prediction, truth: Certain, x, *values) -> jax.Array:
        """`prediction.ask(question, x, x_0, *values)`, `values` one per t; NaN where x_0 is not a category."""
        values = (jnp.broadcast_to(expand_time(value, x), x.shape) for value in values)
        found = prediction.ask(question, x, truth.data, *values)
        return nan_unless_category(truth.data, self.categories, found)

    def error(self, prediction, truth: Certain, x, t) -> jax.Array:
        """The score entropy: the divergence of the reverse rates over the rate; 0 where σ = 0."""

        def entropy(log_p, x, x0, gain):
            log_c, own = self._left_out(log_p, x, gain)
            g = jnp.expm1(gain)[..., None]
            grown = jnp.log1p(g * jnp.exp(log_c))
            same, gain = (x == x0)[..., None], gain[..., None]
            log_r = jnp.where(same, -gain, jnp.where(self._own(x0), gain, 0.0))
            d = grown - jnp.sum(jnp.where(own, grown, 0.0), -1, keepdims=True) - log_r
            terms = jnp.exp(log_r) * (jnp.expm1(d) - d)
            return jnp.sum(jnp.where(own, 0.0, terms), -1)

        gain = jnp.minimum(self._gain(t), _MOST)
        g = jnp.expm1(gain)
        paid = (g > 0) & (self.sigma(t) > 0)
        found = self._asked(entropy, prediction, truth, x, gain)
        return expand_time(jnp.where(paid, 1 / jnp.where(paid, g, 1.0), 0.0), x) * found

    def kl(self, prediction, truth: Certain, x, t, s) -> jax.Array:
        def cost(log_p, x, x0, gain_t, gain_s, kept_s, gain):
            log_c, own = self._left_out(log_p, x, gain_t)
            gain_s, kept_s, step = gain_s[..., None], kept_s[..., None], jnp.where(own, gain[..., None], 0.0)
            ours = jax.nn.log_softmax(step + jnp.logaddexp(-gain_s, kept_s + log_c), -1)
            right = jax.nn.log_softmax(step + jnp.where(self._own(x0), 0.0, -gain_s), -1)
            return divergence(right, ours)

        gain_t = jnp.minimum(self._gain(t), _MOST)
        kept_s = jax.nn.log_sigmoid(self.log_snr(s) / 2 + np.log(self.categories))
        lost = self._lost(s, t)
        moves = lost > 0
        step = jnp.log1p(self.categories * self.alpha(t) / jnp.where(moves, lost, 1.0))
        step = jnp.where(moves, step, _CERTAIN)
        gain_s = jnp.minimum(self._gain(s), _CERTAIN)
        return self._asked(cost, prediction, truth, x, gain_t, gain_s, kept_s, step)

    def prior_kl(self, x0, t) -> jax.Array:
        """KL(q(x_t | x_0) || uniform), nats: the mean over categories of f(K q), f(1 + e) = (1 + e) log(1 + e) - e."""
        alpha, k = self.alpha(t), self.categories
        f = lambda e: xlog1py(1 + e, e) - e
        return jnp.broadcast_to(expand_time((f(alpha * (k - 1)) + (k - 1) * f(-alpha)) / k, x0), x0.shape)


def _other_than(log_p, number) -> jax.Array:
    """log_p without the category `number`, not normalised."""
    return jnp.where(is_category(number, log_p.shape[-1]), -jnp.inf, log_p)
