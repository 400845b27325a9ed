r"""The variational bound of a model, next to the value of its probability flow.

    python experiments/bounds.py        2 minutes on two cores, and 4 more to train the model the first time

Bits/dim of 447 test digits under a model of the default settings. Expect (± the standard error over images)

    10 levels            2.795 ± 0.023
    100 levels           2.123 ± 0.012
    1,000 levels         2.084 ± 0.012
    continuous time      2.082 ± 0.012      1.18 of it for rounding x at t_min to integers
    probability flow     1.995 ± 0.013

The bound falls towards that in continuous time as the number of levels grows. The flow's value is lower: it has the
same denoiser, but it models dequantised integers, and has no cost for rounding x at t_min to integers. The standard
errors share the spread over images, so the differences between lines are more certain than the errors suggest.
"""

from pathlib import Path

import jax

import jaxdiff as jd
from jaxdiff import runs

FOLDER = Path("runs/digits_default")


def main() -> None:
    denoiser = runs.train(runs.Config(), FOLDER, pictures=0).denoiser
    data = jd.data.load_digits("test")
    key = jax.random.key(0)
    for steps in (10, 100, 1000):
        print(jd.variational_bound(key, denoiser, data.image, steps, data.levels, progress=True), flush=True)
    print(jd.continuous_bound(key, denoiser, data.image, levels=data.levels, progress=True), flush=True)
    flow = jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4)
    print(jd.bits_per_dim(key, denoiser, data.image, levels=data.levels, flow=flow, budget=0, progress=True))


if __name__ == "__main__":
    main()
