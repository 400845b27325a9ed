"""What a denoiser says of x_0 given x_t: two means of numbers, a distribution of each category.

Every class answers `with_variance(variance)`, which says how far a step back is spread, and
`first.extrapolated(others, scales)`, so that guidance is one map over the leaves of a joint model's answer.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_choice, pytree

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
class Seen:
    """Evidence that adds `gain` to the one column `at`, each [batch, *event]; infinite: it is certain."""

    at: jax.Array
    gain: jax.Array


@pytree
@dataclasses.dataclass(frozen=True)
class Categorical:
    """p(x_0 | x_t) of each value, independent of the others: log p = logits + evidence + const.

    `logits` [batch, *event, categories] are what the other values say of this one, and `evidence`, of the same shape,
    what x_t says of it itself: log q(x_t | x_0), -inf where that cannot be; None is none. Guidance acts on the logits
    alone, so that no -inf meets a negative weight.
    """

    logits: jax.Array
    evidence: jax.Array | None = None

    @property
    def _logits(self) -> jax.Array:
        logits = self.logits.astype(jnp.promote_types(self.logits.dtype, jnp.float32))
        if isinstance(self.evidence, Seen):
            at, gain = self.evidence.at[..., None], self.evidence.gain[..., None]
            own = jnp.arange(logits.shape[-1]) == at
            added = jnp.where(own, jnp.where(gain == jnp.inf, 0.0, gain), jnp.where(gain == jnp.inf, -jnp.inf, 0.0))
            return logits + added
        return logits if self.evidence is None else logits + self.evidence

    def ask(self, question, *values):
        return question(self.log_probabilities(), *values)

    def log_probabilities(self) -> jax.Array:
        """log p(x_0 | x_t) of every category, [batch, *event, categories]."""
        return jax.nn.log_softmax(self._logits, -1)

    def log_prob(self, x0) -> jax.Array:
        """log p(x_0 | x_t) of the categories x0 [batch, *event]; NaN for one that does not exist."""
        found = jnp.take_along_axis(
            self.log_probabilities(), jnp.asarray(x0)[..., None], -1, mode="fill", fill_value=jnp.nan
        )
        return jnp.where(jnp.asarray(x0) < 0, jnp.nan, found[..., 0])

    def draw(self, keys, where=None) -> jax.Array:
        """Categories [batch, *event] from the distribution, one key an example."""
        one = lambda key, logits: jax.random.categorical(key, logits, mode="high")
        return jax.vmap(one)(keys, self._logits).astype(jnp.int32)

    def with_variance(self, variance: str) -> "Categorical":
        """Itself: a step back draws what it does not know. Raises ValueError for another variance than "small"."""
        check_variance(variance)
        if variance != "small":
            raise ValueError(f'variance = "{variance}": a step back between categories has none; expected "small"')
        return self

    def extrapolated(self, others: Sequence["Categorical"], scales: Sequence) -> "Categorical":
        """The logits self + Σ_k scale_k (other_k - other_{k-1}), other_0 = self, under the evidence of the last.

        They are -inf where all are.
        """
        models = [self.logits, *(other.logits for other in others)]
        weights = _weights([along_batch(scale, self.logits, "scale") for scale in scales])
        part = lambda weight, logits: jnp.where(weight == 0, 0.0, weight * logits)
        mixed = functools.reduce(operator.add, map(part, weights, models))
        alike = functools.reduce(operator.and_, [logits == models[-1] for logits in models[:-1]])
        return dataclasses.replace(others[-1], logits=jnp.where(alike, models[-1], mixed))


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
