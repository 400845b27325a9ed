r"""Which sampler, and how many evaluations: every sampler on mixtures whose flow and whose density are known.

    python experiments/solvers.py        3 minutes on two cores; the table, and runs/solvers/solvers.png

Two closed-form mixtures under VP, each sampler on its own grid from pure noise to clean data: eight Gaussians in the
plane, and eight Gaussians in 64 dimensions whose covariances have spectra like those of 8 x 8 images.

    flow   deterministic samplers: the root mean squared distance of their ends to the exact flow's from the same noise,
           over the standard deviation of the data
    law    every sampler: the kernel distance (MMD) of 4,000 samples to the mixture itself, in closed form over the
           mixture: for k(x, y) = exp(-|x - y|²/2h²), E k(x, y) = (2πh²)^{D/2} Σ w N(x; m, C + h² I). True samples score
           the floor, about 1/√4000.

Expect, in 64 dimensions after about 12, 25, 50 and 100 evaluations,

    flow  DDIM               0.24    0.16    0.10    0.063
          Heun               0.20    0.11    0.070   0.033
          DPM-Solver++ 2M    0.19    0.081   0.037   0.024
          DPM-Solver++ 3M    0.14    0.055   0.021   0.0076
          UniPC-2            0.15    0.055   0.019   0.0076
          UniPC-3            0.13    0.048   0.0078  0.0076
    law   DPM-Solver++ 2M    0.024   0.016   0.015   0.015       floor 0.015
          Ancestral          0.13    0.074   0.042   0.027
          Euler-Maruyama     0.022   0.018   0.014   0.019
          reverse SDE, SRA1  0.12    0.051   0.028   0.018

0.0076 is what the last step costs, the denoiser's answer at t = 0.001 in place of the flow's end.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.plotting import lines
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
    """Eight Gaussians on a circle, and the kernel's width."""
    return jd.data.eight_gaussians_mixture(), 0.3


def image_like(d=64, k=8):
    """Means at the scale of the data, covariances with a spectrum falling as 1/i², each in a basis of its own."""
    rng = np.random.default_rng(0)
    spectrum = 1 / (1 + np.arange(d)) ** 2
    bases = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
    means = rng.standard_normal((k, d)) * np.sqrt(spectrum)
    return (np.full(k, 1 / k), means, np.einsum("kij,j,klj->kil", bases, spectrum, bases)), 1.0


def kernel_distance(mixture, width):
    """x [n, d] -> its MMD to the mixture, and the value that n true samples have in the mean."""
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
    """{name: (evaluations, error)} of the flow and of the law, and the law's floor."""
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


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    panels, floors = {}, {}
    for title, (mixture, width) in {"2 dimensions": plane(), "64 dimensions": image_like()}.items():
        flow, law, floor = curves(mixture, width)
        print_table(f"{title}: distance to the exact flow's end", flow)
        print_table(f"{title}: kernel distance to the mixture", law, floor)
        panels |= {f"{title}: flow": flow, f"{title}: law": law}
        floors[f"{title}: law"] = floor
    lines(panels, FOLDER / "solvers.png", x="evaluations", y="error", floors=floors, columns=2)
    print(f"\npicture in {FOLDER}/solvers.png")


if __name__ == "__main__":
    main()
