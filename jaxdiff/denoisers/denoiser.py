"""A denoiser says what was data and what was noise: (x_t, t, cond) -> E[x_0 | x_t] and the ε that goes with it.

`Denoiser` makes one of a network by its parameterisation. The network sees x / √(α² data_std² + σ²), which has unit
variance at every t (the c_in of Karras et al. 2022, table 1), and c_noise = log(σ/α)/4, held within ±3: beyond e^{±12}
one of data and noise is lost in the rounding of the other, and log(σ/α) would be infinite at the ends.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import (
    along_batch,
    as_array,
    check_batch,
    check_field,
    check_flag,
    check_function,
    check_instance,
    check_output,
    check_scalar,
    native,
    said,
    with_dtype,
)
from jaxdiff.denoisers.parameterization import check_parameterization, row
from jaxdiff.processes import Process, check_curves, check_process, check_time, expand_time, is_concrete, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Prediction:
    """E[x_0 | x_t] and E[ε | x_t], each [batch, *event], with x_t = α data + σ noise; it unpacks to these two.

    `share`, of the same shape, is where a learned reverse variance lies between the smallest (0) and the largest (1)
    of `jaxdiff.denoisers.reverse_step`; None unless it is learned.
    """

    data: jax.Array
    noise: jax.Array
    share: jax.Array | None = None

    def __iter__(self) -> Iterator[jax.Array]:
        return iter((self.data, self.noise))


class DenoiserLike(Protocol):
    """What samplers, losses and likelihoods take: a callable pytree with its process.

    One that knows which `cond` it takes may have a method `check_cond(cond)`, which raises for any other. It is called
    before anything is traced, and so may look at the values of a concrete one.
    """

    @property
    def process(self) -> Process:
        """The process whose x_t it denoises."""
        ...

    def __call__(self, x, t, cond=None) -> Prediction:
        """Predict data and noise from x [batch, *event] at t, a scalar or [batch]."""
        ...


def check_denoiser(denoiser, name: str = "denoiser") -> None:
    """Raise TypeError for what is no denoiser: a callable with a process."""
    if isinstance(denoiser, type) or not callable(denoiser) or not isinstance(_process_of(denoiser), Process):
        raise TypeError(
            f"{name} = {said(denoiser)}; expected a denoiser, such as jaxdiff.Denoiser(network, params, process), "
            "or a callable (x, t, cond) with a process"
        )


def check_prediction(prediction, x) -> None:
    """Raise where what a denoiser returned for x is no `Prediction` of data and noise of the shape of x."""
    check_instance("the denoiser's answer", prediction, Prediction, "a jaxdiff.Prediction(data, noise)")
    check_output("the denoiser (data)", prediction.data, x)
    check_output("the denoiser (noise)", prediction.noise, x)


def _process_of(denoiser):
    return getattr(denoiser, "process", None)


def check_params(params) -> Any:
    """`params` in this machine's byte order; TypeError for a leaf that is no number or array of them."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        if not isinstance(leaf, int | float | complex) and getattr(leaf, "dtype", np.dtype(object)).kind in "OSUMm":
            raise TypeError(f"params{jax.tree_util.keystr(path)} = {said(leaf)}; expected arrays of numbers")
    swapped = any(isinstance(leaf, np.ndarray) and not leaf.dtype.isnative for _, leaf in leaves)
    return jax.tree.map(native, params) if swapped else params


def c_noise(process: Process, t) -> jax.Array:
    """log(σ/α)/4 within ±3, the noise level that networks see."""
    check_process(process)
    return jnp.clip(-process.log_snr(t) / 8, -3.0, 3.0)


OF_A_MODULE = ". Of a Flax module jaxdiff.networks.initialize(key, make) makes one, with its params"


@pytree
@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network as a denoiser: `network(params, x, c_noise, cond) -> out`, its out read by `parameterization`.

    `parameterization` is one of "data", "noise", "score", "v", "velocity", "edm"; `data_std` is the standard deviation
    of the data, a scalar or one an example. "noise" and "score" say nothing of x_0 where α = 0 (t = 1 of Flow and
    Cosine): start below.
    `label_dropout` is the share of labels that its training left out, from which it can be guided; None where that is
    not known.
    With `learned_variance` the network returns twice the channels of x in the last axis: out, then u, and the share
    of the reverse variance is (u + 1)/2 (Nichol and Dhariwal 2021, eq. 15).

    Raises TypeError for a network that is no function, parameters that are no arrays or a process that is none;
    ValueError for an unknown parameterisation or a data_std that is not above 0 (traced, NaN). When called, TypeError
    for an x that is not floating, ValueError for t outside [0, 1], a t or data_std that is neither a scalar nor
    [batch], or a network that returns another shape than that.
    """

    network: Callable[..., jax.Array] = dataclasses.field(metadata={"static": True})
    params: Any
    process: Process
    parameterization: str = dataclasses.field(default="v", metadata={"static": True})
    data_std: float = 0.5
    learned_variance: bool = dataclasses.field(default=False, metadata={"static": True})
    label_dropout: float | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        check_function("network", self.network, "a function (params, x, c_noise, cond) -> out", 4, OF_A_MODULE)
        object.__setattr__(self, "params", check_params(self.params))
        check_process(self.process)
        check_parameterization(self.parameterization)
        check_field(self, "data_std", above=0)
        check_flag("learned_variance", self.learned_variance)
        if self.label_dropout is not None:
            check_scalar("label_dropout", self.label_dropout, least=0, most=1)
            object.__setattr__(self, "label_dropout", float(self.label_dropout))

    def __call__(self, x, t, cond=None) -> Prediction:
        """Predict data and noise from x [batch, *event] at t, a scalar or [batch]."""
        x, t, alpha, sigma, a, b, c_in = self._at(x, t)
        out = self.network(self.params, expand_time(c_in, x) * x, c_noise(self.process, t), cond)
        expected = (*x.shape[:-1], x.shape[-1] * (1 + self.learned_variance))
        check_output("the network", out, x, expected)
        share = None
        if self.learned_variance:
            out, u = jnp.split(out, 2, axis=-1)
            share = (u + 1) / 2
        det = alpha * b - sigma * a
        alpha, sigma, a, b, det = (expand_time(c, x) for c in (alpha, sigma, a, b, det))
        return Prediction((b * x - sigma * out) / det, (alpha * out - a * x) / det, share)

    def _at(self, x, t) -> tuple[jax.Array, ...]:
        """x as a batch, and t, α, σ, the row (a, b) and c_in for each of its examples, [batch]."""
        x = check_batch(x)
        t = jnp.broadcast_to(expand_time(check_time(t), x).ravel(), x.shape[:1])
        alpha, sigma = self.process.marginal(t)
        data_std = along_batch(self.data_std, t, "data_std")
        a, b = row(self.parameterization, self.process, t, data_std)
        return x, t, alpha, sigma, a, b, 1 / jnp.hypot(alpha * data_std, sigma)

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that the network does not take, by the network's own `check_cond(params, cond)`.

        Warns (UserWarning) of cond = None where labels were never dropped in training.
        """
        check_cond_of(self.network, self.params, cond)
        if cond is None and self.label_dropout == 0:
            warnings.warn(
                "cond = None, but the denoiser's labels were never dropped in training (label_dropout = 0): its "
                "unconditional prediction was not learned. Give cond, or train with label_dropout=0.1",
                UserWarning,
                stacklevel=2,
            )

    def no_label(self) -> int | None:
        """The network's label for no label, by its own `no_label(params)`; None where it has none."""
        return no_label_of(self.network, self.params)

    def error_scale(self, t) -> jax.Array:
        """det/q, of the shape of `t`: an error e of the angular velocity v is det/q e of the network's output."""
        alpha, sigma = self.process.marginal(t)
        a, b = row(self.parameterization, self.process, t, self.data_std)
        return (alpha * b - sigma * a) / jnp.hypot(alpha, sigma)


def innermost(denoiser) -> Any:
    """The denoiser inside all wrappers, each of which has the next one as its field `denoiser`."""
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    return denoiser


def check_cond_of(model, *arguments) -> None:
    """Call `model.check_cond(*arguments)` where there is one: (cond) for a denoiser, (params, cond) for a network."""
    check = getattr(model, "check_cond", None)
    if check is not None:
        check(*arguments)


def no_label_of(model, *arguments) -> int | None:
    """`model.no_label(*arguments)`, its label for no label: of () for a denoiser, of (params) for a network.

    None where it has no such label, or does not say.
    """
    of = getattr(model, "no_label", None)
    return None if of is None else of(*arguments)


def check_cond(denoiser: DenoiserLike, cond, n: int) -> Any:
    """`cond` with leaves [n, ...], scalars repeated, checked to be what the denoiser takes (see `DenoiserLike`).

    Raises TypeError for a leaf that holds no numbers, ValueError for one of another length, or (concrete) with a NaN.
    """

    def check(leaf):
        given, leaf = leaf, as_array(leaf)
        if leaf is None or not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
            raise TypeError(f"{with_dtype('cond', given)}; expected arrays of numbers, such as integer labels")
        if leaf.ndim and leaf.shape[0] != n:
            raise ValueError(f"cond has shape {leaf.shape}; expected one entry each for {n} examples, or a scalar")
        if is_concrete(leaf) and ((values := np.asarray(leaf)) != values).any():
            raise ValueError("cond holds a NaN; remove or repair that example")
        return leaf

    cond = jax.tree.map(check, cond, is_leaf=lambda c: isinstance(c, list))
    check_cond_of(denoiser, cond)
    every = lambda leaf: jnp.asarray(leaf) if leaf.ndim else jnp.broadcast_to(leaf, (n,))
    return jax.tree.map(every, cond)


def check_start(denoiser: DenoiserLike, t) -> None:
    """Raise ValueError where x_0 cannot be read at a concrete `t`: α = 0 under "noise" or "score", wrapped or not."""
    check_curves(denoiser.process)
    if not all(map(is_concrete, [t, *jax.tree.leaves(denoiser.process)])):
        return
    wrapped = [getattr(denoiser, name) for name in ("denoiser", "weak") if hasattr(denoiser, name)]
    for inner in wrapped:
        at = t
        if inner.process is not denoiser.process:
            if not all(map(is_concrete, jax.tree.leaves(inner.process))):
                continue
            with jax.ensure_compile_time_eval():
                at = inner.process.time_at_log_snr(denoiser.process.log_snr(t))
        check_start(inner, at)
    named = getattr(denoiser, "parameterization", None)
    if wrapped or named not in ("noise", "score"):
        return
    with jax.ensure_compile_time_eval():
        nothing = bool(denoiser.process.marginal(t)[0] == 0)
    if nothing:
        raise ValueError(
            f"alpha({float(t)}) = 0 for {type(denoiser.process).__name__}: a network trained on "
            f'"{named}" says nothing of the data there. Start below, for example '
            't_start=0.999, or train with "v"'
        )


def score(denoiser: DenoiserLike, x, t, cond=None) -> jax.Array:
    """∇ log p_t(x) = -E[ε | x_t] / σ (Tweedie; Vincent 2011), [batch, *event]."""
    check_denoiser(denoiser)
    x = check_batch(x)
    _, sigma = denoiser.process.marginal(t)
    prediction = denoiser(x, t, cond)
    check_prediction(prediction, x)
    return -prediction.noise / expand_time(sigma, x)


def angular_velocity(denoiser: DenoiserLike, x, t, cond=None) -> jax.Array:
    """v = cos φ ε - sin φ x_0 = dz/dφ of the probability flow at x [batch, *event]."""
    check_denoiser(denoiser)
    x = check_batch(x)
    prediction = denoiser(x, t, cond)
    check_prediction(prediction, x)
    data, noise = prediction
    phi = expand_time(denoiser.process.angle(t), x)
    return jnp.cos(phi) * noise - jnp.sin(phi) * data
