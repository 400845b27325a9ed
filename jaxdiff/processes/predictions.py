"""What a denoiser returns about x_0 given x_t: two means of numbers, or a distribution over categories.

Every class has `with_variance(variance)`, which sets the variance of a step back, and
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
from jaxdiff.processes.heads import (
    Head,
    Seen,
    in_chunks,
    is_category,
    mixed_heads,
    nan_unless_category,
    token_keys,
    where_needed,
)

VARIANCES = ("small", "large", "learned")


def check_variance(variance: str) -> None:
    """Check the name of a reverse variance.

    Args:
        variance: "small", "large" or "learned".

    Raises:
        ValueError: for anything else.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.processes.check_variance("small")
        >>> jd.processes.check_variance("tiny")
        Traceback (most recent call last):
        ValueError: variance = 'tiny'; expected "small" or "large" or "learned"
    """
    check_choice("variance", variance, VARIANCES)


@pytree
@dataclasses.dataclass(frozen=True)
class Prediction:
    """A denoiser's answer for numbers: E[x_0 | x_t] and E[ε | x_t]. It unpacks as `data, noise = prediction`.

    The two satisfy x_t = α data + σ noise. A prediction with a tilt does not unpack (ValueError), because code that
    reads data and noise alone would ignore the tilt.

    Args:
        data: E[x_0 | x_t], shape `[n, *event]`.
        noise: E[ε | x_t], shape `[n, *event]`.
        share: where the variance of a step back lies between the smallest (0) and the largest (1) of the process
            (`jaxdiff.processes.gaussian`), a number or `[n, *event]`; None is the smallest.
        tilt: the gradient of a log-probability, `[n, *event]`, as `jaxdiff.guidance.StepClassifier` gives it. The mean
            of a step back moves by its variance times the tilt. None is no tilt.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.Flow()
        >>> x, t = jnp.ones((3, 2)), 0.5
        >>> alpha, sigma = process.marginal(t)
        >>> data = jnp.zeros_like(x)  # a denoiser of data that are all zero
        >>> prediction = jd.Prediction(data, (x - alpha * data) / sigma)
        >>> data, noise = prediction
        >>> bool(jnp.allclose(alpha * data + sigma * noise, x))
        True
    """

    data: jax.Array
    noise: jax.Array
    share: jax.Array | float | None = None
    tilt: jax.Array | None = None

    def __iter__(self) -> Iterator[jax.Array]:
        if self.tilt is not None:
            raise ValueError(
                "the prediction has a tilt, from StepClassifier, which only the steps of samplers.Ancestral add: take "
                "Ancestral, with no other guidance around StepClassifier, or guide by guidance.Classifier"
            )
        return iter((self.data, self.noise))

    def with_variance(self, variance: str) -> "Prediction":
        """The prediction with variance "small", "large", or "learned", which keeps its share.

        Raises ValueError for another name, and for "learned" if the denoiser has not predicted a share.
        """
        check_variance(variance)
        if variance != "learned":
            return dataclasses.replace(self, share={"small": None, "large": 1.0}[variance])
        if self.share is None:
            raise ValueError(
                'variance = "learned", but the denoiser predicts none; expected a Denoiser(..., '
                "learned_variance=True) trained with jaxdiff.losses.Hybrid"
            )
        return self

    def extrapolated(self, others: Sequence["Prediction"], scales: Sequence) -> "Prediction":
        """self + Σ_k scale_k (other_k - other_{k-1}), other_0 = self, with the share of the last.

        Bitwise self if all scales are 0, and the last if all are 1.
        """
        weights = _weights([along_batch(scale, self.data, "scale") for scale in scales])
        mixed = lambda *values: functools.reduce(operator.add, map(operator.mul, weights, values))
        data, noise = map(mixed, self, *others)
        return dataclasses.replace(others[-1], data=data, noise=noise)


def _weights(scales: Sequence) -> list:
    """The weight of each of K + 1 models in model_0 + Σ_k scale_k (model_k - model_{k-1})."""
    return [before - after for before, after in zip((1, *scales), (*scales, 0))]


@pytree
@dataclasses.dataclass(frozen=True)
class Categorical:
    """A denoiser's answer for categories: p(x_0 | x_t) of each value, with log p = logits + evidence + const.

    Given x_t, the values are independent of each other. Guidance acts on the logits alone, so that no -inf of the
    evidence is multiplied by a negative weight. Everything is computed in float32 at least.

    Args:
        logits: the law of each value given the others, an array `[n, *event, K]`, or a `Head` where K is large.
        evidence: log q(x_t | x_0) of the value itself, -inf for impossible categories: an array `[n, *event, K]`, a
            `Seen` if it is about a single category, or None.
        sharpenings: the functions that `sharpened` has added.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> prediction = jd.Categorical(jnp.log(jnp.array([[0.5, 0.25, 0.25]])))  # one value of 3 categories
        >>> [round(p, 3) for p in prediction.probabilities()[0].tolist()]
        [0.5, 0.25, 0.25]
        >>> prediction.draw(jax.random.split(jax.random.key(0), 1)).shape
        (1,)
    """

    logits: jax.Array | Head
    evidence: jax.Array | Seen | None = None
    sharpenings: tuple[Callable, ...] = ()

    def sharpened(self, function: Callable, number) -> "Categorical":
        """The prediction with log p replaced by `function(log_p [..., K], number [...])`, normalised.

        `number` has one entry per token, [n, *event]. The function is applied after the evidence and after earlier
        sharpenings. Guidance mixes the logits and then applies the sharpenings, which all models must share.
        """
        added = jax.tree_util.Partial(function, number=number)
        return dataclasses.replace(self, sharpenings=(*self.sharpenings, added))

    def ask(self, question: Callable, *values) -> Any:
        """Compute `question(log_p, *values)`, a function of log p(x_0 | x_t) token by token.

        For a `Head` it is computed in chunks of tokens, so that only its results are stored for all of them. The
        entropy, for example, is `prediction.ask(lambda log_p: -jnp.sum(jnp.exp(log_p) * log_p, -1))`.

        Args:
            question: a function of log_p `[..., K]` and of `values` `[...]`; it returns arrays `[...]` or with more
                axes, one or a tree of them.
            values: arrays `[n, *event]`, or with more axes.

        Returns:
            What `question` returns, with `[n, *event]` in place of `[...]`.
        """
        given = (self._given, *map(jnp.asarray, values))
        if isinstance(self.logits, Head):
            one = lambda head, given: question(_log_p(head.logits(), *given[0]), *given[1:])
            return in_chunks(one, self.logits, given)
        return question(_log_p(self.logits, *self._given), *given[1:])

    @property
    def _given(self) -> tuple:
        """What `_log_p` needs beside the logits."""
        return self.evidence, self.sharpenings

    def log_probabilities(self) -> jax.Array:
        """log p(x_0 | x_t) of every category, [n, *event, K]."""
        return self.ask(lambda log_p: log_p)

    def probabilities(self) -> jax.Array:
        """p(x_0 | x_t) of every category, [n, *event, K]."""
        return jnp.exp(self.log_probabilities())

    def log_prob(self, x0) -> jax.Array:
        """log p(x_0 | x_t) of the categories x0, [n, *event]; NaN where x0 is not a category."""

        def chosen(log_p, x0):
            there = is_category(x0, log_p.shape[-1])
            return nan_unless_category(x0, log_p.shape[-1], jnp.sum(jnp.where(there, log_p, 0.0), -1))

        return self.ask(chosen, x0)

    def draw(self, keys, where=None) -> jax.Array:
        """Draw categories [n, *event] from the distribution, each token independently; -1 where it is NaN.

        Args:
            keys: one key per example, `[n]`.
            where: the tokens that are needed, bool `[n, *event]`; None is all. The values of the others are arbitrary.
                With a `Head`, tokens that are not needed or are certain are not computed.
        """
        shape = self.logits.shape[:-1]
        keys = token_keys(keys, shape)
        if not isinstance(self.logits, Head):
            return _drawn(keys, _log_p(self.logits, *self._given))
        needed = jnp.broadcast_to(True if where is None else where, shape)
        certain = self.evidence.gain == jnp.inf if isinstance(self.evidence, Seen) else jnp.zeros(shape, bool)
        one = lambda head, given: _drawn(given[0], _log_p(head.logits(), *given[1]))
        drawn = where_needed(one, self.logits, (keys, self._given), needed & ~certain)
        return jnp.where(certain, self.evidence.at, drawn) if isinstance(self.evidence, Seen) else drawn

    def with_variance(self, variance: str) -> "Categorical":
        """The prediction itself, since a step back between categories has no variance; ValueError unless "small"."""
        check_variance(variance)
        if variance != "small":
            raise ValueError(f'variance = "{variance}": a step back between categories has none; expected "small"')
        return self

    def extrapolated(self, others: Sequence["Categorical"], scales: Sequence) -> "Categorical":
        """The logits self + Σ_k scale_k (other_k - other_{k-1}), other_0 = self, with the evidence of the last.

        Where all models have the same logit, such as -inf, it is kept. Heads are mixed by their features. Raises
        ValueError if the logits of one are p(x_0 | x_t) and those of another have evidence, or if the numbers of
        sharpenings differ.
        """
        for other in others:
            self._check_alike(other)
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

    def _check_alike(self, other: "Categorical") -> None:
        if (self.evidence is None) != (other.evidence is None):
            raise ValueError(
                'guidance mixes logits, but those of one model are log p(x_0 | x_t), as in parameterization "data", '
                'and those of another lack the evidence of x_t, as in "leave_one_out"; expected models of the same '
                "parameterization: train one of them anew"
            )
        if len(self.sharpenings) != len(other.sharpenings):
            raise ValueError(
                f"guidance mixes logits before they are sharpened, but one model has {len(self.sharpenings)} "
                f"sharpenings and another {len(other.sharpenings)}; sharpen what is guided instead, such as "
                "TopK(Auto(denoiser, weak), 5)"
            )


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
    """A category for each token, by its key, -1 where log_p is NaN.

    mode="high", since 23 random bits cannot draw events rarer than 1e-7.
    """
    rows = log_p.reshape(-1, log_p.shape[-1])
    one = lambda key, log_p: jax.random.categorical(key, log_p, mode="high")
    drawn = jax.vmap(one)(keys.ravel(), rows).reshape(keys.shape).astype(jnp.int32)
    return jnp.where(jnp.isnan(log_p[..., 0]), -1, drawn)


@pytree
@dataclasses.dataclass(frozen=True)
class Certain:
    """The prediction of categories that is certain of x_0: the truth that `perturb` returns.

    It has draws and log-probabilities of given categories, as a step back needs, and no law over all of them.

    Args:
        data: x_0, integers `[n, *event]`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> truth = jd.processes.Certain(jnp.array([[0, 2]]))
        >>> truth.log_prob(jnp.array([[0, 1]])).tolist()
        [[0.0, -inf]]
    """

    data: jax.Array

    def log_prob(self, x0) -> jax.Array:
        """0 where x0 is the truth, -inf elsewhere."""
        return jnp.where(self.data == x0, 0.0, -jnp.inf)

    def draw(self, keys, where=None) -> jax.Array:
        """x_0, without randomness."""
        return self.data


def is_prediction(tree: Any) -> bool:
    """Whether `tree` is the prediction of a single process, not of a product."""
    return isinstance(tree, Prediction | Categorical | Certain)


def extrapolated(models: Sequence, scales: Sequence) -> Any:
    """Combine the answers of several models: model_0 + Σ_k scale_k (model_k - model_{k-1}).

    Args:
        models: K + 1 predictions, or trees of them for a product.
        scales: K numbers, or arrays `[n]`.

    Returns:
        The combined prediction, with the variance, the tilt and the evidence of the last model.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> plain = jd.Prediction(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
        >>> guided = jd.Prediction(jnp.ones((1, 2)), jnp.ones((1, 2)))
        >>> jd.processes.extrapolated([plain, guided], [3.0]).data.tolist()
        [[3.0, 3.0]]
    """
    return jax.tree.map(lambda first, *others: first.extrapolated(others, scales), *models, is_leaf=is_prediction)


def with_variance(prediction: Any, variance: str) -> Any:
    """Set the variance of a step back in every part of a denoiser's answer.

    Args:
        prediction: a prediction, or a tree of them for a product.
        variance: "small", "large" or "learned"; categories take "small" alone.

    Returns:
        A tree of the same structure.

    Raises:
        ValueError: for another name, or "learned" if the denoiser has not learned a variance.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> prediction = jd.Prediction(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
        >>> jd.processes.with_variance(prediction, "large").share
        1.0
    """
    return jax.tree.map(lambda part: part.with_variance(variance), prediction, is_leaf=is_prediction)
