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
    """A prediction changed by the gradient of a log-likelihood, which is a callable pytree or a plain function."""

    denoiser: DenoiserLike
    log_likelihood: Callable[..., jax.Array]
    scale: Scale | Interval = 1.0
    conditional: bool = dataclasses.field(default=False, metadata={"static": True})

    _takes: ClassVar[tuple[str, int]] = ("a function (x, t, cond) -> [batch], one number per example", 3)

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self.denoiser, type(self).__name__, "guide by ClassifierFree")
        check_function("log_likelihood", self.log_likelihood, *self._takes)
        if isinstance(getattr(self.log_likelihood, "process", None), Process):
            check_same_process("log_likelihood", self.log_likelihood, self.denoiser, "train it on the denoiser's")
        check_flag("conditional", self.conditional)
        object.__setattr__(self, "log_likelihood", as_pytree(self.log_likelihood))

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """The denoiser, with `cond` if `conditional`."""
        return [(self.denoiser, cond if self.conditional else None)]

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the denoiser or the classifier does not accept."""
        super().check_cond(cond)
        check_cond_of(self.log_likelihood, cond)

    def _inner(self, x, t, cond) -> Prediction:
        return self.denoiser(x, t, cond if self.conditional else None)

    def _total(self, x, *arguments) -> jax.Array:
        value = self.log_likelihood(x, *arguments)
        note = ": one number per example, the log-probability of its cond"
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
    """Classifier guidance: the score of p_t(x) p(y | x_t)^scale.

    The denoiser is called without cond, as a model of p(x), and `cond` goes to the classifier. Where α = 0 the
    prediction is not guided.

    Args:
        denoiser: a denoiser of numbers.
        log_likelihood: a function `(x, t, cond) -> [batch]` that is log p(cond | x_t): a classifier trained on noised
            x, such as a `jaxdiff.NoisyClassifier`, or any other function to increase. A plain function is compiled into
            the program. For one with weights give a callable pytree, such as `jax.tree_util.Partial(classify,
            weights)`, so that new weights do not recompile.
        scale: a number, one per example `[batch]`, or an `Interval`; 1 is Bayes' rule.
        conditional: whether the denoiser gets cond too (table 4 of the paper). For exact models this equals guidance of
            the unconditional model with 1 + scale.

    Raises:
        TypeError: if the process is not one of numbers, or `log_likelihood` is not a function of (x, t, cond).
        ValueError: if the classifier has another process; when called, if `log_likelihood` returns another shape.

    Source:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", algorithms 1 and 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> log_likelihood = lambda x, t, cond: cond * x.sum(1)  # its gradient is cond everywhere
        >>> guided = jd.guidance.Classifier(denoiser, log_likelihood, 2.0)
        >>> x, cond = jnp.zeros((1, 2)), jnp.ones(1)
        >>> jd.score(guided, x, 0.5, cond).round(3).tolist()
        [[2.0, 2.0]]
    """

    def __call__(self, x, t, cond=None) -> Prediction:
        x = check_batch(x)
        gradient = jax.grad(self._total)(x, t, cond)
        return self._tilt(self._inner(x, t, cond), gradient, x, t)


@pytree
@dataclasses.dataclass(frozen=True)
class TweedieClassifier(_Tilted):
    """Guidance by a classifier of clean data, evaluated at the denoiser's x_0.

    It approximates log p(y | x_t) = log E[p(y | x_0) | x_t] by log p(y | E[x_0 | x_t]). It is exact if log p(y | x_0)
    is linear in x_0 and the data are Gaussian, and as σ -> 0. For N(m, s²) measured with noise of variance r its
    gradient is too large by 1 + Var[x_0 | x_t]/r. Where the classifier is certain at E[x_0 | x_t] its gradient
    vanishes, which leaves points on the border of its classes. The gradient goes through the denoiser.

    Args:
        denoiser: a denoiser of numbers.
        log_likelihood: a function `(x0, cond) -> [batch]` that is log p(cond | x_0), such as `clean` of a
            `jaxdiff.NoisyClassifier`.
        scale: as in `Classifier`.
        conditional: as in `Classifier`.

    Raises:
        TypeError: as in `Classifier`.
        ValueError: as in `Classifier`.

    Source:
        Chung et al. 2023, "Diffusion posterior sampling for general noisy inverse problems", eq. 11; Bansal et al.
        2023, "Universal guidance for diffusion models", eq. 6.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.TweedieClassifier(denoiser, lambda x0, cond: cond * x0[:, 0])
        >>> x, cond = jnp.zeros((1, 2)), jnp.ones(1)
        >>> alpha, _ = jd.VP().marginal(0.5)  # E[x_0 | x_t] = alpha x_t, whose derivative is alpha
        >>> bool(jnp.allclose(jd.score(guided, x, 0.5, cond), jnp.array([[alpha, 0]]), atol=1e-5))
        True
    """

    _takes = ("a function (x0, cond) -> [batch], one number per example, such as a NoisyClassifier's `clean`", 2)

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
    """Classifier guidance of the steps of `jaxdiff.samplers.Ancestral`, as in algorithm 1 of the paper.

    x_s ~ N(μ + scale Σ ∇ log p(y | x_t), Σ), with μ and Σ those of the step, whatever its variance: small, large or
    learned. The gradient becomes the `tilt` of the prediction (`jaxdiff.Prediction`), whose data and noise are those of
    the denoiser. The last step, to the data, has no variance and is not guided. Only steps of Ancestral add a tilt:
    every other sampler, flows, likelihoods, losses and guidance around it raise ValueError. Unlike `Classifier`, it
    also guides where α = 0, as in the paper.

    To first order in the length of a step it equals the step under `Classifier`: Σ = (1 - r) σ_s² or (1 - r) σ_t²
    replaces (1 - r) σ_t² α_s/α_t (`jaxdiff.processes.gaussian`, 2.). With the exact classifier of the two Gaussians of
    tests/conftest.py under VP, and at scale 1, samples had this KL from their component, in nats, computed as that of
    Gaussians with the samples' moments (`Classifier` is here the conditional model itself). There were 200,000 samples
    under the small variance and 40,000 under the large one, for which an exact sampler leaves 0.0001:

        steps of Ancestral            10        25        50       100       250
        small    Classifier        0.156     0.045    0.0148    0.0047    0.0010
                 StepClassifier    0.913     0.056    0.0121    0.0034    0.0007
        large    Classifier        0.009     0.005    0.0021    0.0006    0.0003
                 StepClassifier    0.046     0.008    0.0028    0.0007    0.0002

    Args:
        denoiser: a denoiser of numbers.
        log_likelihood: as in `Classifier`.
        scale: as in `Classifier`.
        conditional: as in `Classifier`.

    Raises:
        TypeError: as in `Classifier`.
        ValueError: as in `Classifier`.

    Source:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", algorithm 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> log_likelihood = lambda x, t, cond: cond * x.sum(1)  # its gradient is cond everywhere
        >>> guided = jd.guidance.StepClassifier(denoiser, log_likelihood, 2.0)  # for jd.samplers.Ancestral()
        >>> guided(jnp.zeros((1, 2)), 0.5, jnp.ones(1)).tilt.tolist()
        [[2.0, 2.0]]
    """

    def __call__(self, x, t, cond=None) -> Prediction:
        x = check_batch(x)
        tilt = self._scaled(jax.grad(self._total)(x, t, cond), x, t)
        predicted = self._inner(x, t, cond)
        return dataclasses.replace(predicted, tilt=tilt if predicted.tilt is None else predicted.tilt + tilt)
