r"""The variational bound: a diffusion model as a hierarchical VAE.

Over noise levels t_T > ... > t_1 the model draws x from the prior at t_T, steps back by p(x_s | x_t), and reads the
integers off x at t_1 (Ho et al. 2020, eq. 5). With q the process's own way from x_0, Jensen's inequality gives

    -log P(x_0) <= KL(q(x_T | x_0) || p(x_T))                                      prior
                   + Σ_{i >= 2} E KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i))    transitions
                   + E -log P(x_0 | x_1)                                           reconstruction

all in closed form but for the noise in x_t, of which each example gets one draw a level. An integer k is its cell's
middle, x_0 = 2 (k + 1/2)/levels - 1, and its probability given x_1 is that of its cell under N(x̂_0, sin² φ), the two
outer cells with the tails (Ho et al. 2020, eq. 13). sin φ is the posterior std of data of unit variance: σ_1 for a
variance-preserving process, as there (their σ_1² = β_1), σ/α where that is small, and finite at α = 0. It is a bound
for any choice.

Where to end. Under a density that is flat over a cell of width w, as a model of dequantised images has it, ending at
σ/α = s costs E -log P(x_0 | x_1) - log(2πe s²)/2 too much: 0.002 bits for s = w, 0.03 for w/2, 0.23 for w/4, 0.6 for
w/6 (λ_max = 13.3 of Kingma et al. 2021), since q then says x_1 more precisely than the model can guess it. A model that
has learned that images are integers loses by ending early, 1.4 bits at s = w, 0.07 at w/4. So s = w unless told.

More levels make a lower bound: a transition of small variance costs (SNR_s - SNR_t)/2 |x_0 - x̂_0(x_t)|², one bar of an
upper sum under a falling curve (Kingma et al. 2021, eq. 13 and appendix F), and as T -> ∞ the bars become

    ∫ -dSNR/dt |x_0 - x̂_0|²/2 dt        (their eq. 17; `jaxdiff.losses.weightings.Likelihood`)

whatever the variance. That integral is estimated by K times on [t_min, 1], one in each of K parts that count the same
for an even error of v, drawn anew for each example (`jaxdiff.losses.times.Importance`): unbiased for any K.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.sharding import Mesh

from jaxdiff.arrays import check_flag, check_shared, check_whole, example_keys, folded, normal
from jaxdiff.arrays.batches import over_all
from jaxdiff.arrays.mesh import check_mesh, copied, spread
from jaxdiff.denoisers import DenoiserLike, check_cond, check_denoiser, check_start, check_variance
from jaxdiff.denoisers.checks import check_answer
from jaxdiff.likelihood.dequantization import check_images
from jaxdiff.likelihood.estimate import condition_of
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.losses import transition_kl, velocity_error
from jaxdiff.losses.times import Importance, likelihood_rate
from jaxdiff.processes import expand_time
from jaxdiff.processes.grids import Grid, LogSNR, check_grid, check_one_time, check_times


@dataclasses.dataclass(frozen=True)
class VariationalBound:
    """The variational bound of a data set, term by term, in bits per dimension.

    prior, reconstruction: [n]. transitions: [n, T - 1], from noise to data, one column a step back; in continuous time
    one column a draw, that part's share of the integral. kind: what the number is.
    """

    kind: str
    prior: np.ndarray = dataclasses.field(repr=False)
    transitions: np.ndarray = dataclasses.field(repr=False)
    reconstruction: np.ndarray = dataclasses.field(repr=False)

    @property
    def per_example(self) -> np.ndarray:
        """The bound of each example, [n]."""
        return self.prior + self.transitions.sum(1, dtype=np.float64) + self.reconstruction

    @property
    def bits_per_dim(self) -> float:
        """The mean over examples."""
        return mean_of(self.per_example).mean

    @property
    def standard_error(self) -> float:
        """Of `bits_per_dim`, over examples: the spread of the images and of the noise together; NaN for one."""
        return mean_of(self.per_example).standard_error

    def __str__(self):
        terms = (self.prior, self.transitions.sum(1, dtype=np.float64), self.reconstruction)
        prior, transitions, reconstruction = (term.mean(dtype=np.float64) for term in terms)
        return (
            f"{self.bits_per_dim:.4f} +- {self.standard_error:.4f} bits/dim ({self.kind}; {len(self.prior)} examples; "
            f"prior {prior:.4f} + transitions {transitions:.4f} + reconstruction {reconstruction:.4f})"
        )


def log_cell(images, mean, std, levels: int) -> jax.Array:
    """log of the probability that N(mean, std²) gives the cell of each integer; the outer cells reach to infinity."""
    edge = lambda k: jnp.where(k <= 0, -jnp.inf, jnp.where(k >= levels, jnp.inf, (2 * k / levels - 1 - mean) / std))
    k = jnp.asarray(images, float)  # uint8 has no 256
    low, high = edge(k), edge(k + 1)
    low, high = jnp.where(low > -high, -high, low), jnp.where(low > -high, -low, high)  # into the lower tail
    mass = log_ndtr(high)
    return mass + jnp.log1p(-jnp.exp(log_ndtr(low) - mass))


def _terms(keys, denoiser, images, cond, bins, first, levels, cost):
    """(prior at t = `first`, transitions, reconstruction) in bits/dim, each [..., n], of integers below `bins`.

    `levels` = (t, ...), each [T, ...], are visited from noise to data: `cost(prediction, x0, noise, t, ...)` is a
    transition's, but at the last, where the integers are read.
    """
    process = denoiser.process
    x0 = 2 * (jnp.asarray(images, float) + 0.5) / bins - 1
    bits = lambda nats: jnp.mean(nats, axis=range(1, x0.ndim)) / math.log(2)

    def visit(_, indexed):
        index, (t, *rest) = indexed
        noise = normal(folded(keys, index), x0)
        alpha, sigma = (expand_time(c, x0) for c in process.marginal(t))
        prediction = denoiser(alpha * x0 + sigma * noise, t, cond)
        return prediction.data.astype(x0.dtype), bits(cost(prediction, x0, noise, t, *rest))

    data, costs = jax.lax.scan(visit, x0, (jnp.arange(len(levels[0])), levels))
    std = jnp.sin(expand_time(process.angle(levels[0][-1]), x0))
    reconstruction = -log_cell(images, data, std, bins)

    alpha, sigma = process.marginal(first)
    std = process.prior_std * process.scale(first) / process.scale(1.0)
    log_ratio = 2 * jnp.log(sigma / std)
    prior = (jnp.expm1(log_ratio) - log_ratio + (alpha * x0 / std) ** 2) / 2
    return bits(prior), costs[:-1], bits(reconstruction)


@functools.partial(jax.jit, static_argnames=("bins", "variance"))
def _discrete(keys, denoiser, images, cond, bins, times, variance):
    process = denoiser.process
    cost = lambda prediction, x0, noise, t, s: transition_kl(process, prediction, t, s, x0, noise, variance)
    return _terms(keys, denoiser, images, cond, bins, times[0], (times, jnp.append(times[1:], times[-1])), cost)


@functools.partial(jax.jit, static_argnames=("bins", "draws"))
def _continuous(keys, denoiser, images, cond, bins, draws, t_min):
    process = denoiser.process
    time_keys = folded(keys, draws + 1)
    t, factor = jax.vmap(lambda key: Importance(t_min)(key, process, draws))(time_keys)  # each [n, draws]
    weight = likelihood_rate(process, t) * factor / draws
    t, weight = (jnp.pad(a.T[::-1], ((0, 1), (0, 0)), constant_values=end) for a, end in ((t, t_min), (weight, 0.0)))

    def cost(prediction, x0, noise, t, weight):
        return expand_time(weight, x0) * velocity_error(process, prediction, t, x0, noise) ** 2

    return _terms(keys, denoiser, images, cond, bins, 1.0, (t, weight), cost)


def _report(compute, key, denoiser, images, levels, cond, batch_size, progress, kind, mesh) -> VariationalBound:
    images = check_images(images, levels, batch_size)
    keys, cond = example_keys(key, len(images)), check_cond(denoiser, cond, len(images))
    check_answer(denoiser, images.shape, cond)
    denoiser = copied(denoiser, mesh)

    def of(index):
        picked = keys[index], jnp.asarray(images[index]), jax.tree.map(lambda c: c[index], cond)
        batch_keys, batch, batch_cond = spread(picked, mesh)
        return compute(batch_keys, denoiser, batch, batch_cond, levels)

    size = min(batch_size, len(images))
    prior, transitions, reconstruction = over_all(of, np.arange(len(images)), size, progress, "bound", mesh)
    return VariationalBound(kind + condition_of(denoiser, cond), prior, transitions.T, reconstruction)


def _check(denoiser, levels, progress, mesh) -> None:
    """Raise for arguments that neither bound takes."""
    check_denoiser(denoiser)
    check_shared("denoiser", denoiser)
    check_whole("levels", levels, least=2)
    check_flag("progress", progress)
    check_mesh(mesh)


def _end(process, levels: int, t_min) -> jax.Array:
    """`t_min`, or the time where σ/α is the width of a cell, or the nearest to it that the process has."""
    if t_min is None:
        return process.time_at_log_snr(2 * math.log(max(levels, 2) / 2))
    t_min = check_one_time(t_min, "t_min")
    if process.marginal(t_min)[1] == 0:
        raise ValueError(f"t_min = {t_min}: no noise is left there to read the integers under; expected a time above")
    return t_min


def variational_bound(
    key,
    denoiser: DenoiserLike,
    images_uint8,
    steps: int = 1000,
    levels: int = 256,
    variance: str = "small",
    grid: Any = LogSNR(),
    t_min: float | None = None,
    batch_size: int = 64,
    cond: Any = None,
    progress: bool = False,
    mesh: Mesh | None = None,
) -> VariationalBound:
    """The bound on -log2 P(image)/D of integer images [n, *event] in 0..levels-1, for T = `steps` noise levels.

    The model is that of `jaxdiff.sample` with `Ancestral(variance)`, whose steps it takes, up to a last draw of the
    integers from x at `t_min`. `grid` is one of `jaxdiff.grids`, from t = 1 to `t_min`, or an array of decreasing
    times, taken as it stands. `t_min` None ends where σ/α is a cell wide, 2/levels: right for a model of dequantised
    images; one of the cells' middles may bear a smaller one. It costs T evaluations an image. Example i depends on
    `key` and i alone. `cond` has leaves [n, ...] or is None; `progress` shows a bar. A batch is split between the
    devices of `mesh`.

    Raises TypeError for images that are not integers; ValueError for values out of range, an empty set, fewer than two
    levels or one example a batch, times that do not decrease or end where there is no noise, an unknown variance or
    one that is not there, and a denoiser without an answer at the first time.
    """
    _check(denoiser, levels, progress, mesh)
    check_variance(variance)
    grid, steps = check_grid(grid), check_whole("steps", steps, least=2, noun="noise levels")
    if isinstance(grid, Grid):
        times = check_times(grid(denoiser.process, steps - 1, 1.0, _end(denoiser.process, levels, t_min)))
    else:
        if t_min is not None:
            raise ValueError("an array as grid ends where it ends; leave t_min out, or end the array there")
        times = grid
        _end(denoiser.process, levels, times[-1])
    check_start(denoiser, times[0])
    compute = functools.partial(_discrete, times=times, variance=variance)
    kind = f"variational bound, {len(times)} steps, {variance} variance"
    return _report(compute, key, denoiser, images_uint8, levels, cond, batch_size, progress, kind, mesh)


def continuous_bound(
    key,
    denoiser: DenoiserLike,
    images_uint8,
    draws: int = 128,
    levels: int = 256,
    t_min: float | None = None,
    batch_size: int = 64,
    cond: Any = None,
    progress: bool = False,
    mesh: Mesh | None = None,
) -> VariationalBound:
    """The same bound for T -> ∞ on [t_min, 1] (Kingma et al. 2021, eq. 15-17), by `draws` random times an image.

    It knows no grid and no variance. More draws move its mean not at all and its standard error down, as far as that is
    not the spread of the images. It costs `draws` + 1 evaluations an image. Arguments and errors are as for
    `variational_bound`; ValueError also for fewer than one draw.
    """
    _check(denoiser, levels, progress, mesh)
    draws = check_whole("draws", draws)
    check_start(denoiser, 1.0)
    compute = functools.partial(_continuous, draws=draws, t_min=_end(denoiser.process, levels, t_min))
    kind = f"variational bound, continuous time, {draws} draws"
    return _report(compute, key, denoiser, images_uint8, levels, cond, batch_size, progress, kind, mesh)
