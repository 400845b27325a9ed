r"""The scores of a drawing of a cat: learned in three ways, and exact.

    python experiments/scores_of_a_cat.py        about 2 minutes on two cores; run again to plot only

The data are 4,000 points on the lines of a cat's face. At noise level σ their density is a mixture of 4,000 Gaussians,
whose score is known and minimises every loss used here. One network is fitted in three ways:

    denoising   v-prediction, `Denoising`
    sliced      v-prediction, `SlicedScoreMatching`: the same expectation of the error of ε, without ε as a target
    NCSN        noise-prediction, `Denoising`: a noise-conditional score network, sampled by annealed Langevin
                dynamics (Song and Ermon 2019, 2020)

Expect, as the root of E|s - exact|² / E|exact|² over x_t,

    σ           0.05   0.15    0.4    1.0
    denoising   0.23   0.13   0.08   0.04
    sliced      0.28   0.17   0.14   0.08
    NCSN        0.25   0.13   0.08   0.04

and in runs/cat: scores.png, the fields over the exact density; samples.png; and langevin.png, intermediate states of
annealed Langevin dynamics. (The exact scores of 4,000 and of 20,000 points differ by 0.23, 0.13, 0.06 and 0.02.)
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.networks import MLP, initialize
from jaxdiff.plotting import ORANGE, Density, Field, Points, panels, plane
from jaxdiff.samplers import AnnealedLangevin, DPMSolverPP, PredictorCorrector

FOLDER = Path("runs/cat")
POINTS, STEPS, BATCH = 4000, 5000, 512
PROCESS = jd.VE(sigma_min=0.02, sigma_max=5.0)
SIGMAS = (0.05, 0.15, 0.4, 1.0)
FITS = {
    "denoising": ("v", jd.losses.Denoising()),
    "sliced": ("v", jd.losses.SlicedScoreMatching()),
    "NCSN": ("noise", jd.losses.Denoising()),
}
LEVELS, STEPS_PER_LEVEL = 25, 40
WAVES = 3 * np.random.default_rng(0).standard_normal((2, 32))


def network_on_waves(key):
    """An MLP with Fourier features of the coordinates as further inputs; fine lines are slow to learn without them."""
    mlp, params = initialize(key, lambda rngs: MLP(2 + 2 * WAVES.shape[1], rngs=rngs))

    def network(params, x, c_noise, cond):
        phase = x @ jnp.asarray(WAVES, x.dtype)
        seen = jnp.concatenate([x, jnp.cos(phase), jnp.sin(phase)], axis=1)
        return mlp(params, seen, c_noise, cond)[:, :2]

    return network, params


def fit(name, data):
    parameterization, loss = FITS[name]
    network, params = network_on_waves(jax.random.key(0))
    return jd.training.train(
        jax.random.key(1),
        FOLDER / name,
        jd.Denoiser(network, params, PROCESS, parameterization, data_std=1.0),
        loss,
        jd.data.batches({"x": np.asarray(data)}, BATCH, seed=0),
        steps=STEPS,
        optimizer=jd.training.clipped_adam(STEPS, 3e-3),
        checkpoint_every=STEPS,
    )


def time_of(sigma):
    return PROCESS.time_at_log_snr(-2 * np.log(sigma))


def score_errors(fits, exact, data):
    """{name: [levels]} relative errors over x_t."""
    errors = {name: [] for name in fits}
    for sigma in SIGMAS:
        x, _ = jd.perturb(jax.random.key(2), PROCESS, data, time_of(sigma))
        truth = jd.score(exact, x, time_of(sigma))
        for name, model in fits.items():
            error = jd.score(model, x, time_of(sigma)) - truth
            errors[name].append(float(jnp.linalg.norm(error) / jnp.linalg.norm(truth)))
    return errors


def picture_scores(fits, exact, errors):
    """Plot a row for each model, a column for each noise level: arrows over the exact density, scaled to its mode."""
    at = jnp.asarray(plane(2.5, 120))
    log_prob = jax.jit(lambda t: jax.lax.map(lambda x: exact.log_prob(x[None], t)[0], at, batch_size=480))
    densities = {sigma: np.asarray(log_prob(time_of(sigma))) for sigma in SIGMAS}
    pictures = {}
    for name, model in ({"exact": exact} | fits).items():
        for i, sigma in enumerate(SIGMAS):
            error = f", error {errors[name][i]:.0%}" if name in errors else ""
            field = lambda x, model=model, t=time_of(sigma): jd.score(model, jnp.asarray(x), t)
            layers = [Density(densities[sigma] - densities[sigma].max()), Field(field, arrows=24, color=ORANGE)]
            pictures[f"{name}, σ = {sigma}{error}"] = layers
    panels(pictures, FOLDER / "scores.png")


def main():
    data = jd.data.cat(jax.random.key(0), POINTS)
    exact = jd.exact.Empirical(PROCESS, data)
    fits = {name: fit(name, data) for name in FITS}

    errors = score_errors(fits, exact, data)
    print("relative error of the score at σ =" + "".join(f"{sigma:>7}" for sigma in SIGMAS))
    for name, values in errors.items():
        print(f"{name:>34}" + "".join(f"{value:7.3f}" for value in values))
    picture_scores(fits, exact, errors)

    draw = lambda name, sampler, steps, **more: jd.sample(
        jax.random.key(3), fits[name], data.shape, sampler, steps, **more
    )
    path = draw("NCSN", AnnealedLangevin(STEPS_PER_LEVEL), LEVELS, trajectory=True)
    samples = {
        "data": data,
        f"NCSN: annealed Langevin, {LEVELS} x {STEPS_PER_LEVEL}": path[-1],
        f"denoising: DPM-Solver++, {LEVELS}": draw("denoising", DPMSolverPP(), LEVELS),
        "sliced: predictor-corrector, 100": draw("sliced", PredictorCorrector(), 100),
    }
    panels({name: Points(x) for name, x in samples.items()}, FOLDER / "samples.png")
    sigmas = np.asarray(PROCESS.marginal(jd.grids.LogSNR()(PROCESS, LEVELS))[1])
    shown = [0, 6, 9, 12, 15, 18, 21, 24]
    on_the_way = {f"σ = {sigmas[i]:.2g}": Points(path[i]) for i in shown[:-1]} | {"denoised": Points(path[-1])}
    panels(on_the_way, FOLDER / "langevin.png")


if __name__ == "__main__":
    main()
