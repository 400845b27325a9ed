"""Denoising score matching (Vincent 2011; Ho et al. 2020): predict the data from which x_t was made."""

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
    """The standard loss of diffusion models: the weighted error of the denoiser at random times.

    Call it as `loss(denoiser, key, x0, cond=None, weight=None)`; it returns one number per example, `[n]`, a mean over
    all values of the event. The error is the squared error of v for numbers, and the cross-entropy -log p(x_0 | x_t) in
    nats for categories. `weight`, of the shape of x0, is 1 where a value counts and 0 where it is given as a condition
    (`jaxdiff.losses.counted`).

    Args:
        weighting: the weight of each noise level, one of `jaxdiff.losses.weightings`, or a tree of them for a product.
        times: the law of t, one of `jaxdiff.losses.times`, or a tree of them for a product. With one law all parts are
            noised to the same t, with a tree each to its own t, which a model for `jaxdiff.Given` needs.

    Raises:
        TypeError: if x0 is not data of the process, such as integers for a process of numbers.
        ValueError: if x0 has another shape, or a concrete x0 holds a NaN.

    Source:
        Vincent 2011, "A connection between score matching and denoising autoencoders"; Ho et al. 2020, "Denoising
        diffusion probabilistic models", eq. 14.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * x
        >>> denoiser = jd.Denoiser(network, jnp.ones(()), jd.VP(), "noise")
        >>> loss = jd.losses.Denoising(jd.losses.weightings.MinSNR(5.0))
        >>> loss(denoiser, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
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
    """The weighted mean of `error(process)`, a method of the process, at random times, [n]."""
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
