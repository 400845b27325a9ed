"""The base class of samplers, and checks of a run."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import as_argument, check_field, check_instance, check_shared, said
from jaxdiff.arrays.dtypes import same_dtype
from jaxdiff.denoisers import DenoiserLike, check_cond, guidance
from jaxdiff.denoisers.checks import check_answer, check_model
from jaxdiff.processes import Process, check_gaussian
from jaxdiff.processes.grids import Grid


class Sampler:
    """Base class of samplers: one step from t to s < t, a frozen dataclass under `@jaxdiff.pytree`.

    A subclass defines `move`, if it needs only the denoiser's prediction at (x, t), or `step`, if it evaluates the
    denoiser itself. It overrides `check_process` to run on other processes than those of continuous data, and `init` to
    carry a state from step to step. Its numbers are leaves. The constructors of the library's samplers raise ValueError
    for a number out of range; a traced one gives NaN.

    Examples:
        >>> import dataclasses
        >>> import jax
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class Plain(jd.samplers.Sampler):
        ...     def move(self, keys, process, prediction, x, t, s, state):
        ...         alpha, sigma = process.marginal(s)
        ...         return alpha * prediction.data + sigma * prediction.noise, state
        >>> denoiser = jd.exact.Gaussian(jd.VP(), [2.0], [[0.25]])
        >>> jd.sample(jax.random.key(0), denoiser, (4, 1), Plain(), steps=5).shape
        (4, 1)
    """

    adaptive = False
    """Whether it chooses its own steps between two times."""

    grid: Grid | None = None
    """Its default grid; None for that of the process."""

    reversible = False
    """Whether its step, which then draws no noise and uses no history, also runs from data to noise: s > t."""

    looks_back = False
    """Whether its step uses the state of earlier steps, as multistep methods do."""

    takes: tuple[str, ...] = ()
    """The parts of `cond` that it reads itself, by name; if empty, `cond` is the denoiser's."""

    def init(self, process: Any, x: Any, steps: int) -> Any:
        """The initial state, which is carried from step to step, for x at the start of a run of `steps` steps."""
        return ()

    def check_cond(self, denoiser: DenoiserLike, cond: Any, shape: Any) -> Any:
        """Return `cond` for samples of `shape`, with leaves [n, ...]; raise if it or the denoiser does not support it.

        Also raises if a user's denoiser does not return a prediction for x of `shape`.
        """
        cond = check_cond(denoiser, cond, denoiser.process.split(shape)[0][0])
        check_answer(denoiser, shape, cond)
        return cond

    def check_process(self, process: Process) -> None:
        """Raise TypeError for a process that it does not support; by default any but continuous data."""
        check_gaussian(process, type(self).__name__, "take Ancestral()")

    def check_start(self, process: Any, t) -> None:
        """Raise ValueError if it cannot start at the concrete `t`."""

    def step(self, keys, denoiser: DenoiserLike, x: Any, t, s, state: Any, cond) -> tuple[Any, Any]:
        """x [n, *event] at the scalar s < t from x at t, with one key a sample, and a state like `init`'s."""
        return self.move(keys, denoiser.process, denoiser(x, t, cond), x, t, s, state)

    def move(self, keys, process: Any, prediction: Any, x: Any, t, s, state: Any) -> tuple[Any, Any]:
        """The same, given the denoiser's prediction at (x, t)."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `move` nor `step`")

    def answer(self, keys, denoiser: DenoiserLike, x: Any, t, cond) -> Any:
        """Clean data from x [n, *event] at t, the end of a run: by default the denoiser's prediction."""
        return denoiser.process.answer(keys, denoiser(x, t, cond))


def take_step(sampler: Sampler, keys, denoiser: DenoiserLike, x: Any, t, s, state: Any, cond) -> tuple[Any, Any]:
    """`sampler.step`, with the dtypes of x and state; TypeError or ValueError unless the result has their shapes."""
    return as_carried(sampler, sampler.step(keys, denoiser, x, t, s, state, cond), x, state)


def answers_by_prediction(sampler: Sampler) -> bool:
    """Whether its steps and its answer both need the denoiser's prediction at (x, t), and no other."""
    return type(sampler).step is Sampler.step and type(sampler).answer is Sampler.answer


def as_carried(sampler: Sampler, moved: Any, x: Any, state: Any) -> tuple[Any, Any]:
    """`moved`, the result of a step from x and state, with their dtypes; an error unless it has their shapes."""
    what = f"a step of {type(sampler).__name__} returned"
    if not isinstance(moved, tuple) or len(moved) != 2:
        raise TypeError(f"{what} {_shapes(moved)}; it must return (x, state), with a state like init's")
    for name, like, new, old in zip(("x", "state"), ("the x it is given", "init's"), moved, (x, state)):
        alike = jax.tree.structure(new) == jax.tree.structure(old)
        if not alike or jax.tree.map(jnp.shape, new) != jax.tree.map(jnp.shape, old):
            raise ValueError(
                f"{what} {name} = {_shapes(new)}; it must return (x, state), with {name} like {like}, {_shapes(old)}"
            )
    return same_dtype(moved, (x, state))


def _shapes(tree) -> str:
    """`tree` with its arrays as float32[4, 2]."""
    return str(jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{[*jnp.shape(leaf)]}", tree)).replace("'", "")


def check_sampler(sampler, name: str = "sampler") -> None:
    """Raise TypeError if `sampler` is not a `Sampler` and a pytree of numbers."""
    check_instance(name, sampler, Sampler, "an instance such as jaxdiff.samplers.DDIM(), of a subclass of Sampler")
    as_argument(name, sampler)


def check_inner(name: str, sampler) -> None:
    """Raise TypeError unless `sampler` is a sampler that reads no parts of `cond` itself."""
    check_sampler(sampler, name)
    if sampler.takes:
        raise TypeError(
            f"{name} = {said(sampler)} reads {' and '.join(sampler.takes)} of cond itself; expected a sampler whose "
            "cond is the denoiser's, such as jaxdiff.samplers.Ancestral(): nest them the other way round"
        )


def grid_of(sampler: Sampler, process: Process) -> Grid:
    """The grid of a run: the sampler's own, or that of the process."""
    return process.sampling_grid if sampler.grid is None else sampler.grid


def check_run(denoiser, sampler) -> None:
    """Raise unless `denoiser` and `sampler` are valid and fit, and the numbers of sampler and process are scalars.

    A step is the same for the whole batch: an array would be broadcast along the event.
    """
    check_model(denoiser)
    check_sampler(sampler)
    check_shared("sampler", sampler)
    sampler.check_process(denoiser.process)


def check_guides_noise(denoiser, what: str) -> None:
    """Raise ValueError if `denoiser` is CFG++, whose predicted noise, which `what` reads alone, is unguided."""
    if isinstance(denoiser, guidance.ClassifierFreePP):
        raise ValueError(
            f"{what} reads the noise of a prediction, which ClassifierFreePP leaves unguided; take DDIM, or "
            "guide by ClassifierFree"
        )


def check_noise(sampler) -> None:
    """Raise unless the sampler's `noise` is the η of an SDE that keeps a process's marginals, a number of 0 or more."""
    check_field(sampler, "noise", least=0, noun="0 (the probability flow), 1 (the reverse SDE), or a number")
