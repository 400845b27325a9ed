r"""The variational bound as a loss, for any process, in continuous time and in T steps.

1.  In continuous time the bound weighs the process's `error` by its rate,

        ∫ error d log(σ/q)/dt dt,

    where the error is that of v for numbers (Kingma et al. 2021, eq. 17), the cross-entropy of the masked values for
    masks (Sahoo et al. 2024, eq. 10; Shi et al. 2024, eq. 5), and the score entropy for uniform and other noise (Lou et
    al. 2024, eq. 10). For uniform t a mask has weight 1/t, and at least one of n values is masked with probability n t
    as t -> 0: the variance of an estimate grows as log 1/t_min, and the part below t_min is left out. `Importance`
    draws t in proportion to that weight, and `AnyOrder` has neither problem.
2.  In T steps the bound is a sum over the noise levels t_T > ... > t_1 (Austin et al. 2021, "Structured denoising
    diffusion models in discrete state-spaces", eq. 1). One level is drawn, and its term multiplied by T:

        T KL(q(x_s | x_t, x_0) || p(x_s | x_t)).

    For categories the last level goes to the data, s = 0, where the term is -log p(x_0 | x_t).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_whole, count, example_keys, pytree
from jaxdiff.losses import times as times_
from jaxdiff.losses.counted import check_weight, noised, paid
from jaxdiff.losses.denoising import mean_error
from jaxdiff.losses.inputs import check_times_law, draw_times, prepared, weighted_mean
from jaxdiff.losses.weightings import Likelihood
from jaxdiff.processes.grids import Grid, Time, check_grid, check_times


@pytree
@dataclasses.dataclass(frozen=True)
class Bound:
    """The variational bound in continuous time, estimated at a random t.

    Call it as `loss(denoiser, key, x0, cond=None, weight=None)`; it returns nats per value, `[n]`. For numbers it is
    `Denoising(weightings.Likelihood(), times)`.

    Args:
        times: the law of t, one of `jaxdiff.losses.times`, or a tree of them for a product as in `Denoising`.
            `times.Importance(1e-3)` has less variance than the default, above all for masks.

    Raises:
        TypeError: as `Denoising`.
        ValueError: as `Denoising`.

    Source:
        Kingma et al. 2021, "Variational diffusion models", eq. 17, for numbers; Sahoo et al. 2024, "Simple and
        effective masked diffusion language models", eq. 10, for masks; Lou et al. 2024, "Discrete diffusion modeling by
        estimating the ratios of the data distribution", eq. 10, for other noise.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * jnp.ones((*x.shape, 4))  # logits
        >>> denoiser = jd.Denoiser(network, jnp.zeros(()), jd.Absorbing(4))
        >>> loss = jd.losses.Bound()(denoiser, jax.random.key(0), jnp.zeros((3, 8), int))
        >>> loss.shape
        (3,)
    """

    times: times_.Times = times_.Stratified()

    def __post_init__(self):
        check_times_law(self.times)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        return mean_error(lambda process: process.error, Likelihood(), self.times, denoiser, key, x0, cond, weight)


@pytree
@dataclasses.dataclass(frozen=True)
class Steps:
    """The variational bound in T steps, estimated at one random step per example.

    Call it as `loss(denoiser, key, x0, cond=None, weight=None)`; it returns nats per value, `[n]`. Its expectation is
    the `transitions` term of `jaxdiff.variational_bound`, and for categories also the `reconstruction` term; for
    numbers the last level, where the data are reconstructed, counts as 0.

    Args:
        steps: the number T of steps of the sampling that the model is for.
        grid: its noise levels: a grid, or an array of decreasing times, as in `jaxdiff.variational_bound`.

    Raises:
        TypeError: as `Denoising`.
        ValueError: as `Denoising`, if `steps` is less than 1, or if levels do not decrease or are no steps of a table
            (traced, NaN).

    Source:
        Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", L_vb of eq. 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> network = lambda params, x, c_noise, cond: params * jnp.ones((*x.shape, 4))  # logits
        >>> denoiser = jd.Denoiser(network, jnp.zeros(()), jd.Absorbing(4))
        >>> loss = jd.losses.Steps(100)(denoiser, jax.random.key(0), jnp.zeros((3, 8), int))
        >>> loss.shape
        (3,)
    """

    steps: int = dataclasses.field(default=1000, metadata={"static": True})
    grid: Grid | np.ndarray | jax.Array = Time()

    def __post_init__(self):
        check_whole("steps", self.steps, noun="noise level")
        check_grid(self.grid)

    def check(self, denoiser, x0, cond) -> None:
        """Raise for data or levels that the process does not have."""
        denoiser.process.check(x0, "x0")
        self._levels(denoiser.process)

    def __call__(self, denoiser, key, x0, cond=None, weight=None) -> jax.Array:
        denoiser, x0, cond = prepared(denoiser, key, x0, cond)
        process, n = denoiser.process, count(x0)
        weight = check_weight(process, weight, x0)
        time_key, noise_key = jax.random.split(key)
        levels, lasts = self._levels(process)
        part, factor = draw_times(times_.Stratified(t_min=0.0), time_key, process, n)
        level = (part * len(levels)).astype(int)
        t, following = levels[level], levels[jnp.minimum(level + 1, len(levels) - 1)]
        s = process.joined([jnp.where(level == len(levels) - 1, last, following) for last in lasts])
        x_t, truth = noised(process, example_keys(noise_key, n), x0, t, weight)
        prediction = denoiser(x_t, t, cond)
        process.check_prediction(prediction, x_t)
        kl = paid(process, weight, process.kl(prediction, truth, x_t, t, s))
        return weighted_mean(denoiser, _evenly, t, len(levels) * factor, kl)

    def _levels(self, process) -> tuple[jax.Array, list]:
        """The noise levels, and the time at which the last step ends in each part: the last level, or 0 (data)."""
        if not isinstance(self.grid, Grid):
            levels = check_times(self.grid)
            process.check_times(lambda: levels)
        elif (end := process.last_time(None)) is None:
            levels = self.grid(process, self.steps, 1.0)
        else:
            levels = self.grid(process, self.steps - 1, 1.0, end)
        return levels, [0.0 if part.last_time(None) is None else levels[-1] for part in process.processes]


def _evenly(denoiser, t) -> jax.Array:
    return jnp.ones_like(t)
