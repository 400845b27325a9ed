r"""Error against evaluations for every sampler, on mixtures whose flow and density are known.

    python experiments/solvers.py        3 minutes on two cores; the table and runs/solvers/solvers.{png,json}

Two closed-form mixtures under VP, each sampler on its own grid from pure noise to clean data: eight Gaussians in the
plane, and eight Gaussians in 64 dimensions whose covariances have spectra like those of 8 x 8 images.

    flow   deterministic samplers: the root mean squared distance of their results to the exact flow's from the same
           noise, over the standard deviation of the data
    law    every sampler: the kernel distance (MMD) of 4,000 samples to the mixture itself, in closed form over the
           mixture: for k(x, y) = exp(-|x - y|²/2h²), E k(x, y) = (2πh²)^{D/2} Σ w N(x; m, C + h² I). True samples score
           the floor, about 1/√4000.

Expect, in 64 dimensions after about 12, 25, 50 and 100 evaluations,

    flow  DDIM               0.24    0.16    0.10    0.063
          Heun               0.20    0.11    0.070   0.033
          DPM-Solver++ 2M    0.19    0.081   0.037   0.024
          DPM-Solver++ 3M    0.14    0.055   0.021   0.0076
          UniPC-2            0.15    0.055   0.019   0.0076
          UniPC-3            0.14    0.048   0.0078  0.0076
    law   DPM-Solver++ 2M    0.024   0.016   0.015   0.015       floor 0.015
          Ancestral          0.13    0.074   0.042   0.027
          Euler-Maruyama     0.022   0.018   0.014   0.019
          reverse SDE, SRA1  0.12    0.051   0.028   0.018

0.0076 is the error of the last step, which takes the denoiser's prediction at t = 0.001 for the end of the flow.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

import jaxdiff as jd
from jaxdiff.plotting import FAINT, GREY, INK, Picture
from jaxdiff.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    ReverseSDE,
    UniPC,
)

FOLDER, N, PROCESS = Path("runs/solvers"), 4000, jd.VP()
EVALUATIONS = (6, 12, 25, 50, 100, 200)
DETERMINISTIC = {  # name: sampler, evaluations a step
    "DDIM": (DDIM(), 1),
    "Heun": (Heun(), 2),
    "DPM-Solver++ 2M": (DPMSolverPP(), 1),
    "DPM-Solver++ 3M": (DPMSolverPP(3), 1),
    "UniPC-2": (UniPC(2), 1),
    "UniPC-3": (UniPC(3), 1),
}
STOCHASTIC = {
    "Ancestral": (Ancestral(), 1),
    "DDIM, η = 0.5": (DDIM(eta=0.5), 1),
    "Euler-Maruyama": (EulerMaruyama(), 1),
    "DPM-Solver++ SDE": (DPMSolverPP(sde=True), 1),
    "reverse SDE, SRA1": (ReverseSDE(), 2),
    "Heun, churn 10": (Heun(churn=10.0), 2),
    "predictor-corrector": (PredictorCorrector(), 2),
    "annealed Langevin": (AnnealedLangevin(2), 2),
}


def plane():
    """Eight Gaussians on a circle, and the width of the kernel."""
    return jd.data.eight_gaussians_mixture(), 0.3


def image_like(d=64, k=8):
    """Means at the scale of the data, covariances with a spectrum that falls as 1/i², each in its own basis."""
    rng = np.random.default_rng(0)
    spectrum = 1 / (1 + np.arange(d)) ** 2
    bases = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
    means = rng.standard_normal((k, d)) * np.sqrt(spectrum)
    return (np.full(k, 1 / k), means, np.einsum("kij,j,klj->kil", bases, spectrum, bases)), 1.0


def kernel_distance(mixture, width):
    """x [n, d] -> its MMD to the mixture, and the mean value for n true samples."""
    weights, means, covariances = mixture
    d = means.shape[1]
    smoothed = [
        jd.exact.Mixture(PROCESS, weights, means, covariances + width**2 * np.eye(d)),
        jd.exact.Mixture(  # of y - y' + h z
            PROCESS,
            np.outer(weights, weights).ravel(),
            (means[:, None] - means).reshape(-1, d),
            (covariances[:, None] + covariances).reshape(-1, d, d) + width**2 * np.eye(d),
        ),
    ]
    scale = d / 2 * np.log(2 * np.pi * width**2)
    among = float(jnp.exp(scale + smoothed[1].log_prob(jnp.zeros((1, d)))[0]))

    @jax.jit
    def distance(x):
        square = jnp.sum(x**2, 1)
        own = jnp.exp(-(square[:, None] + square - 2 * x @ x.T) / (2 * width**2)).mean()
        return jnp.sqrt(jnp.maximum(own - 2 * jnp.exp(scale + smoothed[0].log_prob(x)).mean() + among, 0.0))

    return distance, np.sqrt((1 - among) / N)


def curves(mixture, width):
    """{name: (evaluations, error)} for flow and for law, and the floor of law."""
    denoiser = jd.exact.Mixture(PROCESS, *mixture)
    weights, means, covariances = mixture
    d, centre = means.shape[1], weights @ means
    spread = np.sqrt((weights @ (np.trace(covariances, axis1=1, axis2=2) + ((means - centre) ** 2).sum(1))) / d)
    distance, floor = kernel_distance(mixture, width)
    start = jax.random.normal(jax.random.key(1), (N, d))
    end = jd.decode(denoiser, start, t_min=0.0, flow=jd.samplers.ProbabilityFlow(rtol=1e-6, atol=1e-6))
    flow, law = {}, {}
    for name, (sampler, cost) in (DETERMINISTIC | STOCHASTIC).items():
        found = []
        for budget in EVALUATIONS:
            steps = (budget - 1) // cost + 1  # the last step is one evaluation of the denoiser
            if steps < 2:
                continue
            x = jd.sample(jax.random.key(2), denoiser, (N, d), sampler, steps, x_start=start)
            distance_to_end = float(jnp.sqrt(jnp.mean((x - end) ** 2))) / spread
            found.append((cost * (steps - 1) + 1, distance_to_end, float(distance(x))))
        evaluations, to_end, to_law = np.array(found).T
        law[name] = evaluations, to_law
        if name in DETERMINISTIC:
            flow[name] = evaluations, to_end
    return flow, law, floor


def print_table(title, curves, floor=None):
    print(f"\n{title}" + (f", floor {floor:.3f}" if floor else ""))
    print(f"    {'evaluations, about':30s}" + "".join(f"{budget:>9d}" for budget in EVALUATIONS))
    for name, (_, errors) in curves.items():
        missing = len(EVALUATIONS) - len(errors)
        print(f"    {name:30s}" + "        -" * missing + "".join(f"{error:9.2g}" for error in errors))


STYLES = ["#1f6fb2 o", "#e07b1f s", "#2f9e62 ^", "#8453b8 D", "#c8324f v", "#222b33 P", "#12a5b5 X", "#9a7a12 *"]


def draw(found, path):
    """Plot one row for each mixture {title: (flow, law, floor)}; each curve is {name: (evaluations, error)}.

    Deterministic and stochastic samplers have separate panels, so no panel has more than eight curves.
    """
    style = {name: STYLES[i].split() for group in (DETERMINISTIC, STOCHASTIC) for i, name in enumerate(group)}
    legends = 1.2 / (height := 4.1 * len(found) + 1.2)
    picture = Picture(13.5, height)
    picture.set_layout_engine("constrained", rect=(0, legends, 1, 1 - legends), w_pad=0.15, h_pad=0.12)
    for row, (title, (flow, law, floor)) in zip(picture.subplots(len(found), 3, squeeze=False), found.items()):
        kinds = [{name: law[name] for name in group if name in law} for group in (DETERMINISTIC, STOCHASTIC)]
        panels = [
            (flow, "distance to the exact flow's end", "RMS distance / standard deviation of the data"),
            (kinds[0], "samples against the truth, deterministic", "kernel distance (MMD)"),
            (kinds[1], "samples against the truth, stochastic", "kernel distance (MMD)"),
        ]
        for i, (axes, (curves, heading, y)) in enumerate(zip(row, panels)):
            for name, (evaluations, errors) in curves.items():
                color, mark = style[name]
                axes.plot(evaluations, errors, color=color, marker=mark, markersize=5, linewidth=1.5, alpha=0.9)
            if i:
                axes.axhline(floor, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
                axes.annotate(f"{N:,} true samples", (0, floor), (2, -4), color=GREY, size=8, ha="left", va="top",
                              xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
            axes.set(xscale="log", yscale="log")
            axes.set_title(f"{title}: {heading}", loc="left", color=INK, size=10)
            axes.set_xlabel("evaluations of the denoiser", color=GREY, size=9)
            axes.set_ylabel(y, color=GREY, size=9)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(FAINT)
            axes.tick_params(which="both", colors=GREY, labelsize=8, length=0)
            axes.grid(color=FAINT, linewidth=0.8)
        for low, high in [(axes.get_ylim() for axes in row[1:])]:
            for axes in row[1:]:
                axes.set_ylim(min(low[0], high[0]), max(low[1], high[1]))  # one scale for both
    drawn = {name for flow, law, _ in found.values() for name in {**flow, **law}}
    for title, group, at in (("deterministic", DETERMINISTIC, 0.28), ("stochastic", STOCHASTIC, 0.83)):
        names = [name for name in group if name in drawn]
        entries = [Line2D([], [], color=style[n][0], marker=style[n][1], markersize=5, linewidth=1.5) for n in names]
        columns = 3 if title == "deterministic" else 2
        legend = picture.legend(entries, names, title=title, ncols=columns, loc="upper center", frameon=False,
                                bbox_to_anchor=(at, legends), fontsize=9)  # fmt: skip
        legend.get_title().set(color=GREY, size=9)
    picture.saved(path)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = {}
    for title, (mixture, width) in {"2 dimensions": plane(), "64 dimensions": image_like()}.items():
        flow, law, floor = found[title] = curves(mixture, width)
        print_table(f"{title}: distance to the exact flow's end", flow)
        print_table(f"{title}: kernel distance to the mixture", law, floor)
    (FOLDER / "solvers.json").write_text(json.dumps(found, default=np.ndarray.tolist, indent=1))
    draw(found, FOLDER / "solvers.png")
    print(f"\npicture in {FOLDER}/solvers.png")


if __name__ == "__main__":
    main()
