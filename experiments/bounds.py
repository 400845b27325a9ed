r"""The variational bound and the probability flow's value of one model, side by side.

    python experiments/bounds.py        2 minutes on two cores after `jaxdiff demo`, which it runs if need be

The demo's model on the 447 test digits, in bits/dim. Expect (± the standard error over images)

    10 levels            2.795 ± 0.023
    100 levels           2.123 ± 0.012
    1,000 levels         2.084 ± 0.012
    continuous time      2.082 ± 0.012      of which 1.18 to read the integers off x at t_min
    probability flow     1.995 ± 0.013

The bound falls as its levels grow, towards that in continuous time. The flow's value lies below: it belongs to the same
denoiser, but to another model of the integers, dequantised ones, and pays nothing for reading them off x at t_min. The
spread over images is common to all lines, so that they differ by more than their errors say.
"""

from pathlib import Path

import jax

import jaxdiff as jd
from jaxdiff import cli, runs

FOLDER = Path("runs/demo")


def main() -> None:
    cli.demo(FOLDER)
    denoiser = runs.load(FOLDER).denoiser
    data = jd.data.load_digits("test")
    key = jax.random.key(0)
    for steps in (10, 100, 1000):
        print(jd.variational_bound(key, denoiser, data.image, steps, data.levels, progress=True), flush=True)
    print(jd.continuous_bound(key, denoiser, data.image, levels=data.levels, progress=True), flush=True)
    flow = jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4)
    print(jd.bits_per_dim(key, denoiser, data.image, levels=data.levels, flow=flow, budget=0, progress=True))


if __name__ == "__main__":
    main()
