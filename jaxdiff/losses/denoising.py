"""Denoising score matching (Vincent 2011; Ho et al. 2020): guess the data that x_t was made of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdiff.arrays import count, example_keys
from jaxdiff.losses import times as times_
from jaxdiff.losses import weightings
from jaxdiff.losses.counted import check_weight, noised, paid
from jaxdiff.losses.inputs import check_times_law, check_weightings, draw_times, prepared, weighted_mean
from jaxdiff.processes import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Denoising:
    """`loss(denoiser, key, x0, cond, weight) -> [batch]`: the weighted error of the denoiser, mean over all values.

    The error is the process's own: of numbers the squared error of v, of categories -log p(x_0 | x_t), nats, of which
    masks have that of what is masked. `weighting` is one of `jaxdiff.losses.weightings`, `times` one of
    `jaxdiff.losses.times`, or each a tree of them for a product: with one `times` all parts are noised to one t, with a
    tree of them each to its own, as a model must be trained that `jaxdiff.Given` holds parts of.

    `weight`, of the shape of x0, is 1 where a value counts and 0 where it is given (`jaxdiff.losses.counted`).

    Raises TypeError or ValueError for x0 that is no data of the process, such as a concrete one that holds a NaN.
    """

    weighting: weightings.Weighting | Any = weightings.Simple()
    times: times_.Times | Any = times_.Stratified()

    def __post_init__(self):
        check_weightings(self.weighting)
        check_times_law(self.times)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        error = lambda process: process.denoising_error
        return mean_error(error, self.weighting, self.times, denoiser, key, x0, cond, weight)


def mean_error(error: Callable, weighting, times, denoiser, key, x0, cond, weight) -> jax.Array:
    """The weighted `error(process)`, a method of it, at times that are drawn, [n]: the mean over the values."""
    denoiser, x0, cond = prepared(denoiser, key, x0, cond)
    process, n = denoiser.process, count(x0)
    weight = check_weight(process, weight, x0)
    time_key, noise_key = jax.random.split(key)
    t, factor = draw_times(times, time_key, process, n)
    x_t, truth = noised(process, example_keys(noise_key, n), x0, t, weight)
    prediction = denoiser(x_t, t, cond)
    process.check_prediction(prediction, x_t)
    found = paid(process, weight, error(process)(prediction, truth, x_t, t))
    return weighted_mean(denoiser, weighting, t, factor, found)
