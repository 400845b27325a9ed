"""What a denoiser says of x_0 given x_t: two means of numbers, a distribution of each category.

Every class answers `with_variance(variance)`, which says how far a step back is spread, and
`first.extrapolated(others, scales)`, so that guidance is one map over the leaves of a joint model's answer.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_choice, pytree
from jaxdiff.arrays.dtypes import working
from jaxdiff.processes.heads import Head, Seen, in_chunks, is_category, mixed_heads, token_keys, where_needed

VARIANCES = ("small", "large", "learned")


def check_variance(variance: str) -> None:
    """Raise ValueError for a choice of the reverse variance that is not known."""
    check_choice("variance", variance, VARIANCES)


@pytree
@dataclasses.dataclass(frozen=True)
class Prediction:
    """E[x_0 | x_t] and E[ε | x_t], each [batch, *event], with x_t = α data + σ noise; it unpacks to these two.

    `share`, a number or of the same shape, is where the variance of a step back lies between the smallest (0) and the
    largest (1) that the process has (`jaxdiff.processes.gaussian`); None is the smallest. `tilt`, of the same shape, is
    the gradient of a log-probability, which moves the mean of a step back by its variance times the tilt
    (`jaxdiff.guidance.StepClassifier`); None is none. What reads data and noise alone would leave it out, so that a
    prediction with a tilt does not unpack (ValueError).
    """

    data: jax.Array
    noise: jax.Array
    share: jax.Array | float | None = None
    tilt: jax.Array | None = None

    def __iter__(self) -> Iterator[jax.Array]:
        if self.tilt is not None:
            raise ValueError(
                "the prediction has a tilt, as StepClassifier gives it, which only the steps of samplers.Ancestral "
                "add: take Ancestral, with nothing around StepClassifier, or guide by guidance.Classifier"
            )
        return iter((self.data, self.noise))

    def with_variance(self, variance: str) -> "Prediction":
        """The same with the variance "small", "large", or "learned", the share that it has.

        Raises ValueError for another word, and where "learned" is asked of a denoiser that has not learned one.
        """
        check_variance(variance)
        if variance != "learned":
            return dataclasses.replace(self, share={"small": None, "large": 1.0}[variance])
        if self.share is None:
            raise ValueError(
                'variance = "learned", but the denoiser predicts none; expected a Denoiser(..., '
                "learned_variance=True) trained by jaxdiff.losses.Hybrid"
            )
        return self

    def extrapolated(self, others: Sequence["Prediction"], scales: Sequence) -> "Prediction":
        """self + Σ_k scale_k (other_k - other_{k-1}), other_0 = self, with the share of the last.

        Bitwise self where all scales are 0, and the last where they are 1.
        """
        weights = _weights([along_batch(scale, self.data, "scale") for scale in scales])
        mixed = lambda *values: functools.reduce(operator.add, map(operator.mul, weights, values))
        data, noise = map(mixed, self, *others)
        return dataclasses.replace(others[-1], data=data, noise=noise)


def _weights(scales: Sequence) -> list:
    """What each of K + 1 models counts, whose K differences, from each to the next, are taken times `scales`."""
    return [before - after for before, after in zip((1, *scales), (*scales, 0))]


@pytree
@dataclasses.dataclass(frozen=True)
class Categorical:
    """p(x_0 | x_t) of each value, independent of the others: log p = logits + evidence + const.

    `logits` are what the other values say of this one: an array [n, *event, K], or a `Head` where K is large.
    `evidence` is what x_t says of the value itself, log q(x_t | x_0), -inf where that cannot be: an array
    [n, *event, K], a `Seen` where it is of one category alone, or None. Guidance acts on the logits alone, so that no
    -inf meets a negative weight. `sharpenings` are what `sharpened` adds. Everything is computed in float32 at least.
    """

    logits: jax.Array | Head
    evidence: jax.Array | Seen | None = None
    sharpenings: tuple[Callable, ...] = ()

    def sharpened(self, function: Callable, number) -> "Categorical":
        """The same under another law: log p becomes `function(log_p [..., K], number [...])`, normalised.

        `number` has one entry a token, [n, *event]. It applies to all that is asked, after the evidence and after what
        was added before; in guidance the law of the last model goes through its own.
        """
        added = jax.tree_util.Partial(function, number=number)
        return dataclasses.replace(self, sharpenings=(*self.sharpenings, added))

    def ask(self, question: Callable, *values) -> Any:
        """`question(log_p, *values)` of log p(x_0 | x_t) [..., K] and of `values`, arrays [n, *event], or more axes.

        It answers with one array, or a tree of them, [...] or of more axes, which comes back as [n, *event]. Of a
        `Head` it is asked in chunks of tokens, so that only what it returns is held for all of them.

        entropy = prediction.ask(lambda log_p: -jnp.sum(jnp.exp(log_p) * log_p, -1))
        """
        told = (self._told, *map(jnp.asarray, values))
        if isinstance(self.logits, Head):
            return in_chunks(lambda head, told: question(_log_p(head.logits(), *told[0]), *told[1:]), self.logits, told)
        return question(_log_p(self.logits, *self._told), *told[1:])

    @property
    def _told(self) -> tuple:
        """What makes log p(x_0 | x_t) of the logits."""
        return self.evidence, self.sharpenings

    def log_probabilities(self) -> jax.Array:
        """log p(x_0 | x_t) of every category, [n, *event, K]."""
        return self.ask(lambda log_p: log_p)

    def probabilities(self) -> jax.Array:
        """p(x_0 | x_t) of every category, [n, *event, K]."""
        return jnp.exp(self.log_probabilities())

    def log_prob(self, x0) -> jax.Array:
        """log p(x_0 | x_t) of the categories x0 [n, *event]; NaN for one that does not exist."""

        def chosen(log_p, x0):
            there = is_category(x0, log_p.shape[-1])
            exists = (x0 >= 0) & (x0 < log_p.shape[-1])
            return jnp.where(exists, jnp.sum(jnp.where(there, log_p, 0.0), -1), jnp.nan)

        return self.ask(chosen, x0)

    def draw(self, keys, where=None) -> jax.Array:
        """Categories [n, *event] from the distribution, one key an example; each token by its own.

        where: bool [n, *event], the tokens that are needed; all unless given. The others come back as anything, and
        of a `Head` cost nothing, nor does what is certain.
        """
        shape = self.logits.shape[:-1]
        keys = token_keys(keys, shape)
        if not isinstance(self.logits, Head):
            return _drawn(keys, _log_p(self.logits, *self._told))
        needed = jnp.broadcast_to(True if where is None else where, shape)
        certain = self.evidence.gain == jnp.inf if isinstance(self.evidence, Seen) else jnp.zeros(shape, bool)
        one = lambda head, told: _drawn(told[0], _log_p(head.logits(), *told[1]))
        drawn = where_needed(one, self.logits, (keys, self._told), needed & ~certain)
        return jnp.where(certain, self.evidence.at, drawn) if isinstance(self.evidence, Seen) else drawn

    def with_variance(self, variance: str) -> "Categorical":
        """Itself: a step back draws what it does not know. Raises ValueError for another variance than "small"."""
        check_variance(variance)
        if variance != "small":
            raise ValueError(f'variance = "{variance}": a step back between categories has none; expected "small"')
        return self

    def extrapolated(self, others: Sequence["Categorical"], scales: Sequence) -> "Categorical":
        """The logits self + Σ_k scale_k (other_k - other_{k-1}), other_0 = self, under the evidence of the last.

        They are -inf where all are. Of heads the features are mixed.
        """
        models = [self.logits, *(other.logits for other in others)]
        weights = _weights([along_batch(scale, self.logits, "scale") for scale in scales])
        heads = [logits for logits in models if isinstance(logits, Head)]
        if len(heads) == len(models):
            return dataclasses.replace(others[-1], logits=mixed_heads(weights, heads))
        models = [logits.logits() if isinstance(logits, Head) else logits for logits in models]
        part = lambda weight, logits: jnp.where(weight == 0, 0.0, weight * logits)
        mixed = functools.reduce(operator.add, map(part, weights, models))
        alike = functools.reduce(operator.and_, [logits == models[-1] for logits in models[:-1]])
        return dataclasses.replace(others[-1], logits=jnp.where(alike, models[-1], mixed))


def _log_p(logits: jax.Array, evidence, sharpenings) -> jax.Array:
    wide = working(logits)
    if isinstance(evidence, Seen):
        wide = evidence.added(wide)
    elif evidence is not None:
        wide = wide + evidence
    log_p = jax.nn.log_softmax(wide, -1)
    for sharpen in sharpenings:
        log_p = jax.nn.log_softmax(sharpen(log_p), -1)
    return log_p


def _drawn(keys, log_p: jax.Array) -> jax.Array:
    """A category of each token by its key; `mode`, for 23 bits of a uniform number hold no event rarer than 1e-7."""
    rows = log_p.reshape(-1, log_p.shape[-1])
    one = lambda key, log_p: jax.random.categorical(key, log_p, mode="high")
    return jax.vmap(one)(keys.ravel(), rows).reshape(keys.shape).astype(jnp.int32)


@pytree
@dataclasses.dataclass(frozen=True)
class Certain:
    """The truth as a prediction of categories: x_0 itself, [batch, *event]."""

    data: jax.Array

    def log_prob(self, x0) -> jax.Array:
        """0 where x0 is the truth, -inf elsewhere."""
        return jnp.where(self.data == x0, 0.0, -jnp.inf)

    def draw(self, keys, where=None) -> jax.Array:
        """The truth."""
        return self.data


def is_prediction(tree: Any) -> bool:
    """Whether `tree` is the prediction of one process, and not that of a product."""
    return isinstance(tree, Prediction | Categorical | Certain)


def extrapolated(models: Sequence, scales: Sequence) -> Any:
    """`first.extrapolated(others, scales)` of every part of what several models answer."""
    return jax.tree.map(lambda first, *others: first.extrapolated(others, scales), *models, is_leaf=is_prediction)


def with_variance(prediction: Any, variance: str) -> Any:
    """`prediction.with_variance(variance)` of every part of a model's answer."""
    return jax.tree.map(lambda part: part.with_variance(variance), prediction, is_leaf=is_prediction)
