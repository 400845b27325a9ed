"""A denoiser says what was data: (x_t, t, cond) -> E[x_0 | x_t] and the ε that goes with it, or p(x_0 | x_t).

`Denoiser` makes one of a network: its process says what the network is shown of x_t, and how its answer is read. Of
numbers it is shown x / √(α² data_std² + σ²), which has unit variance at every t (the c_in of Karras et al. 2022, table
1), and of every process c_noise = log(σ/α)/4, held within ±3: beyond e^{±12} one of data and noise is lost in the
rounding of the other, and log(σ/α) would be infinite at the ends.
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
    """What samplers, losses and likelihoods take: a callable pytree with its process.

    One that knows which `cond` it takes may have a method `check_cond(cond)`, which raises for any other, and one that
    has no answer at some t a method `check_start(t)`. They are called before anything is traced, and so may look at
    the values of what is concrete. `Wrapper` hands both on.
    """

    @property
    def process(self) -> Process:
        """The process whose x_t it denoises."""
        ...

    def __call__(self, x, t, cond=None) -> Any:
        """What it says of x_0, given x [batch, *event] at t, a scalar or [batch]."""
        ...


def check_denoiser(denoiser, name: str = "denoiser") -> None:
    """Raise TypeError for what is no denoiser: a callable with a process."""
    if isinstance(denoiser, type) or not callable(denoiser) or not isinstance(_process_of(denoiser), Process):
        raise TypeError(
            f"{name} = {said(denoiser)}; expected a denoiser, such as jaxdiff.Denoiser(network, params, process), "
            "or a callable (x, t, cond) with a process"
        )


def _process_of(denoiser):
    return getattr(denoiser, "process", None)


def innermost(denoiser) -> Any:
    """The denoiser inside all wrappers, each of which has the next one as its field `denoiser`."""
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    return denoiser


class Wrapper:
    """A denoiser made of another, `denoiser`: its process, and what it takes, are the other's unless overridden."""

    denoiser: DenoiserLike

    @property
    def process(self) -> Any:
        """The process of the denoiser it wraps."""
        return self.denoiser.process

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """The denoisers that it asks, each with the cond that it asks under."""
        return [(self.denoiser, cond)]

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that one of the denoisers it asks does not take."""
        for denoiser, given in self.asked(cond):
            check_cond_of(denoiser, given)

    def check_start(self, t) -> None:
        """Raise where the denoiser has no answer at a concrete `t`."""
        check_start_of(self.denoiser, t)


def check_params(params) -> Any:
    """`params` in this machine's byte order; TypeError for a leaf that is no number or array of them."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        if not isinstance(leaf, int | float | complex) and getattr(leaf, "dtype", np.dtype(object)).kind in "OSUMm":
            raise TypeError(f"params{jax.tree_util.keystr(path)} = {said(leaf)}; expected arrays of numbers")
    swapped = any(isinstance(leaf, np.ndarray) and not leaf.dtype.isnative for _, leaf in leaves)
    return jax.tree.map(native, params) if swapped else params


def with_params(model: Any, params) -> Any:
    """`model` with other `params` of the same form: by its own `with_params`, or as its field of that name."""
    if hasattr(model, "with_params"):
        return model.with_params(params)
    return rebuilt(model, params=params)


class OfNetwork:
    """What is made of a network and its `params`, and in training of the `key` of its dropout."""

    network: Callable[..., Any]
    params: Any
    key: jax.Array | None

    def with_params(self, params):
        """The same with other weights."""
        return rebuilt(self, params=check_params(params))

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the network does not take, by the network's own `check_cond(params, cond)`."""
        check_cond_of(self.network, self.params, cond)

    def no_label(self) -> int | None:
        """The network's label for no label, by its own `no_label(params)`; None where it has none."""
        return no_label_of(self.network, self.params)

    def takes_key(self) -> bool:
        """Whether the network takes the keys of its dropout, by its own `takes_key(params)`."""
        return takes_key_of(self.network, self.params)

    def _check_key(self) -> None:
        """Raise for a `key` that is no key, or that the network does not take."""
        if self.key is None:
            return
        check_key(self.key)
        if not self.takes_key():
            raise ValueError("key was given, but the network takes none: it has no `takes_key(params)`; leave key out")

    def _out(self, x, c_noise, cond) -> Any:
        """What the network makes of its inputs, with a key an example where `key` is set."""
        keys = () if self.key is None else (example_keys(self.key, count(x)),)
        return self.network(self.params, x, c_noise, cond, *keys)


OF_A_MODULE = ". Of a Flax module jaxdiff.networks.initialize(key, make) makes one, with its params"


@pytree
@dataclasses.dataclass(frozen=True)
class Denoiser(OfNetwork):
    """A network as a denoiser: `network(params, x, c_noise, cond) -> out`, its out read by `parameterization`.

    Of numbers `parameterization` is one of "data", "noise", "score", "v" (unless given), "velocity", "edm", and
    `data_std` is the standard deviation of the data, 0.5 unless given, a scalar or one an example. "noise" and "score"
    say nothing of x_0 where α = 0 (t = 1 of Flow and Cosine): start below. Of categories out holds logits, and there is
    neither. Of a product x, c_noise and out are trees of its form, as may be `parameterization` and `data_std`.
    `condition_dropout` is the share of examples that had no condition at all in its training, from which it can be
    guided; None where that is not known. `key` is None but inside of a loss, which sets it for a network with dropout
    (`with_key`).
    With `learned_variance` the network returns twice the channels of x in the last axis: out, then u, and the share
    of the reverse variance is (u + 1)/2 (Nichol and Dhariwal 2021, eq. 15).

    Raises TypeError for a network that is no function, parameters that are no arrays or a process that is none;
    ValueError for an unknown parameterisation or a data_std that is not above 0 (traced, NaN). When called, TypeError
    for an x that is none of its process, ValueError for t outside [0, 1], a t or data_std that is neither a scalar nor
    [batch], or a network that returns another shape than that.
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
        """What it says of x_0, given x [batch, *event] at t, a scalar or [batch]."""
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
        """Raise for a `cond` that the network does not take.

        Warns (UserWarning) of cond = None where the condition was never dropped in training.
        """
        if cond is None and self.condition_dropout == 0:
            warnings.warn(
                "cond = None, but the denoiser's condition was never dropped in training (condition_dropout = 0): its "
                "unconditional prediction was not learned. Give cond, or train by "
                "jaxdiff.losses.ConditionDropout(loss)",
                UserWarning,
                stacklevel=2,
            )
        super().check_cond(cond)

    def check_start(self, t) -> None:
        """Raise ValueError where x_0 cannot be read at a concrete `t`: α = 0 under "noise" or "score"."""
        self.process.check_start(self.parameterization, t)

    def error_scale(self, t) -> Any:
        """The square root of what 1 of the process's error is in the network's own output, of the shape of `t`."""
        return self.process.error_scale(self.parameterization, t, self.data_std)


def takes_key_of(model, *arguments) -> bool:
    """`model.takes_key(*arguments)`, whether it takes a key an example: of (params) for a network, of () for a module.

    False where it does not say.
    """
    takes = getattr(model, "takes_key", None)
    return takes is not None and takes(*arguments)


def with_key(model: Any, key) -> Any:
    """`model` with `key` for the dropout of its networks that have some; itself where none has.

    A loss gives its denoiser one for training, as by with_key(denoiser, jax.random.fold_in(key, 3)). Sampling and
    likelihoods never do. Networks are found in the fields of dataclasses: in wrappers and pairs of models.
    """
    check_key(key)
    taken = lambda part: rebuilt(part, key=key) if isinstance(part, OfNetwork) and part.takes_key() else None
    return replaced(model, taken)


def check_start(denoiser: DenoiserLike, t) -> None:
    """Raise ValueError where a denoiser has no answer at a concrete `t`, or its process's curves cannot be right."""
    denoiser.process.check_curves()
    check_start_of(denoiser, t)


def check_start_of(denoiser, t) -> None:
    """`denoiser.check_start(t)` where it has one."""
    check = getattr(denoiser, "check_start", None)
    if check is not None:
        check(t)


def warn_uncovered(denoiser: DenoiserLike) -> None:
    """Warn where x at t = 1 is far from the prior, as far as the denoiser, or the one it wraps, says its data_std."""
    inner: Any = denoiser
    while not hasattr(inner, "data_std") and hasattr(inner, "denoiser"):
        inner = inner.denoiser
    data_std = getattr(inner, "data_std", None)
    if data_std is not None:
        denoiser.process.warn_uncovered(data_std)


def check_numbers(denoiser, what: str, instead: str = "") -> Gaussian:
    """The process of `denoiser`, one of numbers; TypeError where `what` is asked of another, or of no denoiser."""
    check_denoiser(denoiser)
    return check_gaussian(denoiser.process, what, instead)


def score(denoiser: DenoiserLike, x, t, cond=None) -> jax.Array:
    """∇ log p_t(x) = -E[ε | x_t] / σ (Tweedie; Vincent 2011), [batch, *event]."""
    process, x, (_, noise) = _predicted(denoiser, x, t, cond, "a score")
    return -noise / expand_time(process.sigma(t), x)


def angular_velocity(denoiser: DenoiserLike, x, t, cond=None) -> jax.Array:
    """v = cos φ ε - sin φ x_0 = dz/dφ of the probability flow at x [batch, *event]."""
    process, x, (data, noise) = _predicted(denoiser, x, t, cond, "the probability flow")
    phi = expand_time(process.angle(t), x)
    return jnp.cos(phi) * noise - jnp.sin(phi) * data


def _predicted(denoiser, x, t, cond, what: str) -> tuple[Gaussian, jax.Array, Any]:
    process, x = check_numbers(denoiser, what, "ask the denoiser itself"), check_batch(x)
    prediction = denoiser(x, t, cond)
    process.check_prediction(prediction, x)
    return process, x, prediction
