"""Distributions of categories known in closed form: a table of a few tokens, and a Markov chain of any length.

1.  Given x_0 the tokens of x_t are independent of each other. What the other tokens of x_t say about the i-th is
    therefore

        out_i(v) = log Σ_{x_0 : x_0^i = v} p(x_0) Π_{j ≠ i} q(x_t^j | x_0^j),

    and p(x_0^i = v | x_t) ∝ exp(out_i(v)) q(x_t^i | v). The first factor gives the logits of the prediction, and the
    second its evidence, `process.evidence(x, t)`: one formula for every process of categories.
2.  For a chain p(x_0) = π(x^1) Π T(x^{i-1}, x^i) it is the product of the messages of both directions (Rabiner 1989, "A
    tutorial on hidden Markov models", section III),

        out_i = log f_i + log b_i,      f_1 = π,   f_{i+1}(w) = Σ_v f_i(v) e_i(v) T(v, w)
                                        b_L = 1,   b_{i-1}(u) = Σ_v T(u, v) e_i(v) b_i(v),     e_i(v) = q(x_t^i | v).

    A message is carried in logs, and divided by its largest value before it is multiplied by T.
3.  The entropy of the chain is H(π) + Σ_{i=2}^L Σ_v P(x^{i-1} = v) H(T(v, .)).
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_array, check_instance, check_whole, exactly, example_keys, is_concrete, nan_unless
from jaxdiff.arrays.varying import vary
from jaxdiff.processes import Categorical, Discrete, pytree


@dataclasses.dataclass(frozen=True)
class OfCategories:
    """The exact denoiser of a distribution of categories; a subclass says what the other tokens say about each one."""

    process: Discrete

    @abc.abstractmethod
    def _others(self, evidence) -> jax.Array:
        """The logits [batch, length, K] for evidence log q(x_t^i | v) [batch, length, K]."""

    def _check_event(self, event: tuple[int, ...]) -> None:
        """Raise ValueError for events whose shape is not that of the distribution."""

    def _check_process(self) -> None:
        check_instance("process", self.process, Discrete, "a process of categories such as jaxdiff.Absorbing(27)")

    def check_cond(self, cond) -> None:
        """Raise for a `cond`: the distribution has no classes."""
        if cond is not None:
            raise ValueError(f"cond was given to {type(self).__name__}, a distribution without classes; leave it out")

    @exactly
    def __call__(self, x, t, cond=None) -> Categorical:
        """p(x_0 | x_t) of each value of x `[batch, *event]`, t a scalar or `[batch]`; NaN if x has probability 0."""
        self.check_cond(cond)
        x, t = self.process.at(x, t)
        self._check_event(x.shape[1:])
        evidence, every = self.process.evidence(x, t), (*x.shape, self.process.categories)
        seen = Categorical(jnp.zeros(every), evidence).log_probabilities()
        return Categorical(self._others(seen.reshape(len(x), -1, every[-1])).reshape(every), evidence)

    def _rows(self, x0) -> jax.Array:
        """x0 [batch, *event] as rows [batch, length], checked."""
        x0 = self.process.check(x0, "x0")
        self._check_event(x0.shape[1:])
        return x0.reshape(len(x0), -1)


def _probabilities(name: str, value, shape: tuple[int, ...], axes: int = 1) -> jax.Array:
    """`value` as an array of `shape`, probabilities that sum to 1 over the last `axes` axes.

    Raises ValueError for others; traced ones become NaN.
    """
    values = check_array(name, value)
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}; expected {shape}, a probability for each category")
    over = tuple(range(-axes, 0))
    if not is_concrete(values):
        sums = values.sum(over)
        return nan_unless((values >= 0).all() & (abs(sums - 1) <= 1e-5).all(), values)
    values = np.asarray(values, np.float64)
    if (values < 0).any():
        at = [int(i) for i in np.argwhere(values < 0)[0]]
        raise ValueError(f"{name}{at} = {values[tuple(at)]}; expected probabilities, none below 0")
    sums = values.sum(over)
    wrong = np.argwhere(abs(sums - 1) > 1e-6)
    if len(wrong):
        at = [int(i) for i in wrong[0]]
        what = f"{name}{at}" if at else name
        raise ValueError(f"{what} sums to {sums[tuple(at)]:.8g}; expected probabilities that sum to 1: divide by it")
    return jnp.asarray(values / np.expand_dims(sums, over), jnp.result_type(float))


@pytree
@dataclasses.dataclass(frozen=True)
class Table(OfCategories):
    """The exact denoiser of a joint distribution of n tokens, given by the probabilities of all K^n values.

    Events of any shape with n values are read row by row. Time and memory grow as batch x n K^n.

    Args:
        process: a process of K categories.
        table: the probabilities, `[K]*n`, one axis per token; may be traced.

    Raises:
        TypeError: if `process` is not one of categories.
        ValueError: if an axis of the table does not have K entries, or the table does not hold probabilities that sum
            to 1 (a traced one gives NaN instead).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> table = jd.exact.Table(jd.Absorbing(2), [[0.4, 0.1], [0.1, 0.4]])
        >>> p = table(jnp.array([[0, 2]]), 0.5).probabilities()  # the second token is masked
        >>> round(float(p[0, 1, 0]), 3)  # 0.4 / (0.4 + 0.1)
        0.8
    """

    table: Any

    def __post_init__(self):
        self._check_process()
        axes = max(1, np.ndim(self.table))
        table = _probabilities("table", self.table, (self.process.categories,) * axes, axes)
        object.__setattr__(self, "table", table)

    def _check_event(self, event) -> None:
        if math.prod(event) != self.table.ndim:
            raise ValueError(f"x has events of {math.prod(event)} values; this table has {self.table.ndim}")

    def _others(self, evidence) -> jax.Array:
        n, k = self.table.ndim, self.process.categories
        tokens = [evidence[:, i].reshape(-1, *(k if axis == i else 1 for axis in range(n))) for i in range(n)]

        def others(i):
            joint = sum((tokens[j] for j in range(n) if j != i), jnp.log(self.table)[None])
            summed = jax.nn.logsumexp(joint, [axis + 1 for axis in range(n) if axis != i])
            return jnp.broadcast_to(summed, evidence[:, i].shape)

        return jnp.stack([others(i) for i in range(n)], 1)

    def log_prob(self, x0) -> jax.Array:
        """log p(x_0) of x0 `[batch, *event]`, nats, `[batch]`; -inf for impossible values."""
        x0 = self._rows(x0)
        return jnp.log(self.table)[tuple(x0.T)]

    def entropy(self) -> jax.Array:
        """The entropy of all n tokens together, nats."""
        return jnp.sum(jax.scipy.special.entr(self.table))

    def draw(self, key, count: int) -> jax.Array:
        """`count` samples of the tokens, `[count, n]`; the i-th depends only on the key and i."""
        keys = example_keys(key, check_whole("count", count))
        flat = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(self.table).ravel(), mode="high"))(keys)
        return jnp.stack(jnp.unravel_index(flat, self.table.shape), -1).astype(jnp.int32)


@pytree
@dataclasses.dataclass(frozen=True)
class Markov(OfCategories):
    """The exact denoiser of a Markov chain of any length.

    Events `[n, length]` are chains; events of another shape are read row by row. Time grows as length x K^2, memory as
    length x K. In float32 what is below e^-87 times the most probable value of a message counts as 0. If some
    transitions are impossible, as in counts of pairs of letters, a sampler that draws several tokens at once can reach
    x of probability 0, for which the prediction is NaN: add a small number to the counts.

    Args:
        process: a process of K categories.
        initial: the probabilities of the first token, `[K]`; may be traced.
        transition: the probabilities of the next token (column) after each token (row), `[K, K]`; may be traced.

    Raises:
        TypeError: if `process` is not one of categories.
        ValueError: if an array has another shape or does not hold probabilities that sum to 1, row by row (a traced one
            gives NaN instead).

    Source:
        Rabiner 1989, "A tutorial on hidden Markov models", section III.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> chain = jd.exact.Markov(jd.Absorbing(2), [0.5, 0.5], [[0.75, 0.25], [0.25, 0.75]])
        >>> p = chain(jnp.array([[0, 2, 2]]), 0.5).probabilities()  # the second and third tokens are masked
        >>> round(float(p[0, 1, 0]), 3)
        0.75
        >>> round(float(p[0, 2, 0]), 3)  # 0.75 * 0.75 + 0.25 * 0.25
        0.625
    """

    initial: Any
    transition: Any

    def __post_init__(self):
        self._check_process()
        k = self.process.categories
        object.__setattr__(self, "initial", _probabilities("initial", self.initial, (k,)))
        object.__setattr__(self, "transition", _probabilities("transition", self.transition, (k, k)))

    def _others(self, evidence) -> jax.Array:
        evidence = evidence.swapaxes(0, 1)

        def messages(first, transition, reverse=False):
            one = lambda message, seen: (_times(message + seen, transition), message)
            start = vary(jnp.broadcast_to(first, evidence.shape[1:]), (evidence, transition))
            return jax.lax.scan(one, start, evidence, reverse=reverse)[1]

        forward = messages(jnp.log(self.initial), self.transition)
        backward = messages(jnp.zeros_like(self.initial), self.transition.T, reverse=True)
        return (forward + backward).swapaxes(0, 1)

    def log_prob(self, x0) -> jax.Array:
        """log p(x_0) of chains x0 `[batch, length]`, nats, `[batch]`; -inf for impossible values."""
        x0 = self._rows(x0)
        steps = jnp.log(self.transition)[x0[:, :-1], x0[:, 1:]]
        return jnp.log(self.initial)[x0[:, 0]] + steps.sum(1)

    @exactly
    def entropy(self, length: int) -> jax.Array:
        """The entropy of a chain of `length` tokens, nats."""
        entropies = jax.scipy.special.entr(self.transition).sum(1)
        one = lambda law, _: (law @ self.transition, law @ entropies)
        _, given = jax.lax.scan(one, self.initial, length=check_whole("length", length) - 1)
        return jax.scipy.special.entr(self.initial).sum() + given.sum()

    def draw(self, key, count: int, length: int) -> jax.Array:
        """`count` chains of `length` tokens, `[count, length]`; the i-th depends only on the key and i."""
        keys, length = example_keys(key, check_whole("count", count)), check_whole("length", length)
        log_initial, log_transition = jnp.log(self.initial), jnp.log(self.transition)

        def one(key):
            first, *_ = keys = jax.random.split(key, length)
            draw = lambda key, logits: jax.random.categorical(key, logits, mode="high")

            def step(before, key):
                after = draw(key, log_transition[before])
                return after, after

            start = draw(first, log_initial)
            return jnp.concatenate([start[None], jax.lax.scan(step, start, keys[1:])[1]])

        return jax.vmap(one)(keys).astype(jnp.int32)


def _times(log_message, matrix) -> jax.Array:
    """log (exp(log_message) @ matrix), [batch, K]."""
    top = jnp.max(log_message, -1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return jnp.log(jnp.exp(log_message - top) @ matrix) + top
