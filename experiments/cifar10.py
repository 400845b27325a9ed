"""CIFAR-10: 32 x 32 colour images, a U-Net, bits/dim of the test set and a picture of samples. For a GPU.

    python experiments/cifar10.py        run again to resume

Its result is not measured yet. A forward pass is 7.9 GFLOP an image (XLA's count), so training is 7.9 x 3 x 128 x
100,000 = 0.3 EFLOP: an hour and a half at 60 TFLOP/s, an estimate for TF32 on one H100.
"""

from pathlib import Path

from jaxdiff import runs
from jaxdiff.samplers import ProbabilityFlow

FOLDER = Path("runs/cifar10")
CONFIG = runs.Config(
    data="cifar10",
    network="unet(channels=(128, 256, 256), blocks=2, attention=(1,))",
    steps=100_000,
    batch_size=128,
    learning_rate=2e-4,
    ema_decay=0.9999,
    flip=True,
)


def run(config: runs.Config, folder: Path, limit: int | None = None, **likelihood) -> dict:
    """Train, plot samples, and score `limit` random test images; returns the run's summary."""
    return runs.likelihood(runs.train(config, folder), folder, limit=limit, **likelihood)


def report(summary: dict, folder: Path) -> None:
    print(
        f"{summary['bits_per_dim']:.3f} +- {summary['standard_error']:.3f} bits/dim of {summary['examples']:,} images"
    )
    print(f"{summary['parameters']:,} parameters, {summary['train_seconds']:.0f} s of training; pictures in {folder}")


def main() -> None:
    report(run(CONFIG, FOLDER, flow=ProbabilityFlow(rtol=1e-4, atol=1e-4)), FOLDER)


if __name__ == "__main__":
    main()
