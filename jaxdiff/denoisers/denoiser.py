"""A denoiser predicts the data from noised data: (x_t, t, cond) -> E[x_0 | x_t] and the matching ε, or p(x_0 | x_t).

`Denoiser` makes one from a network. Its process defines what the network sees of x_t and how the network's output is
read. For numbers the network sees x / √(α² data_std² + σ²), which has unit variance at every t (the c_in of Karras et
al. 2022, table 1). For every process it sees the noise level as c_noise = log(σ/α)/4, clipped to ±3: beyond e^{±12} one
of data and noise is lost in the rounding of the other, and log(σ/α) would be infinite at the ends.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    check_batch,
    check_flag,
    check_function,
    check_key,
    check_output,
    check_scalar,
    count,
    example_keys,
    native,
    rebuilt,
    replaced,
    said,
)
from jaxdiff.denoisers.condition import check_cond_of, no_label_of
from jaxdiff.processes import Gaussian, Process, check_gaussian, check_process, expand_time, pytree


class DenoiserLike(Protocol):
    """What samplers, losses and likelihoods accept: a callable pytree with a process.

    A denoiser of your own is a frozen dataclass under `jaxdiff.pytree` with `process` and `__call__`. Two methods are
    optional. `check_cond(cond)` raises for a cond that the denoiser does not accept, and `check_start(t)` raises for a
    t at which it has no prediction. They are called before tracing, so that they can read concrete values. `Wrapper`
    forwards both.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class StandardNormal:
        ...     process: jd.Process = jd.VP()
        ...     def __call__(self, x, t, cond=None):
        ...         alpha, sigma = self.process.marginal(t)
        ...         return jd.Prediction(alpha * x, sigma * x)
        >>> jd.score(StandardNormal(), jnp.array([[1.0, -2.0]]), 0.5).round(3).tolist()
        [[-1.0, 2.0]]
    """

    @property
    def process(self) -> Process:
        """The process whose x_t it denoises."""
        ...

    def __call__(self, x, t, cond=None) -> Any:
        """The prediction for x `[batch, *event]` at t, a scalar or `[batch]`."""
        ...


def check_denoiser(denoiser, name: str = "denoiser") -> None:
    """Check that an object is a denoiser: a callable with a process.

    Args:
        denoiser: the object to check.
        name: how the error message calls it.

    Raises:
        TypeError: if it is not callable, has no process, or is a class.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> jd.denoisers.check_denoiser(denoiser)
        >>> jd.denoisers.check_denoiser(jd.VP())
        Traceback (most recent call last):
        TypeError: denoiser = VP(beta_min=0.1, beta_max=20.0); expected a denoiser, ...
    """
    if isinstance(denoiser, type) or not callable(denoiser) or not isinstance(_process_of(denoiser), Process):
        raise TypeError(
            f"{name} = {said(denoiser)}; expected a denoiser, such as jaxdiff.Denoiser(network, params, process), "
            "or a callable (x, t, cond) with a process"
        )


def _process_of(denoiser):
    return getattr(denoiser, "process", None)


def innermost(denoiser) -> Any:
    """The denoiser inside all wrappers.

    Args:
        denoiser: a denoiser; a wrapper is one with a field `denoiser`.

    Returns:
        The first one in the chain that is not a wrapper.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> guided = jd.guidance.DynamicThreshold(jd.guidance.Auto(denoiser, denoiser, 2.0))
        >>> jd.denoisers.innermost(guided) is denoiser
        True
    """
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    return denoiser


class Wrapper:
    """Base class of a denoiser that calls another one, its field `denoiser`.

    The process and the checks are those of the wrapped denoiser unless a subclass overrides them. A subclass defines
    `__call__`. If it calls several denoisers, or one under another cond, it also defines `asked`.

    Examples:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Clipped(jd.denoisers.Wrapper):
        ...     denoiser: jd.denoisers.DenoiserLike
        ...     def __call__(self, x, t, cond=None):
        ...         data = jnp.clip(self.denoiser(x, t, cond).data, -1, 1)
        ...         alpha, sigma = (jnp.broadcast_to(c, len(x))[:, None] for c in self.process.marginal(t))
        ...         return jd.Prediction(data, (x - alpha * data) / sigma)  # x = alpha data + sigma noise
        >>> denoiser = Clipped(jd.exact.Gaussian(jd.Flow(), jnp.full(2, 5.0), jnp.eye(2)))
        >>> data, noise = denoiser(jnp.full((1, 2), 0.3), 0.5)
        >>> data.tolist(), bool(jnp.allclose(0.5 * data + 0.5 * noise, 0.3))
        ([[1.0, 1.0]], True)
    """

    denoiser: DenoiserLike

    @property
    def process(self) -> Any:
        """The process of the wrapped denoiser."""
        return self.denoiser.process

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """The denoisers that this one calls, each with the cond it passes on."""
        return [(self.denoiser, cond)]

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that one of the denoisers in `asked` does not accept."""
        for denoiser, given in self.asked(cond):
            check_cond_of(denoiser, given)

    def check_start(self, t) -> None:
        """Raise if the denoiser has no prediction at a concrete `t`."""
        check_start_of(self.denoiser, t)


def check_params(params) -> Any:
    """`params` in this machine's byte order; TypeError for a leaf that is not a number or an array of numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        if not isinstance(leaf, int | float | complex) and getattr(leaf, "dtype", np.dtype(object)).kind in "OSUMm":
            raise TypeError(f"params{jax.tree_util.keystr(path)} = {said(leaf)}; expected arrays of numbers")
    swapped = any(isinstance(leaf, np.ndarray) and not leaf.dtype.isnative for _, leaf in leaves)
    return jax.tree.map(native, params) if swapped else params


def with_params(model: Any, params) -> Any:
    """A model with other parameters.

    Args:
        model: a denoiser or any model with a method `with_params` or a field `params`.
        params: parameters of the same structure.

    Returns:
        A copy of `model` that holds `params`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params["scale"] * x
        >>> denoiser = jd.Denoiser(network, {"scale": jnp.ones(())}, jd.VP())
        >>> halved = jd.denoisers.with_params(denoiser, {"scale": jnp.array(0.5)})
        >>> float(halved.params["scale"])
        0.5
    """
    if hasattr(model, "with_params"):
        return model.with_params(params)
    return rebuilt(model, params=params)


class OfNetwork:
    """Base class of models that hold a network, its `params`, and in training a `key` for its dropout."""

    network: Callable[..., Any]
    params: Any
    key: jax.Array | None

    def with_params(self, params):
        """The same model with other weights."""
        return rebuilt(self, params=check_params(params))

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the network does not accept, by the network's own `check_cond(params, cond)`."""
        check_cond_of(self.network, self.params, cond)

    def no_label(self) -> int | None:
        """The network's label for "no label", by its own `no_label(params)`; None if it has none."""
        return no_label_of(self.network, self.params)

    def takes_key(self) -> bool:
        """Whether the network has dropout and takes keys for it, by its own `takes_key(params)`."""
        return takes_key_of(self.network, self.params)

    def _check_key(self) -> None:
        """Raise for a `key` that is not a typed key, or that the network does not take."""
        if self.key is None:
            return
        check_key(self.key)
        if not self.takes_key():
            raise ValueError("key was given, but the network takes no key (`takes_key(params)`); leave key out")

    def _out(self, x, c_noise, cond) -> Any:
        """The network's output, with one dropout key per example if `key` is set."""
        keys = () if self.key is None else (example_keys(self.key, count(x)),)
        return self.network(self.params, x, c_noise, cond, *keys)


OF_A_MODULE = ". Of a Flax module jaxdiff.networks.initialize(key, make) makes one, with its params"


@pytree
@dataclasses.dataclass(frozen=True)
class Denoiser(OfNetwork):
    """A network as a denoiser.

    Called with (x, t, cond), it returns a `jaxdiff.Prediction` for a process of numbers, a `jaxdiff.Categorical` for
    one of categories, and a tree of them for a product. It is a pytree whose leaves are the parameters and the numbers
    of the process, so that `jax.jit` and `jax.grad` apply to it.

    Args:
        network: a function `(params, x, c_noise, cond) -> out`, compiled into the program. It sees x scaled to unit
            variance and c_noise = log(σ/α)/4, clipped to ±3. `jaxdiff.networks.initialize` makes one from a Flax
            module. For a product x, c_noise and out are trees of its structure.
        params: the network's parameters, a pytree of arrays.
        process: the process whose x_t it denoises.
        parameterization: what the network's output means. For numbers one of "data", "noise", "score", "v" (the
            default), "velocity" and "edm"; "noise" and "score" determine no x_0 where α = 0 (t = 1 of Flow and Cosine),
            so that sampling must start below it. For categories out holds logits, and it is one of "leave_one_out" (the
            default), "data" and "score". For a product it may be a tree.
        data_std: the standard deviation of the data, a number above 0 or one per example `[batch]`; 0.5 if None. A
            process of categories has none.
        learned_variance: whether the network returns twice the channels of x in the last axis: out, then u. The share
            of the reverse variance is (u + 1)/2.
        condition_dropout: the share of training examples without a condition; None if it is not known. With 0 an
            unconditional prediction warns, since it was not learned.
        key: a key for the network's dropout. Losses set it by `with_key`; otherwise it is None.

    Raises:
        TypeError: if `network` is not a function of four arguments, a parameter is not an array, or `process` is not a
            process; when called, if x is not data of the process.
        ValueError: if the parameterization is unknown or `data_std` is not above 0 (a traced one gives NaN instead);
            when called, if t lies outside [0, 1] or the network returns another shape.

    Source:
        Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models", eq. 15, for the learned variance.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params["scale"] * x
        >>> denoiser = jd.Denoiser(network, {"scale": jnp.zeros(())}, jd.VP(), "noise")
        >>> data, noise = denoiser(jnp.ones((4, 2)), 0.5)
        >>> data.shape, noise.shape
        ((4, 2), (4, 2))
    """

    network: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    params: Any
    process: Process
    parameterization: Any = dataclasses.field(default=None, metadata={"static": True})
    data_std: Any = None
    learned_variance: bool = dataclasses.field(default=False, metadata={"static": True})
    condition_dropout: float | None = dataclasses.field(default=None, metadata={"static": True})
    key: jax.Array | None = None

    def __post_init__(self):
        check_function("network", self.network, "a function (params, x, c_noise, cond) -> out", 4, OF_A_MODULE)
        object.__setattr__(self, "params", check_params(self.params))
        check_process(self.process)
        check_flag("learned_variance", self.learned_variance)
        reading = self.process.check_reading(self.parameterization, self.data_std, self.learned_variance)
        object.__setattr__(self, "parameterization", reading[0])
        object.__setattr__(self, "data_std", reading[1])
        if self.condition_dropout is not None:
            check_scalar("condition_dropout", self.condition_dropout, least=0, most=1)
            object.__setattr__(self, "condition_dropout", float(self.condition_dropout))
        self._check_key()

    def __call__(self, x, t, cond=None) -> Any:
        """The prediction for x `[batch, *event]` at t, a scalar or `[batch]`."""
        process = self.process
        x, t = process.at(x, t)
        out = self._out(process.present(x, t, self.data_std), process.c_noise(t), cond)
        if not self.learned_variance:
            return process.read(self.parameterization, out, x, t, self.data_std)
        check_output("the network", out, x, (*x.shape[:-1], 2 * x.shape[-1]))
        out, u = jnp.split(out, 2, axis=-1)
        prediction = process.read(self.parameterization, out, x, t, self.data_std)
        return dataclasses.replace(prediction, share=(u + 1) / 2)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the network does not accept.

        Warns (UserWarning) for cond = None if the condition was never dropped in training.
        """
        super().check_cond(cond)
        if cond is None and self.condition_dropout == 0:
            warnings.warn(
                "cond = None, but the denoiser's condition was never dropped in training (condition_dropout = 0): its "
                "unconditional prediction was not learned. Give cond, or train by "
                "jaxdiff.losses.ConditionDropout(loss)",
                UserWarning,
                stacklevel=2,
            )

    def check_start(self, t) -> None:
        """Raise ValueError if x_0 cannot be read at a concrete `t`: α = 0 under "noise" or "score"."""
        self.process.check_start(self.parameterization, t)

    def error_scale(self, t) -> Any:
        """The factor from an error of the process's prediction to one of the network's output, of the shape of `t`."""
        return self.process.error_scale(self.parameterization, t, self.data_std)


def takes_key_of(model, *arguments) -> bool:
    """Whether a network or module has dropout and takes keys for it.

    Args:
        model: a network or a module, which may have a method `takes_key`.
        arguments: the arguments of that method: `params` for a network, none for a module.

    Returns:
        `model.takes_key(*arguments)`; False if the model has no such method.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> jd.denoisers.takes_key_of(lambda params, x, c_noise, cond: x, {})
        False
    """
    takes = getattr(model, "takes_key", None)
    return takes is not None and takes(*arguments)


def with_key(model: Any, key) -> Any:
    """A model with a key for the dropout of its networks, for use inside a loss.

    Sampling and likelihoods never set a key. Networks are found in the fields of dataclasses, so that wrappers and
    pairs of models work too. Fold another number into the key for each call.

    Args:
        model: a denoiser or another model.
        key: a typed key, such as `jax.random.key(0)`.

    Returns:
        A copy of `model` with the key in every network that has dropout; `model` itself if none has.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> jd.denoisers.with_key(denoiser, jax.random.key(0)) is denoiser  # no network, no dropout
        True
    """
    check_key(key)
    taken = lambda part: rebuilt(part, key=key) if isinstance(part, OfNetwork) and part.takes_key() else None
    return replaced(model, taken)


def check_start(denoiser: DenoiserLike, t) -> None:
    """Check that a denoiser has a prediction where sampling starts, and that its process is consistent.

    Args:
        denoiser: the denoiser.
        t: a time, checked if it is concrete.

    Raises:
        ValueError: if the denoiser has no prediction at `t`, or the curves of its process contradict each other.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: x
        >>> denoiser = jd.Denoiser(network, {}, jd.Flow(), "noise")
        >>> jd.denoisers.check_start(denoiser, 0.99)
        >>> jd.denoisers.check_start(denoiser, 1.0)
        Traceback (most recent call last):
        ValueError: ...
    """
    denoiser.process.check_curves()
    check_start_of(denoiser, t)


def check_start_of(denoiser, t) -> None:
    """Call `denoiser.check_start(t)` if there is such a method."""
    check = getattr(denoiser, "check_start", None)
    if check is not None:
        check(t)


def warn_uncovered(denoiser: DenoiserLike) -> None:
    """Warn if x at t = 1 still holds much of the data, so that sampling from the prior would start wrong.

    The test uses the `data_std` of the denoiser, or of the one it wraps; without one there is no warning.

    Args:
        denoiser: the denoiser.

    Examples:
        >>> import warnings
        >>> import jaxdiff as jd
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: x, {}, jd.VP(), data_std=1000.0)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     jd.denoisers.warn_uncovered(denoiser)
        >>> len(caught)
        1
    """
    inner: Any = denoiser
    while not hasattr(inner, "data_std") and hasattr(inner, "denoiser"):
        inner = inner.denoiser
    data_std = getattr(inner, "data_std", None)
    if data_std is not None:
        denoiser.process.warn_uncovered(data_std)


def check_numbers(denoiser, what: str, instead: str = "") -> Gaussian:
    """The process of a denoiser, checked to be a process of numbers.

    Args:
        denoiser: the denoiser.
        what: what needs numbers, for the error message.
        instead: what to do otherwise, for the error message.

    Returns:
        The denoiser's process, a `jaxdiff.Gaussian`.

    Raises:
        TypeError: if `denoiser` is not a denoiser, or its process is not one of numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
        >>> jd.denoisers.check_numbers(denoiser, "a score")
        VP(beta_min=0.1, beta_max=20.0)
    """
    check_denoiser(denoiser)
    return check_gaussian(denoiser.process, what, instead)


def score(denoiser: DenoiserLike, x, t, cond=None) -> jax.Array:
    """The score ∇ log p_t(x) = -E[ε | x_t = x] / σ.

    Args:
        denoiser: a denoiser of numbers.
        x: noised data, `[batch, *event]`.
        t: the time, a scalar or `[batch]`, with σ(t) > 0.
        cond: what the denoiser is conditioned on.

    Returns:
        The score, `[batch, *event]`.

    Raises:
        TypeError: if the process is not one of numbers.

    Source:
        Tweedie's formula; Vincent 2011, "A connection between score matching and denoising autoencoders".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))  # x_t is standard normal at every t
        >>> x = jnp.array([[1.0, -2.0]])
        >>> bool(jnp.allclose(jd.score(denoiser, x, 0.5), -x, atol=1e-5))
        True
    """
    process, x, (_, noise) = _predicted(denoiser, x, t, cond, "a score")
    return -noise / expand_time(process.sigma(t), x)


def angular_velocity(denoiser: DenoiserLike, x, t, cond=None) -> jax.Array:
    """The velocity v = cos φ ε - sin φ x_0 = dz/dφ of the probability flow.

    Args:
        denoiser: a denoiser of numbers.
        x: noised data, `[batch, *event]`.
        t: the time, a scalar or `[batch]`.
        cond: what the denoiser is conditioned on.

    Returns:
        v, `[batch, *event]`.

    Raises:
        TypeError: if the process is not one of numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))  # x_t is standard normal at every t
        >>> v = jd.denoisers.angular_velocity(denoiser, jnp.ones((1, 2)), 0.5)
        >>> bool(jnp.allclose(v, 0, atol=1e-5))
        True
    """
    process, x, (data, noise) = _predicted(denoiser, x, t, cond, "the probability flow")
    phi = expand_time(process.angle(t), x)
    return jnp.cos(phi) * noise - jnp.sin(phi) * data


def _predicted(denoiser, x, t, cond, what: str) -> tuple[Gaussian, jax.Array, Any]:
    process, x = check_numbers(denoiser, what, "ask the denoiser itself"), check_batch(x)
    prediction = denoiser(x, t, cond)
    process.check_prediction(prediction, x)
    return process, x, prediction
