"""ImageNet at 64 x 64: a class-conditional U-Net of ADM's widths, bits/dim of a thousand test images. For a pod.

    python experiments/imagenet64.py ARCHIVES        run again to resume

ARCHIVES is the folder of the published train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz
(`jaxdiff.data.load_imagenet64`); the prepared data take 16 GB. For several machines give the same settings to `jaxdiff
train` (docs/running.md). Dhariwal and Nichol (2021, table 11) train for 540,000 steps of 2,048 images; docs/scaling.md
estimates on how many devices that is efficient. Its result is not measured: the tests run the code on synthetic
archives.
"""

import dataclasses
import sys
from pathlib import Path

from cifar10 import report, run

from jaxdiff import runs
from jaxdiff.samplers import ProbabilityFlow

FOLDER = Path("runs/imagenet64")
CONFIG = runs.Config(
    condition=("label",),
    network="unet(channels=(192, 384, 576, 768), blocks=3, attention=(1, 2, 3), remat=True)",
    dtype="bfloat16",
    steps=540_000,
    batch_size=2048,
    learning_rate=3e-4,
    ema_decay=0.9999,
    flip=True,
)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("give the folder of the published archives: python experiments/imagenet64.py ARCHIVES")
    config = dataclasses.replace(CONFIG, data=f"imagenet64({sys.argv[1]!r})")
    report(run(config, FOLDER, limit=1000, flow=ProbabilityFlow(rtol=1e-4, atol=1e-4)), FOLDER)


if __name__ == "__main__":
    main()
