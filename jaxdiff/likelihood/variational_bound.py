r"""The variational bound: a diffusion model as a hierarchical VAE.

Over noise levels t_T > ... > t_1 the model draws x from the prior at t_T, steps back by p(x_s | x_t), and reads the
data off x at t_1 (Ho et al. 2020, eq. 5). With q the process's own way from x_0, Jensen's inequality gives

    -log P(data) <= KL(q(x_T | x_0) || p(x_T))                                      prior
                    + Σ_{i >= 2} E KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i))    transitions
                    + E -log P(data | x_1)                                          reconstruction

all of them the process's own (`jaxdiff.processes`), and in closed form but for the noise in x_t, of which each example
gets one draw a level.

Where to end, for integers read as numbers. Under a density that is flat over a cell of width w, as a model of
dequantised images has it, ending at σ/α = s costs E -log P(x_0 | x_1) - log(2πe s²)/2 too much: 0.002 bits for s = w,
0.03 for w/2, 0.23 for w/4, 0.6 for w/6 (λ_max = 13.3 of Kingma et al. 2021), since q then says x_1 more precisely than
the model can guess it. A model that has learned that images are integers loses by ending early, 1.4 bits at s = w, 0.07
at w/4. So s = w unless told. Categories are data at t = 0 itself: their last step goes there.

More levels make a lower bound: a transition costs one bar of an upper sum under a falling curve (Kingma et al. 2021,
eq. 13 and appendix F), and as T -> ∞ the bars become the integral of the process's error times its rate,

    ∫ error d log(σ/q)/dt dt        (their eq. 17; Sahoo et al. 2024, eq. 10)

whatever the variance and, at the optimum, the schedule. That integral is estimated by K times on [t_min, 1], one in
each of K parts that count the same for an even error, drawn anew for each example (`jaxdiff.losses.times.Importance`):
unbiased for any K. Below t_min the data are read in one step.
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

_EARLY = 1e-3  # where the integral ends for a process whose bound goes on to the data


@dataclasses.dataclass(frozen=True)
class VariationalBound(OfValues):
    """The variational bound of a data set, term by term, in bits per dimension.

    prior, reconstruction: [n]. transitions: [n, T - 1], from noise to data, one column a step back; in continuous time
    one column a draw, that part's share of the integral. kind: what the number is. counted: [n], how many values of
    each example count, by which its bits are divided; None where all do.
    """

    kind: str
    prior: np.ndarray = dataclasses.field(repr=False)
    transitions: np.ndarray = dataclasses.field(repr=False)
    reconstruction: np.ndarray = dataclasses.field(repr=False)
    counted: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def per_example(self) -> np.ndarray:
        """The bound of each example, bits a value of it that counts, [n]."""
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

    `visited` = (t, ...), each [T, ...], go from noise to data: `cost(prediction, truth, x, t, ...)` is a transition's,
    but at the last, where the data are read.
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
    """`t_min`, or where the process's bound ends; None: at the data."""
    if t_min is None:
        return process.last_time(levels)
    t_min = check_one_time(t_min, "t_min")
    if process.log_snr(t_min) == jnp.inf:
        raise ValueError(f"t_min = {t_min}: no noise is left there to read the data under; expected a time above")
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
    """The bound on -log2 P(data)/D, D the values of an example, for T = `steps` noise levels.

    The model is that of `jaxdiff.sample` with `Ancestral(variance)`, whose steps it takes, up to a last draw of the
    data from x at `t_min`. `data` are those of the process: for numbers integer images [n, *event] in 0..levels-1 (256
    unless given), for categories themselves, for a product a tree of both, and `levels` one too. `grid` is one of
    `jaxdiff.grids` from t = 1 to `t_min` (None: equal steps in t for categories, in log-SNR for all else), or an array
    of decreasing times, taken as it stands. `t_min` None ends where σ/α is a cell wide, 2/levels: right for a model of
    dequantised images; one of the cells' middles may bear a smaller one; categories go on to the data. It costs T
    evaluations an example. Example i depends on `key` and i alone. `cond` has leaves [n, ...] or is None; `progress`
    shows a bar. A batch is split between the devices of `mesh`. `precision` is that of `jaxdiff.sample`. `weight`, of
    the form of `data`, is 1 where a value counts and 0 where it is given, as a prompt or padding is: the bound is then
    that of the values that count, given the others (`jaxdiff.losses.counted`).

    Raises TypeError for data that are not integers; ValueError for values out of range, an empty set, fewer than two
    levels or one example a batch, an example of which nothing counts, times that do not decrease or end where there is
    no noise, an unknown variance or one that is not there, and a denoiser without an answer at the first time.
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
            raise ValueError("an array as grid ends where it ends; leave t_min out, or end the array there")
        times = grid
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
    """The same bound for T -> ∞ on [t_min, 1] (Kingma et al. 2021, eq. 15-17), by `draws` random times an example.

    It knows no grid and no variance. More draws move its mean not at all and its standard error down, as far as that is
    not the spread of the examples. It costs `draws` + 1 evaluations an example. `t_min` of categories is 0.001 unless
    given. Arguments and errors are as for `variational_bound`; ValueError also for fewer than one draw.
    """
    batches = Batches(batch_size, progress, mesh, precision)
    data, parts = checked(denoiser, data, levels, batches), _levels(denoiser.process, levels)
    draws = check_whole("draws", draws)
    check_start(denoiser, 1.0)
    end = _end(denoiser.process, levels, t_min)
    compute = functools.partial(_continuous, draws=draws, t_min=jnp.asarray(_EARLY) if end is None else end)
    kind = f"variational bound, continuous time, {draws} draws"
    return _report(compute, key, denoiser, data, parts, cond, weight, kind, batches)
