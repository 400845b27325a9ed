"""A sampler for each part of a joint model, under one evaluation of the model a step."""

import dataclasses
from typing import Any

import jax

from jaxdiff.arrays import check_instance, folded, pytree, said
from jaxdiff.processes import Product
from jaxdiff.samplers.sampler import Sampler, check_sampler


@pytree
@dataclasses.dataclass(frozen=True)
class Each(Sampler):
    """A tree of samplers in the form of the product: the joint denoiser is asked once a step, then each moves its part.

        jd.samplers.Each({"image": jd.samplers.DPMSolverPP(), "label": jd.samplers.Ancestral()})

    A part's keys are the sample's, folded with its number. Raises TypeError for a sampler that asks the denoiser
    itself, away from (x, t), as Heun, predictor-corrector and adaptive samplers do; when it is run, ValueError for a
    tree of another form, TypeError for a part that its sampler does not take.
    """

    samplers: Any

    def __post_init__(self):
        if not self._all:
            raise TypeError(f"samplers = {said(self.samplers)}; expected a tree of them in the form of the product")
        for sampler in self._all:
            check_sampler(sampler, "a part's sampler")
            if sampler.takes or (type(sampler).step, type(sampler).answer) != (Sampler.step, Sampler.answer):
                name = type(sampler).__name__
                raise TypeError(
                    f"{name} asks the denoiser itself; expected samplers that move by one answer at (x, t), such as "
                    "DPMSolverPP(), DDIM() or Ancestral()"
                )

    @property
    def _all(self) -> list[Sampler]:
        return jax.tree.leaves(self.samplers, is_leaf=lambda part: part is None or isinstance(part, Sampler))

    def check_process(self, process) -> None:
        """Raise TypeError for what is no product, or a part that its sampler does not take."""
        check_instance("process", process, Product, "a Product, for samplers.Each")
        for sampler, part in zip(process.split(self.samplers, "samplers"), process.processes):
            sampler.check_process(part)

    def check_start(self, process, t) -> None:
        """Raise ValueError where the sampler of a part cannot start at `t`."""
        for sampler, part, start in zip(process.split(self.samplers), process.processes, process.clocks(t)):
            sampler.check_start(part, start)

    def init(self, denoiser, x, steps):
        """What each of them carries."""
        parts = zip(denoiser.process.split(self.samplers), denoiser.process.split(x))
        return [sampler.init(denoiser, part, steps) for sampler, part in parts]

    def move(self, keys, process, prediction, x, t, s, state):
        """A move of each part by its own sampler."""
        split = process.split
        parts = zip(split(self.samplers), process.processes, split(prediction), split(x), process.clocks(t))
        moved = [
            sampler.move(folded(keys, number), *part, start, end, carried)
            for number, ((sampler, *part, start), end, carried) in enumerate(zip(parts, process.clocks(s), state))
        ]
        x, state = zip(*moved)
        return process.joined(x), list(state)
