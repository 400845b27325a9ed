"""A swiss roll on a grid of 32 x 32 cells under three kernels: masks, uniform noise, and steps to neighbours.

    python experiments/swiss_roll_discrete.py        18 minutes of CPU time; the picture in runs/swiss_roll_discrete

Expect bounds that are above the entropy of the cells, 5.0773 nats, by less than 0.03 nats,

    masks            0.0075 ± 0.0009
    uniform noise    0.0242 ± 0.0020
    neighbours       0.0137 ± 0.0017
    D3PM's table     0.0130 ± 0.0013, and what 100 steps cost

The difference is one to the bound of the exact denoiser, of the same points and the same noise, whose expectation in
continuous time is the entropy; it is far less noisy than the bound itself. In 100 steps the exact denoiser's own bound
is above the entropy: by 0.032 ± 0.014 here, beside -0.018 to -0.049 ± 0.02 to 0.03 of the others on these points.

A point is two categories, its row and its column (Austin et al. 2021, "Structured denoising diffusion models in
discrete state-spaces", figure 1). The probability of each cell is an integral along the roll, so data are drawn from
the cells themselves, and the entropy is exact. The picture shows the exact law of x_t as noise grows, then samples as
it is taken away; masks lie on the last row and column. Its last line is the paper's own Gaussian kernel, a table of 100
steps.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import optax
import tyro
from scipy.stats import norm

import jaxdiff as jd
from jaxdiff import plotting
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.losses import Bound, Steps
from jaxdiff.networks import MLP, initialize
from jaxdiff.processes import gaussian_transitions
from jaxdiff.training import train

FOLDER = Path("runs/swiss_roll_discrete")
CELLS, EXTENT, NOISE = 32, 2.3, 0.05
STEPS = 100
TABLE = gaussian_transitions(np.geomspace(1e-3, 1.0, STEPS), CELLS)
SLOW = jd.schedules.Polynomial(3.0)  # α is what is left of the slowest wave; fine detail is gone long before it
KERNELS = {  # the process, its bound as a loss, and the bound
    "masks": (jd.Absorbing(CELLS), Bound(), functools.partial(jd.continuous_bound, draws=16)),
    "uniform": (jd.Multinomial(CELLS), Bound(), functools.partial(jd.continuous_bound, draws=16)),
    "neighbours": (jd.DiscretizedGaussian(CELLS, SLOW), Bound(), functools.partial(jd.continuous_bound, draws=16)),
    "D3PM's table": (jd.from_transitions(TABLE), Steps(STEPS), functools.partial(jd.variational_bound, steps=STEPS)),
}
TIMES = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def law() -> np.ndarray:
    """The probability of each cell, [rows, columns], of `jaxdiff.data.swiss_roll`: an integral over its angle."""
    angle = 1.5 * np.pi * (1 + 2 * (np.arange(20_000) + 0.5) / 20_000)
    edges = np.linspace(-EXTENT, EXTENT, CELLS + 1)
    edges[[0, -1]] = -np.inf, np.inf
    along = [np.diff(norm.cdf(edges, (angle / 7 * wave(angle))[:, None], NOISE)) for wave in (np.sin, np.cos)]
    return along[0].T @ along[1] / len(angle)


def draw(rng, cells: np.ndarray, n: int) -> np.ndarray:
    """n points [n, 2], each a row and a column."""
    return np.stack(np.divmod(rng.choice(cells.size, n, p=cells.ravel()), CELLS), 1).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Batches:
    """New points for every step."""

    cells: np.ndarray
    size: int

    def __getitem__(self, step):
        return {"x": draw(np.random.default_rng((1, step)), self.cells, self.size)}


def model(process: jd.processes.Discrete, width: int) -> jd.Denoiser:
    """A perceptron that reads both categories as indicators; it sees a mask as none."""
    network, params = initialize(jax.random.key(0), lambda rngs: MLP((2, CELLS), (width,) * 3, rngs=rngs))
    shown = lambda params, x, c_noise, cond: network(params, jax.nn.one_hot(x, CELLS), c_noise)
    return jd.Denoiser(shown, params, process)


def noised(cells: np.ndarray, process: jd.processes.Discrete, t: float) -> np.ndarray:
    """The law of x_t, [states, states]: both categories are noised by one kernel."""
    kernel = np.exp(np.asarray(process.log_kernel(t)))
    return kernel @ cells @ kernel.T


def picture(law: np.ndarray, darkest: float) -> np.ndarray:
    """A law of cells as a picture, darker where it is likelier; one with masks and one without are of one size."""
    shade = np.zeros((CELLS + 1, CELLS + 1))
    shade[: law.shape[0], : law.shape[1]] = law
    return (1 - 2 * np.clip(np.sqrt(shade / darkest), 0, 1))[..., None].astype(np.float32)


def seen(points: np.ndarray) -> np.ndarray:
    """The shares of points [n, 2] in cells and masks."""
    return np.histogramdd(points, [np.arange(CELLS + 2) - 0.5] * 2)[0] / len(points)


def nats_of(bound_of, denoiser, points: np.ndarray) -> np.ndarray:
    """A bound in nats a point, [n], with the same noise for every denoiser."""
    return bound_of(jax.random.key(2), denoiser, points, batch_size=1_000).per_example * 2 * np.log(2)


def backward(denoiser: jd.Denoiser, n: int, steps: int = STEPS) -> np.ndarray:
    """n samples on their way, [times, n, 2], where t is one of `TIMES`, from noise to data."""
    grid = np.linspace(1, 0, steps + 1)
    sampler = jd.samplers.Ancestral()
    path = jd.sample(jax.random.key(3), denoiser, (n, 2), sampler, grid=grid, trajectory=True)
    return np.asarray(path)[np.rint((1 - TIMES[::-1]) * steps).astype(int)]


def main(steps: int = 10_000, width: int = 256, points: int = 8_000, folder: Path = FOLDER) -> dict[str, tuple]:
    """Train a model of each kernel, and print its bound beside the entropy of the cells.

    Args:
        steps: Training steps of each.
        width: Of the three layers of each network.
        points: How many points are scored, and how many are drawn for the picture.
        folder: That of the runs and of the picture.
    """
    cells = law()
    entropy = -np.sum(cells * np.log(np.maximum(cells, 1e-300)))
    test = draw(np.random.default_rng(0), cells, points)
    print(f"entropy of the cells: {entropy:.4f} nats; uniform cells: {2 * np.log(CELLS):.4f}")
    found, rows = {}, []
    for name, (process, loss, bound_of) in KERNELS.items():
        denoiser = train(
            jax.random.key(1),
            folder / name.replace("'", ""),
            model(process, width),
            loss,
            Batches(cells, 512),
            steps=steps,
            optimizer=optax.adam(optax.cosine_decay_schedule(2e-3, steps)),
            ema_decay=0.999,
        )
        nats, least = (nats_of(bound_of, asked, test) for asked in (denoiser, jd.exact.Table(process, cells)))
        found[name] = mean_of(nats - least), mean_of(least + np.log(cells[*test.T]))
        above, exact = (f"{figure.mean:.4f} ± {figure.standard_error:.4f}" for figure in found[name])
        print(
            f"{name:>12}: {nats.mean():.4f} nats, {above} above the exact denoiser's bound, which is "
            f"{exact} above -log p",
            flush=True,
        )
        laws = [noised(cells, process, t) for t in TIMES] + [seen(x) for x in backward(denoiser, points)]
        rows.append(np.stack([picture(law, cells.max()) for law in laws]))
    plotting.strip(np.stack(rows), folder / "kernels.png", np.concatenate([TIMES, TIMES[::-1]]), list(KERNELS), "cells")
    return found


if __name__ == "__main__":
    tyro.cli(main)
