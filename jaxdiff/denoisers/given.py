"""A joint model with some of its parts given: a denoiser of the others.

Given parts are data, at t = 0 with a time of their own, so that the joint denoiser predicts E[x_0 | x_t, y]. Unknown
parts are noise at t = 1, which carries no information. One joint model is therefore the conditional and the
unconditional model of each part:

    Given(joint, "label")                             p(image | label) under cond, p(image) without
    ClassifierFree(Given(joint, "label"), scale)      guidance
    Given(joint, "image")(masks, 1.0, image)          p(label | image), by one evaluation

The joint model must have been trained with a time for each part.
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
    """A joint denoiser with the parts `names` given as `cond`: a denoiser of the other parts.

    `cond` is the part itself, `[n, *event]`, for one name, and a dictionary of parts for several. None puts each given
    part at t = 1, where it carries no information. This is exact for masks, and an error for numbers, which at t = 1
    still hold α(1) of the data. If one part is left, x and the prediction are that part itself; otherwise they are
    dictionaries.

    Args:
        denoiser: a denoiser of a `jaxdiff.Product` of a dictionary, trained with a time for each part.
        names: the name of the given part, or a tuple of names.
        event: the shape of one example of the given part, or a dictionary of shapes; needed for cond = None.

    Raises:
        TypeError: if the process is not a product of a dictionary.
        ValueError: if a name is unknown, or no part is left.

    Source:
        Bao et al. 2023, "One transformer fits all distributions in multi-modal diffusion at scale".

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.Product({"age": jd.VP(), "label": jd.Absorbing(10)})
        >>> def network(params, x, c_noise, cond):
        ...     return {"age": 0 * x["age"], "label": jnp.zeros((*x["label"].shape, 10))}
        >>> joint = jd.Denoiser(network, {}, process)
        >>> ages = jd.Given(joint, "label")
        >>> ages(jnp.zeros((4, 1)), 0.5, cond=jnp.array([1, 2, 3, 4])).data.shape
        (4, 1)
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
        """The process of the part that is left, or the product of several."""
        left = self._of_the_rest(self._parts)
        return Product(left) if isinstance(left, dict) else left

    def _of_the_rest(self, parts: dict) -> Any:
        """The parts that are left, a single one by itself."""
        left = {name: parts[name] for name in self._rest}
        return left if len(left) > 1 else next(iter(left.values()))

    def _given(self, cond, n: int) -> dict[str, Any]:
        """The given parts, checked; for None, parts at t = 1 for n examples."""
        if cond is None:
            return {name: self._parts[name].unknown((n, *event)) for name, event in self.event}
        parts = {self.names: cond} if isinstance(self.names, str) else cond
        if not isinstance(parts, dict) or set(parts) != set(self._held):
            raise ValueError(f"cond = {said(cond)}; expected a dictionary of {', '.join(self._held)}")
        return {name: self._parts[name].check(parts[name], f"cond ({name})") for name in self._held}

    def check_cond(self, cond) -> None:
        """Raise for a `cond` that is not data of the given parts, or for None if a part cannot be left out."""
        self._given(jax.tree.map(jnp.atleast_1d, cond), 1)

    @property
    def data_std(self) -> Any:
        """The data_std of the parts that are left, if the joint denoiser has one."""
        return self._of_the_rest(self.denoiser.data_std)  # pyright: ignore[reportAttributeAccessIssue]

    def check_start(self, t) -> None:
        """Nothing: the joint denoiser checks its own times when it is called."""

    def __call__(self, x, t, cond=None) -> Any:
        """The prediction for the parts that are left, at x `[batch, *event]`, t a scalar or `[batch]`."""
        x, t = self.process.at(x, t)
        n = count(x)
        held, clock = self._given(cond, n), jnp.full(n, float(cond is None))
        left = list(self._rest)
        named = lambda rest: rest if len(left) > 1 else {left[0]: rest}
        clocks = {**named(t), **{name: clock for name in held}}
        return self._of_the_rest(self.denoiser({**named(x), **held}, clocks, None))
