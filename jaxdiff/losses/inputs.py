"""A loss's arguments, its random times, and the mean of its errors.

The key of a loss is split into keys for times, pairs and noise (0, 1, 2); other random numbers fold in 3 and above.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_event, check_function, check_key, check_pytree, count, said
from jaxdiff.denoisers import check_cond, check_denoiser, with_key
from jaxdiff.losses import weightings
from jaxdiff.processes import Process

OF_ANY = "take jaxdiff.losses.Denoising()"
"""The alternative that messages name where a loss needs a process of numbers."""
DROPOUT = 3
"""The number that a loss folds into its key for dropout in the network."""


def prepared(denoiser, key, x0, cond) -> tuple[Any, Any, Any]:
    """(denoiser, x0, cond), checked: the denoiser with a key for its dropout, if it has any, and arrays of one batch.

    Raises TypeError or ValueError for arguments that no loss accepts.
    """
    check_denoiser(denoiser)
    check_pytree("process", denoiser.process)
    check_key(key)
    denoiser.process.check_curves()
    x0 = denoiser.process.check(x0, "x0")
    cond = check_cond(denoiser, cond, count(x0))
    return with_key(denoiser, jax.random.fold_in(key, DROPOUT)), x0, cond


def check_examples(loss, denoiser, x0, cond, name: str = "x0") -> None:
    """Raise if `loss` does not accept x0, by its `check(denoiser, x0, cond)` or by the process's `check`."""
    process: Any = getattr(denoiser, "process", None)
    if hasattr(loss, "check"):
        loss.check(denoiser, x0, cond)
    elif hasattr(process, "check"):
        process.check(x0, name)
    else:
        check_event(x0, name)


def check_times_law(times) -> None:
    """Raise TypeError unless `times` is a law of times, or a tree of them for a product."""
    for law in _laws(times):
        check_function("times", law, "one of jaxdiff.losses.times, such as Stratified()")


def check_weightings(weighting) -> None:
    """Raise TypeError unless `weighting` is a weighting, or a tree of them for a product."""
    for one in _laws(weighting):
        weightings.check_weighting(one)


def _laws(tree) -> list:
    """The weightings or laws of times in `tree`, which is one of them or a tree."""
    return jax.tree.leaves(tree, is_leaf=lambda part: callable(part) or part is None)


def draw_times(times, key, process: Process, n: int) -> tuple[Any, Any]:
    """(t, factor) of `times`, each [n], or trees of [n] if the parts of a product have different times."""
    if callable(times):
        return _turned(times, key, process, n)
    laws = enumerate(zip(process.split(times, "times"), process.processes))
    drawn = [_turned(law, jax.random.fold_in(key, number), part, n) for number, (law, part) in laws]
    t, factor = zip(*drawn)
    return process.joined(t), process.joined(factor)


def _turned(times, key, process, n: int) -> tuple[jax.Array, jax.Array]:
    """(t, factor) of `times`, each [n] or a tree of them, rolled along the batch by a random shift.

    Stratified times increase along the batch. If the classes of a batch have a fixed order, each class would see only
    some of the times; after the roll every example has every time with the same probability. Raises ValueError if
    `times` returns other shapes.
    """
    shift = jax.random.randint(jax.random.fold_in(key, 1), (), 0, n)
    # fields of `times` with one number per example are rolled first, so that the roll below restores their order
    turned = jax.tree.map(lambda leaf: jnp.roll(leaf, shift) if np.shape(leaf) == (n,) else leaf, times)
    t, factor = turned(key, process, n)
    shapes = [getattr(part, "shape", None) for tree in (t, factor) for part in process.clocks(tree)]
    if set(shapes) != {(n,)}:
        raise ValueError(f"times returned shapes {shapes}; expected arrays [{n}], one number per example")
    return jax.tree.map(lambda leaf: jnp.roll(leaf, -shift), (t, factor))


@dataclasses.dataclass(frozen=True)
class _Part:
    """One part of a joint denoiser, for a weighting, which reads its process, data_std and error_scale."""

    denoiser: Any
    number: int

    @property
    def process(self) -> Process:
        return self.denoiser.process.processes[self.number]

    @property
    def data_std(self):
        return self.denoiser.process.split(self.denoiser.data_std)[self.number]

    def error_scale(self, t) -> jax.Array:
        return self.process.error_scale(self.denoiser.parameterization[self.number], t, self.data_std)

    def __call__(self, x, t, cond=None):
        raise TypeError(f"a part of {said(self.denoiser)} cannot be called alone; a weighting reads its process")


def weighted_mean(denoiser, weighting, t, factor, error) -> jax.Array:
    """The mean of the weighted errors over all values of an example, [n], those of all parts of a product together.

    `weighting` is one for all parts or a tree of them, `t` and `factor` are the results of `draw_times`, `error` is the
    process's error of a prediction.
    """
    process = denoiser.process
    count = len(process.processes)
    views = [denoiser] if count == 1 else [_Part(denoiser, number) for number in range(count)]
    laws = [weighting] * count if callable(weighting) else process.split(weighting, "weighting")
    errors = process.split(error)
    values = sum(math.prod(part.shape[1:]) for part in errors)
    parts = []
    for law, view, time, scale, part in zip(laws, views, process.clocks(t), process.clocks(factor), errors):
        share = math.prod(part.shape[1:]) / values
        paid = scale != 0  # elsewhere, as at t = 0 for a given part, the weight may be infinite
        weight = jnp.where(paid, weightings.weights(law, view, jnp.where(paid, time, 0.5)) * scale, 0.0)
        parts.append(share * weight * jnp.mean(part, axis=range(1, part.ndim)))
    return functools.reduce(jnp.add, parts)
