"""Logits of many categories that are never stored whole: features, a table, and computation in chunks of tokens.

The logits of 8 texts of 1,024 tokens over 50,257 categories take 1.6 GB in float32, and a loss and its gradient need
several arrays of that size. A `Head` keeps the two factors of the logits instead. A function of the logits is computed
for a few hundred tokens at a time, and computed again for the gradient, so that no array of all tokens and all
categories exists. Examples that are sharded over devices stay there: each device processes its own tokens.
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
"""The number of logits in a chunk of `in_chunks`: 128 MiB of them."""
_DRAWN = 2**22
"""The number of logits in a chunk of `where_needed`, smaller because it draws few tokens."""


@pytree
@dataclasses.dataclass(frozen=True)
class Head:
    """Logits `[n, *event, K]` in factored form: features times a table, plus a bias.

    A network over many categories returns a `Head` in place of logits, which are then never stored whole
    (`jaxdiff.processes.heads`). The product is computed in the dtype of its factors and summed in float32 at least.

    Args:
        features: shape `[n, *event, d]`.
        table: one row per category, shape `[K, d]`.
        bias: shape `[K]`; None is no bias.

    Raises:
        ValueError: if the shapes do not fit each other.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> head = jd.Head(features=jnp.ones((2, 5, 3)), table=jnp.zeros((100, 3)))
        >>> head.shape
        (2, 5, 100)
        >>> jd.Categorical(head).log_prob(jnp.zeros((2, 5), int)).shape
        (2, 5)
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
        """The shape of the logits."""
        return (*self.features.shape[:-1], self.table.shape[0])

    @property
    def ndim(self) -> int:
        """The number of axes of the logits."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the logits."""
        return jnp.result_type(jnp.float32, self.features, self.table)

    def logits(self) -> jax.Array:
        """All logits as one array, [n, *event, K]."""
        product = jnp.einsum("...d,kd->...k", self.features, self.table, preferred_element_type=self.dtype)
        return product if self.bias is None else product + _last(jnp.asarray(self.bias, self.dtype), product)


def is_category(x, categories: int) -> jax.Array:
    """Whether x is each category, [*x.shape, categories]."""
    return x[..., None] == jnp.arange(categories).reshape(*[1] * x.ndim, categories)


def nan_unless_category(x, categories: int, value) -> jax.Array:
    """`value`, of the shape of x, where x is one of the categories, and NaN elsewhere."""
    return jnp.where((x >= 0) & (x < categories), value, jnp.nan)


@pytree
@dataclasses.dataclass(frozen=True)
class Seen:
    """Evidence of a `Categorical` for one category per token: a number that is added to the logit of that category.

    Args:
        at: the category, integers `[n, *event]`; where `gain` is 0 it may be any integer, such as the mask.
        gain: what is added to its logit, `[n, *event]`: 0 is no evidence, inf makes the token certain.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> evidence = jd.Seen(at=jnp.array([[2, 0]]), gain=jnp.array([[jnp.inf, 0.0]]))
        >>> prediction = jd.Categorical(jnp.zeros((1, 2, 4)), evidence)
        >>> prediction.probabilities()[0, 0].tolist()
        [0.0, 0.0, 1.0, 0.0]
    """

    at: jax.Array
    gain: jax.Array

    def added(self, logits: jax.Array) -> jax.Array:
        """The logits [..., K] with the evidence added."""
        gain, there = self.gain[..., None], is_category(self.at, logits.shape[-1])
        certain = gain == jnp.inf
        return jnp.where(there, logits + jnp.where(certain, 0.0, gain), jnp.where(certain, -jnp.inf, logits))


def _last(row: jax.Array, like: jax.Array) -> jax.Array:
    """`row` with leading axes, so that it broadcasts along the last axis of `like`."""
    return jax.lax.expand_dims(row, range(like.ndim - 1))


def mixed_heads(weights: Sequence, heads: Sequence[Head]) -> Head:
    """The head of the logits Σ_k weight_k head_k; the weights sum to 1.

    Heads that share table and bias have their features mixed; others are concatenated, which costs as much as all of
    them.
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
    """Apply a function to the arrays of a denoiser's answer that have a batch axis.

    Args:
        change: a function of an array `[n, ...]`, such as a reshape or a selection of examples.
        tree: the answer: a `Prediction`, a `Categorical`, or a tree of them. The table and bias of a `Head`, which
            have no batch axis, are kept.

    Returns:
        A tree of the same structure.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> head = jd.Head(features=jnp.ones((4, 5, 3)), table=jnp.zeros((100, 3)))
        >>> jd.processes.of_examples(lambda array: array[:2], jd.Categorical(head)).logits.shape
        (2, 5, 100)
    """

    def changed(part):
        return dataclasses.replace(part, features=change(part.features)) if isinstance(part, Head) else change(part)

    return jax.tree.map(changed, tree, is_leaf=lambda part: isinstance(part, Head))


def token_keys(keys, shape) -> jax.Array:
    """A key for each token of `shape` = (n, *event): the example's key folded with the token's index in the event."""
    index = jnp.arange(math.prod(shape[1:]))
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, index).reshape(shape)


def in_chunks(question: Callable, head: Head, tokens: Any) -> Any:
    """`question(head, tokens)`, computed for a chunk of tokens at a time; `tokens` is a tree of [n, *event, ...].

    The gradient stores the inputs of each chunk and recomputes the rest.
    """
    head = jax.tree.map(jnp.asarray, head)
    factors = working((head.table, head.bias))  # so that gradients are summed over chunks in float32

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a loop keeps XLA from merging the two passes
    def ask(factors, features, tokens):
        table, bias = same_dtype(factors, (head.table, head.bias))
        return question(Head(features, table, bias), tokens)

    cut = _Cut(head.shape, _ASKED)
    answers = jax.lax.map(lambda chunk: ask(factors, *chunk), jax.tree.map(cut.apart, (head.features, tokens)))
    return jax.tree.map(cut.together, answers)


def where_needed(draw: Callable, head: Head, tokens: Any, where) -> jax.Array:
    """`draw(head, tokens)`, integers, for the tokens where `where` is true, in as few chunks as possible; 0 elsewhere.

    The last chunk is filled up with other tokens, which are drawn too.
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
    """Arrays [n, *event, ...] as [chunks, devices, size, ...], so that each chunk holds tokens of every device."""

    def __init__(self, shape: tuple[int, ...], most: int):
        *self.lead, categories = shape
        self.devices = _devices(self.lead[0])
        self.total = math.prod(self.lead) // self.devices
        size = 64 * max(1, most // (64 * categories))  # products are fastest with multiples of 64 rows
        self.size = min(self.total, size)
        self.chunks = -(-self.total // self.size)

    def rows(self, array):
        """[n, *event, ...] -> [devices, tokens, ...]."""
        return array.reshape(self.devices, self.total, *array.shape[len(self.lead) :])

    def apart(self, array):
        """[n, *event, ...] -> [chunks, devices, size, ...]; tokens of the first chunk fill up the last."""
        rows = self.rows(array)
        if missing := self.chunks * self.size - self.total:
            rows = jnp.concatenate([rows, rows[:, :missing]], 1)
        return rows.reshape(self.devices, self.chunks, self.size, *rows.shape[2:]).swapaxes(0, 1)

    def together(self, array):
        """[chunks, devices, size, ...] -> [n, *event, ...]."""
        rows = array.swapaxes(0, 1).reshape(self.devices, self.chunks * self.size, *array.shape[3:])
        return rows[:, : self.total].reshape(*self.lead, *rows.shape[2:])


def _devices(n: int) -> int:
    """The number of devices of the current mesh over which XLA shards n examples."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size if set(mesh.axis_types) == {AxisType.Auto} and n % mesh.size == 0 else 1
