"""What every sampler is made of, and the keys of its samples."""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_field, check_instance, check_shared
from jaxdiff.arrays import example_keys as example_keys
from jaxdiff.arrays.varying import vary
from jaxdiff.denoisers import DenoiserLike, check_denoiser, check_prediction, guidance
from jaxdiff.denoisers import check_cond as check_cond
from jaxdiff.processes import Process
from jaxdiff.processes.grids import Angle


class Sampler(abc.ABC):
    """One step from t to s < t; a frozen dataclass registered as a pytree, its numbers leaves.

    The constructors of the library's own raise ValueError for a number out of range; one that is traced gives NaN.
    """

    adaptive = False
    """Whether it chooses its own steps between two times."""

    grid = Angle()
    """The grid it runs on unless given another."""

    reversible = False
    """Whether its step, drawing no noise and looking at nothing but x, runs from data to noise too: s > t."""

    def init(self, denoiser: DenoiserLike, x: jax.Array, steps: int) -> Any:
        """What it carries from step to step."""
        return ()

    def check_start(self, process: Process, t) -> None:  # noqa: B027
        """Raise ValueError where it cannot start at the concrete `t`."""

    @abc.abstractmethod
    def step(self, keys, denoiser: DenoiserLike, x: jax.Array, t, s, state: Any, cond) -> tuple[jax.Array, Any]:
        """x [n, *event] at the scalar s < t from x at t, with one key a sample, and what is carried on."""


def check_sampler(sampler, name: str = "sampler") -> None:
    """Raise TypeError for what is no sampler."""
    check_instance(name, sampler, Sampler, "an instance such as jaxdiff.samplers.DDIM(), of a subclass of Sampler")


def check_model(denoiser) -> None:
    """Raise TypeError for what is no denoiser or no pytree, ValueError where a number of its process is an array."""
    check_denoiser(denoiser)
    if jax.tree_util.all_leaves([denoiser]):
        kind = type(denoiser).__name__
        raise TypeError(f"denoiser = {kind} is no pytree; make {kind} a frozen dataclass and put @jaxdiff.pytree above")
    check_shared("process", denoiser.process)


def check_answer(denoiser, shape: tuple[int, ...], cond) -> None:
    """Raise where a user's own denoiser, wrapped or not, answers x of `shape` by anything but a `Prediction` of it."""
    if type(denoiser).__module__.partition(".")[0] != __name__.partition(".")[0]:
        x, t = (jax.ShapeDtypeStruct(axes, jnp.result_type(float)) for axes in (shape, ()))
        jax.eval_shape(lambda x, t, cond: check_prediction(denoiser(x, t, cond), x), x, t, cond)
        return
    for inner in (getattr(denoiser, name) for name in ("denoiser", "weak") if hasattr(denoiser, name)):
        check_answer(inner, shape, cond if getattr(denoiser, "conditional", True) else None)


def check_run(denoiser, sampler) -> None:
    """Raise for what is no denoiser or no sampler, or where a number of its process or of the sampler is an array.

    A step is the same for the whole batch: an array would be broadcast along the event.
    """
    check_model(denoiser)
    check_sampler(sampler)
    check_shared("sampler", sampler)


def check_guides_noise(denoiser, what: str) -> None:
    """Raise ValueError where `what` reads the noise alone, which CFG++ leaves unguided."""
    if isinstance(denoiser, guidance.ClassifierFreePP):
        raise ValueError(
            f"{what} reads the noise of a prediction, which ClassifierFreePP leaves unguided; take DDIM, or "
            "guide by ClassifierFree"
        )


def check_noise(sampler) -> None:
    """Raise unless its `noise` is the η of the SDEs that keep a process's marginals, a number of 0 or more."""
    check_field(sampler, "noise", least=0, noun="0 (the probability flow), 1 (the reverse SDE), or a number")


def normal(keys, x: jax.Array) -> jax.Array:
    """Standard normal noise of the shape and dtype of x [n, *event], one key an example."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def same_dtype(tree, like):
    """`tree` with the dtypes of `like`, so that float64 weights leave a float32 state in float32."""
    return jax.tree.map(lambda leaf, other: vary(jnp.asarray(leaf).astype(other.dtype), other), tree, like)


def working_dtype(x):
    """The dtype of the states and times of a run from x: float32, or float64 where x has it."""
    return jnp.promote_types(x.dtype, jnp.float32)
