"""What every sampler is made of."""

from typing import Any

import jax

from jaxdiff.arrays import check_field, check_instance, check_shared, said
from jaxdiff.denoisers import DenoiserLike, check_cond, guidance
from jaxdiff.denoisers.checks import check_answer, check_model
from jaxdiff.processes import Process, check_gaussian
from jaxdiff.processes.grids import Grid


class Sampler:
    """One step from t to s < t; a frozen dataclass registered as a pytree, its numbers leaves.

    The constructors of the library's own raise ValueError for a number out of range; one that is traced gives NaN.

    A sampler of your own writes `move`, where it needs the denoiser's answer at (x, t) alone, or `step`, where it asks
    the denoiser itself. One that takes other processes than those of numbers says so by `check_process`.
    """

    adaptive = False
    """Whether it chooses its own steps between two times."""

    grid: Grid | None = None
    """The grid it runs on unless given another; None for the process's own."""

    reversible = False
    """Whether its step, drawing no noise and looking at nothing but x, runs from data to noise too: s > t."""

    looks_back = False
    """Whether its step uses the state that earlier steps left, as multistep methods do."""

    takes: tuple[str, ...] = ()
    """The names of the parts of `cond` that it reads itself; for none, `cond` is the denoiser's."""

    def init(self, denoiser: DenoiserLike, x: jax.Array, steps: int) -> Any:
        """What it carries from step to step."""
        return ()

    def check_cond(self, denoiser: DenoiserLike, cond: Any, shape: Any) -> Any:
        """`cond` for samples of `shape`, with leaves [n, ...]; raise for a cond that it or the denoiser does not take.

        Also raises where a user's denoiser does not return a prediction for x of `shape`.
        """
        cond = check_cond(denoiser, cond, denoiser.process.split(shape)[0][0])
        check_answer(denoiser, shape, cond)
        return cond

    def check_process(self, process: Process) -> None:
        """Raise TypeError for a process it does not take."""
        check_gaussian(process, type(self).__name__, "take Ancestral()")

    def check_start(self, process: Any, t) -> None:
        """Raise ValueError where it cannot start at the concrete `t`."""

    def step(self, keys, denoiser: DenoiserLike, x: Any, t, s, state: Any, cond) -> tuple[Any, Any]:
        """x [n, *event] at the scalar s < t from x at t, with one key a sample, and what is carried on."""
        return self.move(keys, denoiser.process, denoiser(x, t, cond), x, t, s, state)

    def move(self, keys, process: Any, prediction: Any, x: Any, t, s, state: Any) -> tuple[Any, Any]:
        """The same, given the denoiser's answer at (x, t)."""
        raise NotImplementedError(f"{type(self).__name__} writes neither `move` nor `step`")

    def answer(self, keys, denoiser: DenoiserLike, x: Any, t, cond) -> Any:
        """Clean data from x [n, *event] at t, the end of a run: by default the denoiser's prediction."""
        return denoiser.process.answer(keys, denoiser(x, t, cond))


def check_sampler(sampler, name: str = "sampler") -> None:
    """Raise TypeError for what is no sampler."""
    check_instance(name, sampler, Sampler, "an instance such as jaxdiff.samplers.DDIM(), of a subclass of Sampler")


def check_inner(name: str, sampler) -> None:
    """Raise TypeError for anything but a sampler that reads no parts of `cond` itself."""
    check_sampler(sampler, name)
    if sampler.takes:
        raise TypeError(
            f"{name} = {said(sampler)} reads {' and '.join(sampler.takes)} of cond by itself; expected a sampler whose "
            "cond is what the denoiser takes, such as jaxdiff.samplers.Ancestral(), around which it may go in turn"
        )


def grid_of(sampler: Sampler, process: Process) -> Grid:
    """The grid of a run: the sampler's own, or where it has none that of the process."""
    return process.sampling_grid if sampler.grid is None else sampler.grid


def check_run(denoiser, sampler) -> None:
    """Raise for what is no denoiser or no sampler, or where a number of its process or of the sampler is an array.

    A step is the same for the whole batch: an array would be broadcast along the event.
    """
    check_model(denoiser)
    check_sampler(sampler)
    check_shared("sampler", sampler)
    sampler.check_process(denoiser.process)


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
