"""Logits of many categories that are never whole: features, a table, and questions that go through chunks of tokens.

The logits of 8 texts of 1,024 tokens over 50,257 categories fill 1.6 GB in float32, and a loss and its gradient hold
several arrays of that size. A `Head` keeps the two factors of their product instead. What is asked of it is computed
for some hundred tokens at a time, and computed again for the gradient, so that no array of all tokens and all
categories exists. Examples that are split between devices stay there: each device goes through its own tokens.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from jaxdiff.arrays import pytree
from jaxdiff.arrays.dtypes import same_dtype, working
from jaxdiff.arrays.varying import vary

_ASKED = 2**25
"""How many logits a question holds at once: 128 MiB of them."""
_DRAWN = 2**22
"""How many a draw does, which has to take chunks of its few tokens."""


@pytree
@dataclasses.dataclass(frozen=True)
class Head:
    """Logits [n, *event, K] as features [n, *event, d] times the rows of a table [K, d], plus a bias [K].

        Categorical(Head(features, table)).log_prob(x0)

    The product is computed in the dtype of its factors and summed in float32 at least. Raises ValueError for factors
    that do not belong together.
    """

    features: jax.Array
    table: jax.Array
    bias: jax.Array | None = None

    def __post_init__(self):
        features, table = jnp.shape(self.features), jnp.shape(self.table)
        if len(table) != 2 or len(features) < 2 or features[-1] != table[1]:
            raise ValueError(
                f"features and table have shapes {features} and {table}; expected [n, *event, d] and [K, d]"
            )
        if self.bias is not None and jnp.shape(self.bias) != table[:1]:
            raise ValueError(f"bias has shape {jnp.shape(self.bias)}; expected [K] = {table[:1]}")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the logits."""
        return (*self.features.shape[:-1], self.table.shape[0])

    @property
    def ndim(self) -> int:
        """How many axes they have."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """That of the logits."""
        return jnp.result_type(jnp.float32, self.features, self.table)

    def logits(self) -> jax.Array:
        """The logits, whole."""
        product = jnp.einsum("...d,kd->...k", self.features, self.table, preferred_element_type=self.dtype)
        return product if self.bias is None else product + _last(jnp.asarray(self.bias, self.dtype), product)


def is_category(x, categories: int) -> jax.Array:
    """Which of the categories x is, [*x.shape, categories]."""
    return x[..., None] == jnp.arange(categories).reshape(*[1] * x.ndim, categories)


@pytree
@dataclasses.dataclass(frozen=True)
class Seen:
    """Evidence for one category of each token: `gain` [n, *event] is added to the logit of `at` [n, *event].

    A gain of 0 says nothing, one of +inf that the token is `at`. Where it says nothing `at` may be any number, such as
    that of the mask.
    """

    at: jax.Array
    gain: jax.Array

    def added(self, logits: jax.Array) -> jax.Array:
        """The logits [..., K] with the evidence."""
        gain, there = self.gain[..., None], is_category(self.at, logits.shape[-1])
        certain = gain == jnp.inf
        return jnp.where(there, logits + jnp.where(certain, 0.0, gain), jnp.where(certain, -jnp.inf, logits))


def _last(row: jax.Array, like: jax.Array) -> jax.Array:
    """`row` along the last axis of `like`."""
    return jax.lax.expand_dims(row, range(like.ndim - 1))


def mixed_heads(weights: Sequence, heads: Sequence[Head]) -> Head:
    """The head of the logits Σ_k weight_k head_k, the weights of which sum to 1.

    Of one table and bias the features are mixed; different ones are set side by side, so that K arrays of features cost
    as much as K heads.
    """
    first = heads[0]
    if all(head.table is first.table and head.bias is first.bias for head in heads):
        features = functools.reduce(operator.add, (w * head.features for w, head in zip(weights, heads)))
        return dataclasses.replace(first, features=features)
    rows, columns = [], []
    for weight, head in zip(weights, heads):
        rows.append(weight * head.features)
        columns.append(head.table)
        if head.bias is not None:
            rows.append(weight * jnp.ones_like(head.features[..., :1]))
            columns.append(head.bias[:, None])
    return Head(jnp.concatenate(rows, -1), jnp.concatenate(columns, -1))


def of_examples(change: Callable, tree: Any) -> Any:
    """`tree`, an answer of a denoiser, with `change` of each array that has a row an example: not of a head's table."""

    def changed(part):
        return dataclasses.replace(part, features=change(part.features)) if isinstance(part, Head) else change(part)

    return jax.tree.map(changed, tree, is_leaf=lambda part: isinstance(part, Head))


def token_keys(keys, shape) -> jax.Array:
    """A key for each token of `shape` = (n, *event): that of the example folded with the token's place in the event."""
    places = jnp.arange(math.prod(shape[1:]))
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, places).reshape(shape)


def in_chunks(question: Callable, head: Head, tokens: Any) -> Any:
    """`question(head, tokens)` with some tokens at a time, of a tree of arrays [n, *event, ...]; what it makes of each.

    A gradient keeps what each chunk is given, and computes the rest again.
    """
    head = jax.tree.map(jnp.asarray, head)
    factors = working((head.table, head.bias))  # so that the gradient's chunks are summed in float32

    @functools.partial(jax.checkpoint, prevent_cse=False)  # inside of a loop there is nothing to share
    def ask(factors, features, tokens):
        table, bias = same_dtype(factors, (head.table, head.bias))
        return question(Head(features, table, bias), tokens)

    cut = _Cut(head.shape, _ASKED)
    answers = jax.lax.map(lambda chunk: ask(factors, *chunk), jax.tree.map(cut.apart, (head.features, tokens)))
    return jax.tree.map(cut.together, answers)


def where_needed(draw: Callable, head: Head, tokens: Any, where) -> jax.Array:
    """`draw(head, tokens)`, integers, of the tokens where `where` holds, in as few chunks as these fill; 0 elsewhere.

    Some tokens beside them are drawn too.
    """
    cut = _Cut(head.shape, _DRAWN)
    head, tokens = jax.tree.map(lambda leaf: jax.lax.stop_gradient(jnp.asarray(leaf)), (head, tokens))
    features, tokens, needed = jax.tree.map(cut.rows, (head.features, tokens, where))
    order = jnp.argsort(~needed, axis=1, stable=True)
    chunks = -(-jnp.max(jnp.sum(needed, 1)) // cut.size)

    def step(chunk, drawn):
        at = jax.lax.dynamic_slice_in_dim(order, chunk * cut.size, cut.size, 1)
        these = jax.tree.map(lambda rows: jax.vmap(lambda row, at: row[at])(rows, at), (features, tokens))
        values = draw(Head(these[0], head.table, head.bias), these[1])
        return jax.vmap(lambda row, at, value: row.at[at].set(value))(drawn, at, values)

    drawn = jax.lax.fori_loop(0, chunks, step, vary(jnp.zeros(needed.shape, jnp.int32), (head, tokens, where)))
    return drawn.reshape(where.shape)


class _Cut:
    """Arrays [n, *event, ...] as [chunks, devices, size, ...], so that each device has tokens of its own in each."""

    def __init__(self, shape: tuple[int, ...], most: int):
        *self.lead, categories = shape
        self.devices = _devices(self.lead[0])
        self.total = math.prod(self.lead) // self.devices
        size = 64 * max(1, most // (64 * categories))  # products are fastest of multiples of 64 rows
        self.size = min(self.total, size)
        self.chunks = -(-self.total // self.size)

    def rows(self, array):
        """[n, *event, ...] -> [devices, tokens, ...]."""
        return array.reshape(self.devices, self.total, *array.shape[len(self.lead) :])

    def apart(self, array):
        """[n, *event, ...] -> [chunks, devices, size, ...], the last chunk filled up with tokens of the first."""
        rows = self.rows(array)
        if missing := self.chunks * self.size - self.total:
            rows = jnp.concatenate([rows, rows[:, :missing]], 1)
        return rows.reshape(self.devices, self.chunks, self.size, *rows.shape[2:]).swapaxes(0, 1)

    def together(self, array):
        """[chunks, devices, size, ...] -> [n, *event, ...]."""
        rows = array.swapaxes(0, 1).reshape(self.devices, self.chunks * self.size, *array.shape[3:])
        return rows[:, : self.total].reshape(*self.lead, *rows.shape[2:])


def _devices(n: int) -> int:
    """Between how many devices of the current mesh XLA splits n examples."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size if set(mesh.axis_types) == {AxisType.Auto} and n % mesh.size == 0 else 1
