"""A joint model, with some of its parts given: a denoiser of the rest.

The parts that are given are data, at t = 0 on a clock of their own, so that the joint denoiser answers with
E[x_0 | x_t, y]; where they are not known they are noise at t = 1, which says nothing. One joint model is therefore the
conditional one and the unconditional one of each part:

    Given(joint, "label")                             p(image | label) under cond, p(image) without
    ClassifierFree(Given(joint, "label"), scale)      guidance
    Given(joint, "image")(masks, 1.0, image)          p(label | image), asked once

The joint model must have been trained with a clock for each part.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_instance, count, said
from jaxdiff.denoisers.denoiser import DenoiserLike, Wrapper, check_denoiser
from jaxdiff.processes import Process, Product, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Given(Wrapper):
    """`denoiser` of a product of named parts, with the parts `names` given as `cond`: a denoiser of the others.

        Given(joint, "label")(x, t, cond=label)
        Given(joint, ("label", "text"))(x, t, cond={"label": label, "text": text})

    `cond` is the part itself, [n, *event], where there is one name, and a dictionary of them where there are several;
    None puts each at t = 1, where it says nothing: that is exact for masks, and refused for numbers, which still hold
    α(1) of the data. `event` is then the shape of an event of the part, or a dictionary of them. One part that is left
    comes out bare, several as a dictionary.

    Raises TypeError for a denoiser of anything but a product of a dictionary, ValueError for a name that it lacks, or
    where nothing is left.
    """

    denoiser: DenoiserLike
    names: str | tuple[str, ...] = dataclasses.field(metadata={"static": True})
    event: Any = dataclasses.field(default=(), metadata={"static": True})

    def __post_init__(self):
        check_denoiser(self.denoiser)
        check_instance("denoiser.process", self.denoiser.process, Product, "a Product of a dictionary of processes")
        check_instance("denoiser.process.parts", self._parts, dict, "a Product of a dictionary of processes")
        if not isinstance(self.names, str):
            check_instance("names", self.names, (tuple, list), "the name of a part, or a tuple of them")
            object.__setattr__(self, "names", tuple(self.names))
        unknown = [name for name in self._held if name not in self._parts]
        if unknown or not self._held or not self._rest:
            raise ValueError(f"names = {said(self.names)}; expected some but not all of {', '.join(self._parts)}")
        each = isinstance(self.event, dict) or any(isinstance(axis, tuple) for axis in self.event)
        events = dict(self.event) if each else {name: self.event for name in self._held}
        if set(events) != set(self._held):
            raise ValueError(f"event = {said(self.event)}; expected a shape for each of {', '.join(self._held)}")
        object.__setattr__(self, "event", tuple((name, tuple(events[name])) for name in self._held))

    @property
    def _parts(self) -> dict[str, Process]:
        return self.denoiser.process.parts  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def _held(self) -> tuple[str, ...]:
        return (self.names,) if isinstance(self.names, str) else self.names

    @property
    def _rest(self) -> dict[str, Process]:
        return {name: part for name, part in self._parts.items() if name not in self._held}

    @property
    def process(self) -> Process:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The process of the part that is left, or their product."""
        left = self._of_the_rest(self._parts)
        return Product(left) if isinstance(left, dict) else left

    def _of_the_rest(self, parts: dict) -> Any:
        """Those of all `parts` that are left, a single one bare."""
        left = {name: parts[name] for name in self._rest}
        return left if len(left) > 1 else next(iter(left.values()))

    def _given(self, cond, n: int) -> dict[str, Any]:
        """The parts that are given, checked; those that say nothing of n examples for None."""
        if cond is None:
            return {name: self._parts[name].unknown((n, *event)) for name, event in self.event}
        parts = {self.names: cond} if isinstance(self.names, str) else cond
        if not isinstance(parts, dict) or set(parts) != set(self._held):
            raise ValueError(f"cond = {said(cond)}; expected a dictionary of {', '.join(self._held)}")
        return {name: self._parts[name].check(parts[name], f"cond ({name})") for name in self._held}

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is no data of the parts that are given, or None where one cannot be left out."""
        self._given(jax.tree.map(jnp.atleast_1d, cond), 1)

    @property
    def data_std(self) -> Any:
        """That of the parts that are left, where the joint denoiser says it."""
        return self._of_the_rest(self.denoiser.data_std)  # pyright: ignore[reportAttributeAccessIssue]

    def check_start(self, t) -> None:
        """The joint denoiser says what its network's answer lacks when it is called."""

    def __call__(self, x, t, cond=None) -> Any:
        """What the joint denoiser says of the parts that are left, at x [batch, *event], t a scalar or [batch]."""
        x, t = self.process.at(x, t)
        n = count(x)
        held, clock = self._given(cond, n), jnp.full(n, float(cond is None))
        left = list(self._rest)
        named = lambda rest: rest if len(left) > 1 else {left[0]: rest}
        clocks = {**named(t), **{name: clock for name in held}}
        return self._of_the_rest(self.denoiser({**named(x), **held}, clocks, None))
