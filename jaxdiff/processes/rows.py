r"""Noise of categories whose posterior q(x_s | x_t, x_0) is a vector over all K categories.

With rows of logs, each [*x.shape, K] and up to a constant,

    q(x_s = j | x_t, x_0) ∝ q(x_t | j) q(j | x_0),        p(x_s = j | x_t) ∝ q(x_t | j) Σ_v c_v q(j | v)

with c the leave-one-out law. The sum is the only product of [values, K] by [K, K]. It runs over v one at a time, so
that no matrix per example is stored.
"""

import abc
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_output, split_keys
from jaxdiff.processes.discrete import Discrete, divergence
from jaxdiff.processes.heads import nan_unless_category
from jaxdiff.processes.predictions import Categorical, Certain


class ByRows(Discrete):
    """Categories whose kernel is computed row by row: a subclass writes the methods below."""

    rows = "leave_one_out", "data"

    @abc.abstractmethod
    def evidence(self, x, t) -> jax.Array:
        """log q(x_t = x | x_0 = v) for every v, up to a constant, [*x.shape, categories]."""

    @abc.abstractmethod
    def _after(self, x0, t) -> jax.Array:
        """log q(x_t = j | x_0 = x0) for every j, up to a constant, [*x0.shape, categories]."""

    @abc.abstractmethod
    def _before(self, x, s, t) -> jax.Array:
        """log q(x_t = x | x_s = j) for every j, up to a constant, [*x.shape, categories]; 0 at x alone if s = t."""

    @abc.abstractmethod
    def _onward(self, x, s, t) -> jax.Array:
        """log q(x_t = j | x_s = x) for every j, up to a constant, [*x.shape, categories]."""

    @abc.abstractmethod
    def _log_prior(self) -> jax.Array:
        """log of the noise's law, [categories]."""

    def prior(self, keys, shape, t) -> jax.Array:
        return drawn(keys, jnp.broadcast_to(self._log_prior(), (*shape, self.categories)))

    def unknown(self, shape):
        """Always raises ValueError: this noise is random."""
        raise ValueError(
            f"{type(self).__name__}: a part of this noise has no value that means unknown; give it as cond, draw "
            "jointly and drop it, or take jaxdiff.Absorbing"
        )

    def perturb(self, keys, x0, t) -> tuple[jax.Array, Certain]:
        return drawn(keys, self._after(x0, t)), Certain(x0)

    def forward(self, keys, x, s, t) -> jax.Array:
        return drawn(keys, self._onward(x, s, t))

    def reverse(self, keys, prediction, x, t, s) -> jax.Array:
        """A draw of x_0, and then of x_s given x_0; -1 where the prediction is NaN."""
        what, which = split_keys(keys)
        x0 = prediction.draw(what)
        return jnp.where(x0 < 0, x0, drawn(which, self._before(x, s, t) + self._after(x0, s)))

    def read(self, parameterization, out, x, t, data_std) -> Categorical:
        """The logits by their parameterization, with the evidence of x."""
        check_output("the network", out, x, (*x.shape, self.categories), " (one logit for each category)")
        return Categorical(out, None if parameterization == "data" else self.evidence(x, t))

    def log_kernel(self, t) -> jax.Array:
        self.check_table()
        t = jnp.asarray(t, float)
        every = jnp.arange(self.categories)
        one = lambda t: jax.nn.log_softmax(self._after(every, jnp.broadcast_to(t, every.shape)), -1).T
        return jax.vmap(one)(t.ravel()).reshape(*t.shape, self.categories, self.categories)

    def kl(self, prediction, truth: Certain, x, t, s) -> jax.Array:
        evidence, before = self.evidence(x, t), self._before(x, s, t)
        possible = evidence > -jnp.inf
        log_p = prediction.log_probabilities()
        log_c = jnp.where(possible, log_p - jnp.where(possible, evidence, 0.0), -jnp.inf)
        c = jnp.exp(log_c - jnp.max(log_c, -1, keepdims=True))
        row = lambda v: jnp.exp(self._after(jnp.full(len(x), v), s))
        mixed = jnp.log(jnp.maximum(contracted(c, row), jnp.finfo(c.dtype).tiny))
        ours = jax.nn.log_softmax(before + mixed, -1)
        right = jax.nn.log_softmax(before + self._after(truth.data, s), -1)
        return nan_unless_category(truth.data, self.categories, divergence(right, ours))

    def prior_kl(self, x0, t) -> jax.Array:
        return divergence(jax.nn.log_softmax(self._after(x0, t), -1), self._log_prior())


def drawn(keys, logits) -> jax.Array:
    """A draw from each row of logits [n, *event, K], one key per example; -1 where no category is possible, or NaN."""
    one = lambda key, logits: jax.random.categorical(key, logits, mode="high")
    return jnp.where(jnp.isfinite(jnp.max(logits, -1)), jax.vmap(one)(keys, logits).astype(jnp.int32), -1)


def contracted(weights, row: Callable) -> jax.Array:
    """Σ_v weights[..., v] row(v) for weights [n, *event, K] and rows [n, K], one v at a time."""

    def add(total, part):
        v, weight = part
        rows = row(v)
        return total + weight[..., None] * rows.reshape(len(rows), *[1] * (weight.ndim - 1), -1), None

    parts = jnp.arange(weights.shape[-1]), jnp.moveaxis(weights, -1, 0)
    return jax.lax.scan(jax.checkpoint(add), jnp.zeros_like(weights), parts)[0]
