"""Reports in bits a value, computed for every example of a data set in batches."""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

from jaxdiff.arrays import (
    Precision,
    at_precision,
    check_flag,
    check_precision,
    check_shared,
    check_whole,
    count,
    example_keys,
)
from jaxdiff.arrays.batches import in_batches, joined
from jaxdiff.arrays.mesh import check_mesh, copied, spread
from jaxdiff.denoisers import check_cond, check_denoiser
from jaxdiff.denoisers.checks import check_answer
from jaxdiff.likelihood.estimate import condition_of
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.losses.counted import check_counted, check_weight, counts


class OfValues(abc.ABC):
    """A report in bits a value that counts, of each example and their mean.

    `counted` [n] is how many values of each example count; None if all do.
    """

    counted: np.ndarray | None

    @property
    @abc.abstractmethod
    def per_example(self) -> np.ndarray:
        """Bits a value that counts, of each example, [n]."""

    @property
    def bits_per_dim(self) -> float:
        """The mean over all values that count."""
        return mean_of(self.per_example, self.counted).mean

    @property
    def standard_error(self) -> float:
        """The standard error of `bits_per_dim` over examples, from data and noise together; NaN for one example."""
        return mean_of(self.per_example, self.counted).standard_error

    @property
    def perplexity(self) -> float:
        """exp(nats a value): the number of equally probable categories that would cost as much."""
        return 2.0**self.bits_per_dim


class Batches(NamedTuple):
    """How a data set is processed in batches."""

    size: int
    progress: bool
    mesh: Mesh | None
    precision: Precision | None


def checked(denoiser, data, levels, batches: Batches) -> Any:
    """`data` as NumPy arrays; raise for arguments that no report takes."""
    check_denoiser(denoiser)
    check_shared("denoiser", denoiser)
    check_flag("progress", batches.progress)
    check_mesh(batches.mesh)
    check_precision(batches.precision)
    check_whole("batch_size", batches.size)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(data)):
        raise TypeError("data are traced; this function works through a data set in batches: call it outside of jit")
    return denoiser.process.check_data(data, levels)


def nats_of(
    compute: Callable, key, denoiser, data, cond, weight, label: str, batches: Batches
) -> tuple[Any, np.ndarray | None, str]:
    """(terms, counted, note): `compute(keys, denoiser, data, cond, weight)`, leaves [..., n], in bits a value.

    `data` is what `checked` returned, `counted` that of `OfValues`, and `note` names the condition and the given
    values.
    """
    process, n = denoiser.process, count(data)
    values = sum(math.prod(part.shape[1:]) for part in process.split(data))
    weight, counted, note = jax.tree.map(np.asarray, check_weight(process, weight, data)), None, ""
    if weight is not None:
        counted = check_counted(np.asarray(counts(process, weight, data), np.float64))
        if counted.sum() < n * values:
            note = f", {counted.sum():.0f} of {n * values} values, given the others"
    keys, cond = example_keys(key, n), check_cond(denoiser, cond, n)
    check_answer(denoiser, process.joined([part.shape for part in process.split(data)]), cond)
    model = copied(denoiser, batches.mesh)

    def of(index):
        picked = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), (data, cond, weight))
        batch_keys, parts = spread((keys[index], picked), batches.mesh)
        with at_precision(batches.precision):
            return compute(batch_keys, model, *parts)

    size = min(batches.size, n)
    nats = joined(in_batches(of, np.arange(n), size, batches.progress, label, batches.mesh))
    per_value = (values if counted is None else counted) * math.log(2)
    return jax.tree.map(lambda term: term / per_value, nats), counted, note + condition_of(denoiser, cond)
