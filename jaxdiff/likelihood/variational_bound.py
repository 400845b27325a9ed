r"""The variational bound: a diffusion model as a hierarchical VAE.

Over noise levels t_T > ... > t_1 the model draws x from the prior at t_T, steps back by p(x_s | x_t), and draws the
data given x at t_1 (Ho et al. 2020, eq. 5). With q the forward process from x_0, Jensen's inequality gives

    -log P(data) <= KL(q(x_T | x_0) || p(x_T))                                      prior
                    + Σ_{i >= 2} E KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i))    transitions
                    + E -log P(data | x_1)                                          reconstruction

whose terms the process gives (`jaxdiff.processes`), in closed form except for the noise in x_t, one draw of it for each
example and level.

Where to end, for integers as continuous values. Under a density that is flat over a cell of width w, as in a model of
dequantised images, ending at σ/α = s costs E -log P(x_0 | x_1) - log(2πe s²)/2 too much: 0.002 bits for s = w, 0.03 for
w/2, 0.23 for w/4, 0.6 for w/6 (λ_max = 13.3 of Kingma et al. 2021), since q then determines x_1 more precisely than the
model can predict it. A model that has learned that images are integers loses by ending early, 1.4 bits at s = w, 0.07
at w/4. The default is s = w. Categories are data at t = 0 itself: their last step goes there.

More levels lower the bound: a transition costs one bar of an upper sum over a decreasing curve (Kingma et al. 2021,
eq. 13 and appendix F), and as T -> ∞ the bars become the integral of the process's error times its rate,

    ∫ error d log(σ/q)/dt dt        (their eq. 17; Sahoo et al. 2024, eq. 10)

whatever the variance and, at the optimum, the schedule. That integral is estimated by K times on [t_min, 1], one in
each of K parts that contribute equally for a constant error, drawn anew for each example
(`jaxdiff.losses.times.Importance`): unbiased for any K. From t_min the data are drawn in one step.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff.arrays import Precision, check_whole, expand_time, folded
from jaxdiff.denoisers import DenoiserLike, check_start
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.likelihood.values import Batches, OfValues, checked, nats_of
from jaxdiff.losses.counted import noised, paid
from jaxdiff.losses.times import Importance
from jaxdiff.processes import Process, check_variance, with_variance
from jaxdiff.processes.grids import Grid, check_grid, check_one_time

_EARLY = 1e-3  # the end of the integral for a process whose bound goes on to the data


@dataclasses.dataclass(frozen=True)
class VariationalBound(OfValues):
    """The variational bound of a data set, term by term, in bits per dimension.

    Attributes:
        kind: description of the bound.
        prior: `[n]`.
        transitions: `[n, T - 1]`, from noise to data, one column a step back; in continuous time one column a draw, its
            share of the integral.
        reconstruction: `[n]`.
        counted: number of values of each example that count, `[n]`, by which its bits are divided; None if all count.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [[0.5, 0.0], [0.0, 0.5]])
        >>> found = jd.variational_bound(jax.random.key(0), denoiser, jnp.array([[0, 0], [1, 1]]), steps=5)
        >>> found.transitions.shape, found.per_example.shape
        ((2, 4), (2,))
    """

    kind: str
    prior: np.ndarray = dataclasses.field(repr=False)
    transitions: np.ndarray = dataclasses.field(repr=False)
    reconstruction: np.ndarray = dataclasses.field(repr=False)
    counted: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def per_example(self) -> np.ndarray:
        """The bound of each example, bits a value that counts, [n]."""
        return self.prior + self.transitions.sum(1, dtype=np.float64) + self.reconstruction

    def __str__(self):
        terms = (self.prior, self.transitions.sum(1, dtype=np.float64), self.reconstruction)
        prior, transitions, reconstruction = (mean_of(term.astype(np.float64), self.counted).mean for term in terms)
        return (
            f"{self.bits_per_dim:.4f} +- {self.standard_error:.4f} bits/dim ({self.kind}; {len(self.prior)} examples; "
            f"prior {prior:.4f} + transitions {transitions:.4f} + reconstruction {reconstruction:.4f})"
        )


def _sum(process: Process, weight, nats) -> jax.Array:
    """Nats of each value, summed over the values of an example that count, of all its parts: [n]."""
    parts = process.split(paid(process, weight, nats))
    return functools.reduce(jnp.add, (part.sum(range(1, part.ndim)) for part in parts))


def _terms(keys, denoiser, data, cond, weight, levels, first, visited, cost):
    """(prior at t = `first`, transitions, reconstruction) in nats, each [..., n].

    `visited` = (t, ...), each [T, ...], go from noise to data. `cost(prediction, truth, x, t, ...)` is the cost of a
    transition; the last time gives the reconstruction instead.
    """
    process = denoiser.process
    levels = process.joined(levels)
    x0 = process.clean(data, levels)

    def visit(_, step):
        index, (t, *rest) = step
        x, truth = noised(process, folded(keys, index), x0, t, weight)
        prediction = denoiser(x, t, cond)
        return prediction, _sum(process, weight, cost(prediction, truth, x, t, *rest))

    steps = jnp.arange(len(visited[0])), visited
    answer = jax.eval_shape(visit, None, jax.tree.map(lambda leaf: leaf[0], steps))[0]
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), answer)
    prediction, costs = jax.lax.scan(visit, nothing, steps)
    reconstruction = _sum(process, weight, process.reconstruction(prediction, data, x0, visited[0][-1], levels))
    return _sum(process, weight, process.prior_kl(x0, first)), costs[:-1], reconstruction


@functools.partial(jax.jit, static_argnames=("levels", "variance"))
def _discrete(keys, denoiser, data, cond, weight, levels, times, variance):
    def cost(prediction, truth, x, t, s):
        return denoiser.process.kl(with_variance(prediction, variance), truth, x, t, s)

    visited = times, jnp.append(times[1:], times[-1])
    return _terms(keys, denoiser, data, cond, weight, levels, times[0], visited, cost)


@functools.partial(jax.jit, static_argnames=("levels", "draws"))
def _continuous(keys, denoiser, data, cond, weight, levels, draws, t_min):
    process = denoiser.process
    time_keys = folded(keys, draws + 1)
    t, factor = jax.vmap(lambda key: Importance(t_min)(key, process, draws))(time_keys)  # each [n, draws]
    t, factor = (jnp.pad(a.T[::-1], ((0, 1), (0, 0)), constant_values=end) for a, end in ((t, t_min), (factor, 0.0)))

    def cost(prediction, truth, x, t, factor):
        parts = zip(process.processes, process.split(process.error(prediction, truth, x, t)))
        return process.joined([expand_time(part.rate(t) * factor / draws, error) * error for part, error in parts])

    return _terms(keys, denoiser, data, cond, weight, levels, 1.0, (t, factor), cost)


def _report(compute, key, denoiser, data, levels, cond, weight, kind, batches: Batches) -> VariationalBound:
    of = lambda *given: compute(*given, levels)
    nats, counted, note = nats_of(of, key, denoiser, data, cond, weight, "bound", batches)
    prior, transitions, reconstruction = nats
    return VariationalBound(kind + note, prior, transitions.T, reconstruction, counted)


def _levels(process: Process, levels) -> tuple:
    """The levels of each part."""
    return tuple([None] * len(process.processes) if levels is None else process.split(levels, "levels"))


def _end(process: Process, levels, t_min) -> jax.Array | None:
    """`t_min`, or where the process's bound ends; None is at the data."""
    if t_min is None:
        return process.last_time(levels)
    t_min = check_one_time(t_min, "t_min")
    if process.log_snr(t_min) == jnp.inf:
        raise ValueError(f"t_min = {t_min}: no noise is left there for the reconstruction; expected a later time")
    return t_min


def variational_bound(
    key,
    denoiser: DenoiserLike,
    data,
    steps: int = 1000,
    levels: Any = None,
    variance: str = "small",
    grid: Any = None,
    t_min: float | None = None,
    batch_size: int = 64,
    cond: Any = None,
    progress: bool = False,
    mesh: Mesh | None = None,
    precision: Precision | None = None,
    weight: Any = None,
) -> VariationalBound:
    """Compute the variational bound on -log2 P(data)/D, with D values an example, by a number of noise levels.

    The model is that of `jaxdiff.sample` with `Ancestral(variance)`, followed by a draw of the data given x at `t_min`.
    It takes `steps` network evaluations an example. Example i depends on `key` and i alone.

    Args:
        key: a typed key, or n keys, one an example.
        denoiser: any denoiser.
        data: integers in 0..levels-1 for continuous processes, categories, or for a product a tree of both;
            `[n, *event]`.
        steps: number T of noise levels, at least 2.
        levels: number of integer levels (None: 256); for a product a tree.
        variance: variance of a step, as in `jaxdiff.samplers.Ancestral`.
        grid: one of `jaxdiff.grids` from t = 1 to `t_min`, or an array of decreasing times. None is equal steps in t
            for categories and in log-SNR for everything else.
        t_min: last noise level. None is where σ/α is the width of a cell, 2/levels, right for a model of dequantised
            images; a model of the cells' midpoints may take a smaller one. Categories go on to the data.
        batch_size: examples evaluated at once.
        cond: condition, leaves `[n, ...]`.
        progress: show a progress bar.
        mesh: devices that each batch is split between.
        precision: of the network's float32 products, as in `jaxdiff.sample`.
        weight: of the structure of `data`, 1 for values that count and 0 for those that are given, such as a prompt or
            padding. The bound is then that of the values that count, given the others (`jaxdiff.losses.counted`).

    Returns:
        A `VariationalBound`.

    Raises:
        TypeError: for data that are not integers.
        ValueError: for values out of range, an empty set, fewer than two noise levels or one example a batch, an
            example without a value that counts, times that do not decrease or end without noise, a variance that the
            denoiser does not have, or a denoiser that is undefined at the first time.

    Source:
        Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 5.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [[0.5, 0.0], [0.0, 0.5]])
        >>> found = jd.variational_bound(jax.random.key(0), denoiser, jnp.array([[0, 0], [1, 1]]), steps=5)
        >>> found.per_example.shape
        (2,)
    """
    batches = Batches(batch_size, progress, mesh, precision)
    data, parts = checked(denoiser, data, levels, batches), _levels(denoiser.process, levels)
    check_variance(variance)
    process = denoiser.process
    grid = check_grid(process.bound_grid if grid is None else grid)
    steps = check_whole("steps", steps, least=2, noun="noise levels")
    if isinstance(grid, Grid):
        end = _end(process, levels, t_min)
        times = grid(process, steps, 1.0) if end is None else grid(process, steps - 1, 1.0, end)
    else:
        if t_min is not None:
            raise ValueError("t_min was given, but an array as grid sets it; leave t_min out, or end the array there")
        times = grid
        process.check_times(lambda: times)
        _end(process, levels, times[-1])
    check_start(denoiser, times[0])
    compute = functools.partial(_discrete, times=times, variance=variance)
    kind = f"variational bound, {len(times)} steps, {variance} variance"
    return _report(compute, key, denoiser, data, parts, cond, weight, kind, batches)


def continuous_bound(
    key,
    denoiser: DenoiserLike,
    data,
    draws: int = 128,
    levels: Any = None,
    t_min: float | None = None,
    batch_size: int = 64,
    cond: Any = None,
    progress: bool = False,
    mesh: Mesh | None = None,
    precision: Precision | None = None,
    weight: Any = None,
) -> VariationalBound:
    """Estimate the variational bound in continuous time, T -> ∞ on [t_min, 1], by random times.

    It depends on no grid and no variance. More draws do not change its mean; they reduce the standard error as far as
    that is not the spread of the examples. It takes `draws` + 1 network evaluations an example.

    Args:
        key: a typed key, or n keys, one an example.
        denoiser: any denoiser.
        data: as in `variational_bound`.
        draws: number of random times an example.
        levels: as in `variational_bound`.
        t_min: as in `variational_bound`, but None is 0.001 for categories.
        batch_size: examples evaluated at once.
        cond: condition, leaves `[n, ...]`.
        progress: show a progress bar.
        mesh: devices that each batch is split between.
        precision: of the network's float32 products, as in `jaxdiff.sample`.
        weight: as in `variational_bound`.

    Returns:
        A `VariationalBound`, with one column of transitions a draw.

    Raises:
        ValueError: for fewer than one draw, and as in `variational_bound`.

    Source:
        Kingma et al. 2021, "Variational diffusion models", eq. 15-17.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> denoiser = jd.exact.Table(jd.Absorbing(2), [[0.5, 0.0], [0.0, 0.5]])
        >>> found = jd.continuous_bound(jax.random.key(0), denoiser, jnp.array([[0, 0], [1, 1]]), draws=8)
        >>> found.transitions.shape
        (2, 8)
    """
    batches = Batches(batch_size, progress, mesh, precision)
    data, parts = checked(denoiser, data, levels, batches), _levels(denoiser.process, levels)
    draws = check_whole("draws", draws)
    check_start(denoiser, 1.0)
    end = _end(denoiser.process, levels, t_min)
    compute = functools.partial(_continuous, draws=draws, t_min=jnp.asarray(_EARLY) if end is None else end)
    kind = f"variational bound, continuous time, {draws} draws"
    return _report(compute, key, denoiser, data, parts, cond, weight, kind, batches)
