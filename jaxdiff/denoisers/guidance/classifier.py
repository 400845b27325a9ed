"""Guidance by the gradient of a log-likelihood: of noised x, or of clean data by Tweedie's formula."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff.arrays import along_batch, check_batch, check_flag, check_function, check_output
from jaxdiff.denoisers.checks import check_same_process
from jaxdiff.denoisers.denoiser import DenoiserLike, check_cond_of, check_numbers
from jaxdiff.denoisers.guidance.scale import Interval, Scale, Scaled, scale_at
from jaxdiff.processes import Prediction, Process, as_pytree, expand_time, pytree


@dataclasses.dataclass(frozen=True)
class _Tilted(Scaled):
    """A prediction tilted by the gradient of a log-likelihood, a callable pytree or a plain function."""

    denoiser: DenoiserLike
    log_likelihood: Callable[..., jax.Array]
    scale: Scale | Interval = 1.0
    conditional: bool = dataclasses.field(default=False, metadata={"static": True})

    _takes: ClassVar[tuple[str, int]] = ("a function (x, t, cond) -> [batch], one number an example", 3)

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self.denoiser, type(self).__name__, "guide by ClassifierFree")
        check_function("log_likelihood", self.log_likelihood, *self._takes)
        if isinstance(getattr(self.log_likelihood, "process", None), Process):
            check_same_process("log_likelihood", self.log_likelihood, self.denoiser, "train it on the denoiser's")
        check_flag("conditional", self.conditional)
        object.__setattr__(self, "log_likelihood", as_pytree(self.log_likelihood))

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """The denoiser, under `cond` where it is conditional."""
        return [(self.denoiser, cond if self.conditional else None)]

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the denoiser does not take, or the classifier, where it says so."""
        super().check_cond(cond)
        check_cond_of(self.log_likelihood, cond)

    def _inner(self, x, t, cond) -> Prediction:
        return self.denoiser(x, t, cond if self.conditional else None)

    def _total(self, x, *arguments) -> jax.Array:
        value = self.log_likelihood(x, *arguments)
        note = ": one number an example, the log-probability of its own cond"
        check_output("log_likelihood", value, x, x.shape[:1], note)
        return value.sum()

    def _scaled(self, gradient, x, t) -> jax.Array:
        """The gradient times the scale at t."""
        return along_batch(scale_at(self.scale, self.process, t, x, 0.0), x, "scale") * gradient

    def _tilt(self, predicted: Prediction, gradient, x, t) -> Prediction:
        process: Any = self.process
        alpha, sigma = (expand_time(c, x) for c in process.marginal(t))
        move = jnp.where(alpha > 0, sigma * self._scaled(gradient, x, t), 0.0)
        data, noise = predicted
        data = data + sigma / jnp.where(alpha > 0, alpha, 1.0) * move
        return dataclasses.replace(predicted, data=data, noise=noise - move)


@pytree
@dataclasses.dataclass(frozen=True)
class Classifier(_Tilted):
    """Classifier guidance (Dhariwal and Nichol 2021, algorithms 1 and 2): the score of p_t(x) p(y | x_t)^scale.

    `log_likelihood(x, t, cond) -> [batch]` is log p(cond | x_t) of a classifier that was trained on noised x, such as a
    `jaxdiff.NoisyClassifier`, or any other log-likelihood to climb. A plain function is part of the program; for one
    with weights give a callable pytree, `jax.tree_util.Partial(classify, weights)`, and new weights compile nothing.
    `scale` is a number or an `Interval`; 1 is Bayes' rule.

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

    `log_likelihood(x0, cond) -> [batch]`, such as `clean` of a `jaxdiff.NoisyClassifier`; everything else as in
    `Classifier`. The gradient goes through the denoiser.
    """

    _takes = ("a function (x0, cond) -> [batch], one number an example, such as a NoisyClassifier's `clean`", 2)

    def __call__(self, x, t, cond=None) -> Prediction:
        def value(x):
            predicted = self._inner(x, t, cond)
            data, _ = predicted
            return self._total(data, cond), predicted

        x = check_batch(x)
        gradient, predicted = jax.grad(value, has_aux=True)(x)
        return self._tilt(predicted, gradient, x, t)


@pytree
@dataclasses.dataclass(frozen=True)
class StepClassifier(_Tilted):
    """Classifier guidance by steps, as it is written in Dhariwal and Nichol 2021, algorithm 1.

    x_s ~ N(μ + scale Σ ∇ log p(y | x_t), Σ), with μ and Σ those of the step of `jaxdiff.samplers.Ancestral`, whatever
    its variance: small, large or learned. The arguments are those of `Classifier`. The gradient is the tilt of a
    prediction (`jaxdiff.Prediction`), whose data and noise are those of the denoiser; its last step, to the data, has
    no variance and is not guided.

    It is the step under `Classifier` to first order in its length: Σ = (1 - r) σ_s² or (1 - r) σ_t² takes the place of
    (1 - r) σ_t² α_s/α_t (`jaxdiff.processes.gaussian`, 2.). With the exact classifier of the two Gaussians of
    tests/conftest.py under VP, and at scale 1, samples had this KL from their component, nats, as Gaussians of the
    samples' moments (`Classifier` is here the conditional model itself). 200,000 samples under the small variance,
    40,000 under the large one, of which an exact sampler leaves 0.0001:

        steps of Ancestral            10        25        50       100       250
        small    Classifier        0.156     0.045    0.0148    0.0047    0.0010
                 StepClassifier    0.913     0.056    0.0121    0.0034    0.0007
        large    Classifier        0.009     0.005    0.0021    0.0006    0.0003
                 StepClassifier    0.046     0.008    0.0028    0.0007    0.0002

    Steps of Ancestral alone add a tilt. Every other sampler, flows, likelihoods, losses and guidance around it raise
    ValueError. Where α = 0 it guides, as the paper's does.
    """

    def __call__(self, x, t, cond=None) -> Prediction:
        x = check_batch(x)
        tilt = self._scaled(jax.grad(self._total)(x, t, cond), x, t)
        predicted = self._inner(x, t, cond)
        return dataclasses.replace(predicted, tilt=tilt if predicted.tilt is None else predicted.tilt + tilt)
