"""A sampler for each part of a joint model, with one evaluation of the model a step."""

import dataclasses
from typing import Any

import jax

from jaxdiff.arrays import check_instance, folded, pytree, said
from jaxdiff.processes import Product
from jaxdiff.samplers.sampler import Sampler, check_sampler


@pytree
@dataclasses.dataclass(frozen=True)
class Each(Sampler):
    """Sample a product with a sampler of its own for each part; the joint denoiser is evaluated once a step.

    The keys of a part are the sample's, folded with the number of the part.

    Args:
        samplers: tree of samplers with the structure of the product.

    Raises:
        TypeError: for a sampler that evaluates the denoiser away from (x, t), as Heun, predictor-corrector and adaptive
            samplers do; when run, for a process that is not a product, or a part that its sampler does not support.
        ValueError: when run, for a tree of another structure.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.Product({"image": jd.VP(), "label": jd.Absorbing(10)})
        >>> def network(params, x, c_noise, cond):
        ...     return {"image": params * x["image"], "label": jnp.zeros((*x["label"].shape, 10))}
        >>> denoiser = jd.Denoiser(network, 0.0, process)
        >>> sampler = jd.samplers.Each({"image": jd.samplers.DDIM(), "label": jd.samplers.Ancestral()})
        >>> x = jd.sample(jax.random.key(0), denoiser, {"image": (4, 2), "label": (4,)}, sampler, steps=5)
        >>> x["image"].shape, x["label"].shape
        ((4, 2), (4,))
    """

    samplers: Any

    def __post_init__(self):
        if not self._all:
            raise TypeError(f"samplers = {said(self.samplers)}; expected samplers in a tree like that of the product")
        for sampler in self._all:
            check_sampler(sampler, "a part's sampler")
            if sampler.takes or (type(sampler).step, type(sampler).answer) != (Sampler.step, Sampler.answer):
                name = type(sampler).__name__
                raise TypeError(
                    f"{name} evaluates the denoiser itself; expected samplers that need its prediction at (x, t) only, "
                    "such as DPMSolverPP(), DDIM() or Ancestral()"
                )

    @property
    def _all(self) -> list[Sampler]:
        return jax.tree.leaves(self.samplers, is_leaf=lambda part: part is None or isinstance(part, Sampler))

    def check_process(self, process) -> None:
        """Raise TypeError if the process is not a product, or a sampler does not support its part."""
        check_instance("process", process, Product, "a Product, for samplers.Each")
        for sampler, part in zip(process.split(self.samplers, "samplers"), process.processes):
            sampler.check_process(part)

    def check_start(self, process, t) -> None:
        """Raise ValueError if the sampler of a part cannot start at `t`."""
        for sampler, part, start in zip(process.split(self.samplers), process.processes, process.clocks(t)):
            sampler.check_start(part, start)

    def init(self, process, x, steps):
        """The initial state of each sampler."""
        parts = zip(process.split(self.samplers), process.processes, process.split(x))
        return [sampler.init(*part, steps) for sampler, *part in parts]

    def move(self, keys, process, prediction, x, t, s, state):
        """Move each part by its own sampler."""
        split = process.split
        parts = zip(split(self.samplers), process.processes, split(prediction), split(x), process.clocks(t))
        moved = [
            sampler.move(folded(keys, number), *part, start, end, carried)
            for number, ((sampler, *part, start), end, carried) in enumerate(zip(parts, process.clocks(s), state))
        ]
        x, state = zip(*moved)
        return process.joined(x), list(state)
