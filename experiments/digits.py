"""The digits, trained longer than in the demo, to test bits/dim below 2.0.

    python experiments/digits.py        about 12 minutes on two cores; run again to resume, or to report

Expect 1.995 +- 0.015 (the standard error over the 447 test images; uniform dequantisation; 276,097 parameters).

The data and the kind of model are the demo's (scikit-learn's 8x8 digits, 17 levels, train = the first 1,000, test =
from 1,350; VP, v-prediction, U-Net); the network is wider and trained for more steps.
"""

from pathlib import Path

from jaxdiff import runs
from jaxdiff.samplers import ProbabilityFlow

FOLDER = Path("runs/digits")
CONFIG = runs.Config(network="unet(channels=(24, 48), blocks=1)", steps=10_000, learning_rate=2e-3, ema_decay=0.9995)


def main() -> None:
    run = runs.train(CONFIG, FOLDER)
    flow = ProbabilityFlow(rtol=1e-4, atol=1e-4)
    summary = runs.likelihood(run, FOLDER, flow=flow)
    print(f"{summary['bits_per_dim']:.4f} +- {summary['standard_error']:.4f} bits/dim, {summary['kind']}")
    print(f"{summary['parameters']:,} parameters, {summary['train_seconds']:.0f} s of training; pictures in {FOLDER}")


if __name__ == "__main__":
    main()
