r"""Guidance wraps a denoiser and gives a denoiser, so every sampler and likelihood accepts it.

1.  A classifier. With l = log p(y | x_t), Bayes' rule makes the score of p_t(x | y), and of p_t(x) p(y | x)^scale,

        score + scale ∇l,    that is    ε - scale σ ∇l    and    x_0 + scale σ²/α ∇l,

    since score = -ε/σ and x_0 = (x - σ ε)/α. Where α = 0 x holds nothing of y and the prediction stays as it is. Only
    for scale 0 and 1 is this the noised p(x_0) p(y | x_0)^scale; any other scale is a heuristic, whose samples have
    no density that can be written down (though the likelihood of its flow can be computed).
2.  Two predictions. ∇l is also the difference of a conditional and an unconditional score, and more generally points
    from a worse model to a better one:

        (1 - scale) worse + scale better                            scale = 1 + w in papers that write w

    on data and noise alike, so that x = α x_0 + σ ε still holds. Scale 0 and 1 are the two models, to the bit.
    A learned reverse variance is taken over as it is, from the better model or from the one that is tilted.
3.  The scale is a number or an `Interval`: a number between two noise levels and no guidance outside. Each number is
    one for all, or one an example, [batch], of the x that is guided. What takes examples one by one or in several
    batches refuses the latter (`ProbabilityFlow`, `ReverseSDE`, likelihoods, `samplers.draw`). A number out of range
    raises ValueError; one that is traced gives NaN.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    along_batch,
    check_batch,
    check_field,
    check_field_above,
    check_flag,
    check_function,
    check_output,
    count,
    is_concrete,
    nan_unless,
    said,
)
from jaxdiff.denoisers.denoiser import (
    DenoiserLike,
    Wrapper,
    check_cond_of,
    check_denoiser,
    check_numbers,
    check_start_of,
    innermost,
)
from jaxdiff.processes import Prediction, Process, as_pytree, expand_time, extrapolated, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Interval:
    """`scale` where low < σ/α <= high and no guidance elsewhere (Kynkäänniemi et al. 2024, section 3).

    It goes where a scale goes. No guidance is 1 for ClassifierFree and Auto, 0 for the classifiers. Each of the three
    is a number, or one an example. Raises ValueError for an interval that is empty.
    """

    scale: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self):
        check_field(self, "scale")
        check_field(self, "low", least=0)
        check_field(self, "high", above=0, most=math.inf)
        message = "low = {low}, high = {high}; expected noise levels σ/α with 0 <= low < high"
        check_field_above(self, "high", "low", message)

    def at(self, process: Process, t, otherwise: float) -> jax.Array:
        """The scale at `t`, of its shape."""
        ratio = jnp.exp(-process.log_snr(t) / 2)
        scale, low, high = (along_batch(getattr(self, name), ratio, name) for name in ("scale", "low", "high"))
        within = jnp.where((low < ratio) & (ratio <= high), scale, otherwise)
        return nan_unless((low >= 0) & (high > 0), within)


class _Scaled(Wrapper):
    scale: float | Interval

    def __post_init__(self):
        check_denoiser(self.denoiser)
        if not isinstance(self.scale, Interval):
            check_field(self, "scale")

    def _scale_at(self, t, x, otherwise: float):
        """The scale at t: one number, or one an example."""
        if isinstance(self.scale, Interval):
            return self.scale.at(self.process, jnp.broadcast_to(t, count(x)), otherwise)
        return self.scale


def _warn_undropped(guided: _Scaled) -> None:
    if getattr(innermost(guided), "label_dropout", None) == 0:
        warnings.warn(
            f"{type(guided).__name__} of a denoiser whose labels were never dropped in training (label_dropout = 0): "
            "its unconditional prediction was not learned, and guidance by it leads anywhere. Train with "
            "label_dropout=0.1",
            UserWarning,
            stacklevel=4,
        )


class _TowardsCond(_Scaled):
    """Guidance away from the unconditional model, the denoiser's own at cond = None."""

    def __post_init__(self):
        super().__post_init__()
        _warn_undropped(self)

    def check_cond(self, cond) -> None:
        """Raise for cond = None, which is no guidance, and for a `cond` or None that the denoiser does not take."""
        self._check_given(cond)
        with warnings.catch_warnings(action="ignore"):  # of labels never dropped, which it warned of when it was made
            try:
                check_cond_of(self.denoiser, None)
            except (ValueError, TypeError) as error:
                name = type(self).__name__
                raise type(error)(
                    f"{name} guides away from the answer without cond, which this denoiser does not give ({error}); "
                    f"leave {name} out"
                ) from None
        check_cond_of(self.denoiser, cond)

    def _check_given(self, cond) -> None:
        if cond is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} has no cond to guide to; give cond, or leave {name} out for unconditional samples"
            )

    def _both(self, x, t, cond) -> tuple[Any, Any]:
        """The unconditional prediction and the conditional one."""
        self._check_given(cond)
        return self.denoiser(x, t, None), self.denoiser(x, t, cond)


@pytree
@dataclasses.dataclass(frozen=True)
class ClassifierFree(_TowardsCond):
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): unconditional + scale (conditional - unconditional).

    `scale` = 1 + w of the paper: 0 is the unconditional model, 1 the conditional one, above 1 guided; a number or an
    `Interval`. The unconditional prediction is the denoiser's own at cond = None. Costs two evaluations a step.

    Raises ValueError when called without cond, and for a denoiser without an unconditional model.
    """

    denoiser: DenoiserLike
    scale: float | Interval = 1.0

    def __call__(self, x, t, cond=None) -> Any:
        free, conditional = self._both(x, t, cond)
        return extrapolated(free, conditional, self._scale_at(t, x, 1.0))


@pytree
@dataclasses.dataclass(frozen=True)
class Auto(_Scaled):
    """Autoguidance (Karras et al. 2024, "Guiding a diffusion model with a bad version of itself"): away from `weak`.

    weak + scale (denoiser - weak), both under the same cond: 0 is the weak model, 1 the denoiser itself; a number or an
    `Interval`. `weak` is a smaller or less trained model of the same process; one of another process goes through
    `OnProcess`. Raises ValueError where the processes are seen to differ.
    """

    denoiser: DenoiserLike
    weak: DenoiserLike
    scale: float | Interval = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_denoiser(self.weak, "weak")
        ours, other = self.denoiser.process, self.weak.process
        if _differ(ours, other):
            raise ValueError(
                f"weak is of the process {said(other)}, the denoiser of {said(ours)}; wrap weak in OnProcess"
            )

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that one of both denoisers does not take."""
        check_cond_of(self.denoiser, cond)
        check_cond_of(self.weak, cond)

    def check_start(self, t) -> None:
        """Raise where one of both denoisers has no answer at a concrete `t`."""
        check_start_of(self.denoiser, t)
        check_start_of(self.weak, t)

    def __call__(self, x, t, cond=None) -> Any:
        return extrapolated(self.weak(x, t, cond), self.denoiser(x, t, cond), self._scale_at(t, x, 1.0))


def _differ(one: Process, other: Process) -> bool:
    """Whether two processes are of different classes, or have different numbers as far as these are known."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return True
    as_computed = lambda leaf: np.asarray(leaf, jnp.result_type(float))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other))
    known = [pair for pair in pairs if all(map(is_concrete, pair))]
    return not all(np.array_equal(as_computed(a), as_computed(b)) for a, b in known)


@pytree
@dataclasses.dataclass(frozen=True)
class ClassifierFreePP(_TowardsCond):
    r"""CFG++ (Chung et al. 2024, arXiv 2406.08070, algorithm 2): guided data, unconditional noise; `scale` in [0, 1].

    x_s = α_s x_0^guided + σ_s ε^free is the paper's step. x = α x_0 + σ ε no longer holds, so this belongs to that step
    and not to a flow: it is, to the letter, the DDIM step of

        ClassifierFree with scale / (1 - (σ_s/α_s) / (σ_t/α_t)),

    a scale that grows as the steps get shorter. DDIM takes this step, and Heun takes it as its predictor. Others see
    something else: ProbabilityFlow, `encode` and likelihoods integrate v = cos φ ε - sin φ x_0, which is that of
    ClassifierFree with scale sin² φ; DPM-Solver++ and Ancestral, which read x_0 alone, take it for ClassifierFree;
    Euler-Maruyama and Langevin steps, which read ε alone and would see no guidance, refuse it. Raises ValueError for a
    scale outside [0, 1], and as `ClassifierFree` does.
    """

    denoiser: DenoiserLike
    scale: float = 0.6

    def __post_init__(self):
        check_numbers(self.denoiser, "ClassifierFreePP", "guide by ClassifierFree")
        check_field(self, "scale", least=0, most=1, noun="the λ of CFG++")
        _warn_undropped(self)

    def __call__(self, x, t, cond=None) -> Prediction:
        free, conditional = self._both(x, t, cond)
        guided = extrapolated(free, conditional, self.scale)
        return dataclasses.replace(guided, noise=free.noise)


@dataclasses.dataclass(frozen=True)
class _Tilted(_Scaled):
    """A prediction tilted by the gradient of a log-likelihood, a callable pytree or a plain function."""

    denoiser: DenoiserLike
    log_likelihood: Callable[..., jax.Array]
    scale: float | Interval = 1.0
    conditional: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self.denoiser, type(self).__name__, "guide by ClassifierFree")
        check_function("log_likelihood", self.log_likelihood, "a function that gives one number an example, [batch]")
        check_flag("conditional", self.conditional)
        object.__setattr__(self, "log_likelihood", as_pytree(self.log_likelihood))

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the denoiser does not take; what it is to the classifier is the classifier's."""
        check_cond_of(self.denoiser, cond if self.conditional else None)

    def _inner(self, x, t, cond) -> Prediction:
        return self.denoiser(x, t, cond if self.conditional else None)

    def _total(self, x, *arguments) -> jax.Array:
        value = self.log_likelihood(x, *arguments)
        note = ": one number an example, the log-probability of its own cond"
        check_output("log_likelihood", value, x, x.shape[:1], note)
        return value.sum()

    def _tilt(self, predicted: Prediction, gradient, x, t) -> Prediction:
        process: Any = self.process
        alpha, sigma = (expand_time(c, x) for c in process.marginal(t))
        scale = along_batch(self._scale_at(t, x, 0.0), x, "scale")
        move = jnp.where(alpha > 0, scale * sigma * gradient, 0.0)
        data = predicted.data + sigma / jnp.where(alpha > 0, alpha, 1.0) * move
        return dataclasses.replace(predicted, data=data, noise=predicted.noise - move)


@pytree
@dataclasses.dataclass(frozen=True)
class Classifier(_Tilted):
    """Classifier guidance (Dhariwal and Nichol 2021, algorithms 1 and 2): the score of p_t(x) p(y | x_t)^scale.

    `log_likelihood(x, t, cond) -> [batch]` is log p(cond | x_t) of a classifier that was trained on noised x, or any
    other log-likelihood to climb. A plain function is part of the program; for one with weights give a callable pytree,
    `jax.tree_util.Partial(classify, weights)`, and new weights compile nothing. `scale` is a number or an `Interval`;
    1 is Bayes' rule.

    `cond` goes to the classifier, and the denoiser is called without: it is taken for p(x). With conditional=True it
    gets cond too, and p(x | y) is pushed further (table 4 of the paper); for exact models that is ClassifierFree with
    1 + scale, which is also Classifier of the unconditional model with 1 + scale. Where α = 0 the prediction is left
    unguided. Raises ValueError where log_likelihood returns another shape.
    """

    def __call__(self, x, t, cond=None) -> Prediction:
        x = check_batch(x)
        gradient = jax.grad(self._total)(x, t, cond)
        return self._tilt(self._inner(x, t, cond), gradient, x, t)


@pytree
@dataclasses.dataclass(frozen=True)
class TweedieClassifier(_Tilted):
    """Guidance by a classifier of clean data, read at the denoiser's x_0: log p(y | x_t) ≈ log p(y | E[x_0 | x_t]).

    An approximation (Chung et al. 2023, "Diffusion posterior sampling", eq. 11; Bansal et al. 2023, eq. 6), since the
    true one is log E[p(y | x_0) | x_t]. It is exact where log p(y | x_0) is linear in x_0 and the data Gaussian, and as
    σ -> 0; for N(m, s²) observed with noise of variance r its pull is too strong by 1 + Var[x_0 | x_t]/r. Where the
    classifier is sure of E[x_0 | x_t] it does not pull at all, and leaves points on the border of its classes.

    `log_likelihood(x0, cond) -> [batch]`; everything else as in `Classifier`. The gradient goes through the denoiser.
    """

    def __call__(self, x, t, cond=None) -> Prediction:
        def value(x):
            predicted = self._inner(x, t, cond)
            return self._total(predicted.data, cond), predicted

        x = check_batch(x)
        gradient, predicted = jax.grad(value, has_aux=True)(x)
        return self._tilt(predicted, gradient, x, t)


@pytree
@dataclasses.dataclass(frozen=True)
class DynamicThreshold(Wrapper):
    """Dynamic thresholding (Saharia et al. 2022, "Imagen", section 2.3), for guidance so strong that x_0 saturates.

    s is the `quantile` of |x_0| within each example, at least `bound`; x_0 is clipped to [-s, s] and divided by
    s/bound, so that it lies within ±bound, the range of the data. The noise follows: x = α x_0 + σ ε still holds
    (where σ > 0). It wraps the guided model. Raises ValueError for a quantile outside [0, 1] or a bound that is not
    positive.
    """

    denoiser: DenoiserLike
    quantile: float = 0.995
    bound: float = 1.0

    def __post_init__(self):
        check_numbers(self.denoiser, "DynamicThreshold")
        check_field(self, "quantile", least=0, most=1, noun="a fraction", fix=", such as 0.995")
        check_field(self, "bound", above=0, noun="the largest value of the data,")

    def __call__(self, x, t, cond=None) -> Prediction:
        x = check_batch(x)
        predicted = self.denoiser(x, t, cond)
        data, noise = predicted
        quantile = jnp.broadcast_to(along_batch(self.quantile, x, "quantile").ravel(), x.shape[:1])
        size = jax.vmap(jnp.quantile)(jnp.abs(data).reshape(len(data), -1), quantile)
        bound = along_batch(self.bound, x, "bound")
        size = jnp.maximum(expand_time(size, data), bound)
        within = jnp.clip(data, -size, size) * (bound / size)
        process: Any = self.process
        alpha, sigma = (expand_time(c, x) for c in process.marginal(t))
        ratio = jnp.where(sigma > 0, alpha / jnp.where(sigma > 0, sigma, 1.0), 0.0)
        return dataclasses.replace(predicted, data=within, noise=noise + ratio * (data - within))
