"""Like parts of a joint model as one row: the columns of a table, [n, columns], under one process.

If all parts follow the same process of numbers at one t, noise acts on them as on their concatenation. A denoiser of
the parts is then a denoiser of the rows, with a probability flow and a density. Given the categories of a table, this
is the exact log p(numbers | categories) of a joint model:

    numbers = SideBySide(Given(joint, ("job", "town"), event={"job": (), "town": ()}), {"age": 1, "income": 1})
    jd.log_likelihood(key, numbers, rows, cond={"job": job, "town": town}).log_prob
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_instance, check_whole, said
from jaxdiff.denoisers.checks import differ
from jaxdiff.denoisers.denoiser import DenoiserLike, Wrapper, check_denoiser
from jaxdiff.processes import Gaussian, Prediction, Process, Product, pytree


@pytree
@dataclasses.dataclass(frozen=True)
class SideBySide(Wrapper):
    """A denoiser of named parts of numbers as a denoiser of their concatenation along the last axis.

    Args:
        denoiser: a denoiser of a `jaxdiff.Product` of a dictionary, whose parts `[n, ..., size]` all follow the same
            process of numbers.
        sizes: `{name: size}`, the sizes of the parts in the order of the concatenation.

    Raises:
        TypeError: if the process is not a product of a dictionary.
        ValueError: if the names are not those of the product, or the parts follow different processes.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> process = jd.Product({"age": jd.VP(), "income": jd.VP()})
        >>> joint = jd.Denoiser(lambda params, x, c_noise, cond: x, {}, process)
        >>> rows = jd.denoisers.SideBySide(joint, {"age": 1, "income": 2})
        >>> rows(jnp.ones((4, 3)), 0.5).data.shape
        (4, 3)
    """

    denoiser: DenoiserLike
    sizes: Any = dataclasses.field(metadata={"static": True})

    def __post_init__(self):
        check_denoiser(self.denoiser)
        process: Any = self.denoiser.process
        check_instance("denoiser.process", process, Product, "a Product of a dictionary of processes")
        check_instance("denoiser.process.parts", process.parts, dict, "a Product of a dictionary of processes")
        check_instance("sizes", self.sizes, (Mapping, tuple), "a dictionary {name: size}")
        sizes = tuple(dict(self.sizes).items())
        if sorted(name for name, _ in sizes) != sorted(process.parts):
            raise ValueError(f"sizes = {said(dict(sizes))}; expected a size for each of {', '.join(process.parts)}")
        for name, size in sizes:
            check_whole(f"sizes[{name!r}]", size)
        first, *others = process.processes
        if not isinstance(first, Gaussian) or any(differ(first, other) for other in others):
            raise ValueError(f"denoiser.process = {said(process)}; expected one process of numbers for all parts")
        object.__setattr__(self, "sizes", sizes)

    @property
    def process(self) -> Process:
        """The process of each part."""
        return self.denoiser.process.processes[0]

    @property
    def data_std(self) -> Any:
        """The largest data_std of the parts, if the joint denoiser has them."""
        return jnp.max(jnp.stack(jax.tree.leaves(self.denoiser.data_std)))  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, x, t, cond=None) -> Prediction:
        """The predictions for all parts, concatenated, at x `[n, ..., sum of the sizes]`."""
        x, t = self.process.at(x, t)
        names, sizes = zip(*self.sizes)
        if x.shape[-1] != sum(sizes):
            raise ValueError(f"x has shape {x.shape}; expected {sum(sizes)} values in the last axis, {said(sizes)}")
        parts = jnp.split(x, list(itertools.accumulate(sizes[:-1])), axis=-1)
        answer = self.denoiser(dict(zip(names, parts)), t, cond)
        data, noise = zip(*(answer[name] for name in names))
        return Prediction(jnp.concatenate(data, axis=-1), jnp.concatenate(noise, axis=-1))
