"""The picture of the home page: noise on the left becomes data on the right, in closed form.

    python docs/pictures/home.py        a minute on two cores; docs/pictures/home.png

The data are a mixture of five Gaussians on a line, for which `jd.exact.Mixture` knows the density of x_t at every t.
Its colour fills the picture, each column scaled to its maximum. White: samples along the probability flow (DDIM).
Orange: four of the same starts along the reverse SDE (Euler-Maruyama).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

import jaxdiff as jd
from jaxdiff.plotting import Picture

DEPTH = LinearSegmentedColormap.from_list("depth", ["#0b1020", "#14284b", "#1f5b8c", "#56a3c9", "#dff1f5"])
WEIGHTS, MEANS, STDS = [0.16, 0.26, 0.2, 0.24, 0.14], [-2.1, -1.0, 0.05, 1.05, 2.15], [0.1, 0.16, 0.09, 0.14, 0.12]


def main():
    """Draw the picture into the folder of this file."""
    process = jd.VP()
    means, covariances = np.array(MEANS)[:, None], np.array(STDS)[:, None, None] ** 2
    denoiser = jd.exact.Mixture(process, np.array(WEIGHTS), means, covariances)
    times = jd.grids.Angle()(process, 400, 1.0, 1e-4)

    x = jnp.linspace(-3.1, 3.1, 500)
    density = np.exp(np.asarray(jax.vmap(lambda t: denoiser.log_prob(x[:, None], t))(times)))
    density = (density / density.max(1, keepdims=True)) ** 0.6

    def paths(sampler, start):
        key, shape = jax.random.key(4), (len(start), 1)
        return jd.sample(key, denoiser, shape, sampler, grid=times, x_start=start[:, None], trajectory=True)[..., 0]

    start = jnp.linspace(-2.4, 2.4, 25)
    across = np.linspace(0, 1, len(times))
    picture = Picture(16, 5)
    axes = picture.add_axes((0, 0, 1, 1))
    axes.pcolormesh(across, np.asarray(x), density.T, cmap=DEPTH, shading="gouraud", rasterized=True)
    axes.plot(across, paths(jd.samplers.EulerMaruyama(), start[3::6]), color="#ff9a4d", linewidth=0.9, alpha=0.9)
    axes.plot(across, paths(jd.samplers.DDIM(), start), color="white", linewidth=0.9, alpha=0.5)
    axes.set(xlim=(0, 1), ylim=(-3.1, 3.1))
    axes.set_axis_off()
    picture.savefig(Path(__file__).with_name("home.png"), dpi=100)


if __name__ == "__main__":
    main()
