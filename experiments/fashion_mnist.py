"""Fashion-MNIST: 28 x 28 grey images, a U-Net, bits/dim of the test set, FMNIST-FID, and a picture of samples.

    python experiments/fashion_mnist.py                     10 minutes 41 seconds on two cores, given the classifier
    python experiments/fashion_mnist.py --setting gpu       not measured yet

Run again to resume. Expect on two cores, with 265,409 parameters after 2,000 steps: 3.99 +- 0.05 bits/dim (uniform
dequantisation, on the 288 test images that this error requires), FMNIST-FID 52.6 with a floor of 4.5. After 2,500 steps
the values were 3.90 and 45.4. At rtol 1e-3, decoding an encoded image does not recover it: the largest error is 130
levels, which the report says; on eight images it was 248, 5.0 and 0.7 levels at rtol 1e-3, 1e-4 and 1e-5.

FMNIST-FID is the Fréchet distance of the 128 features of `fashion_mnist_classifier.py` between n samples (2,000 on CPU,
10,000 on GPU; 8 bits) and the 10,000 test images; its floor is the distance of n random training images instead of the
samples. Its scale depends on the classifier: compare only distances that were computed with the same
classifier.safetensors.

The GPU setting, by XLA's count: a forward pass is 1.39 GFLOP an image; training is 1.39 x 3 x 256 x 25,000 = 27 PFLOP,
sampling 0.7, and the likelihood of all 10,000 test images 4, at three passes an evaluation and 100 evaluations. The
sum, 32 PFLOP, takes 25 minutes at 21 TFLOP/s, which one H100 should exceed in TF32.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import fashion_mnist_classifier
import jax
import numpy as np
import tyro
from classifier import accuracy

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.metrics import Distance, frechet_distance
from jaxdiff.samplers import ProbabilityFlow


@dataclasses.dataclass(frozen=True)
class Setting:
    """A run, the numbers of samples and steps for its FID, and the settings of its likelihood."""

    config: runs.Config
    samples: int
    sampler_steps: int
    likelihood: dict[str, Any]


SETTINGS = {
    "cpu": Setting(
        runs.Config(
            data="fashion_mnist",
            network="unet(channels=(8, 24, 48), blocks=1, attention=(2,))",
            steps=2_000,
            ema_decay=0.998,
        ),
        samples=2_000,
        sampler_steps=20,
        likelihood={
            "target_error": 0.05,
            "budget": 32,
            "batch_size": 32,
            "flow": ProbabilityFlow(rtol=1e-3, atol=1e-3),
        },
    ),
    "gpu": Setting(
        runs.Config(
            data="fashion_mnist",
            network="unet(channels=(64, 128, 128), blocks=2, attention=(2,))",
            steps=25_000,
            batch_size=256,
            learning_rate=1e-3,
            ema_decay=0.9995,
        ),
        samples=10_000,
        sampler_steps=50,
        likelihood={"flow": ProbabilityFlow(rtol=1e-4, atol=1e-4), "batch_size": 500},
    ),
}


def distances(classifier, images_uint8, train: np.ndarray, test: np.ndarray) -> tuple[Distance, Distance]:
    """FMNIST-FID of n images against the test images, and its floor: that of n random training images."""
    chosen = np.random.default_rng(0).choice(len(train), len(images_uint8), replace=False)
    drawn, real, held_out = (classifier(images)[0] for images in (images_uint8, train[chosen], test))
    return frechet_distance(drawn, held_out), frechet_distance(real, held_out)


def samples(setting: Setting, run: runs.Run, folder: Path) -> np.ndarray:
    """The samples for the FID, uint8; they are drawn once and kept."""
    path = folder / "fid_samples.npy"
    if not path.is_file():
        np.save(path, run.restore(runs.draw(run, setting.samples, steps=setting.sampler_steps, batch_size=250)))
    return np.load(path, allow_pickle=False)


def main(setting: Literal["cpu", "gpu"] = "cpu") -> None:
    """Train, sample and score.

    Args:
        setting: For two CPU cores, or for one GPU.
    """
    chosen, folder = SETTINGS[setting], Path(f"runs/fashion_mnist_{setting}")
    classifier = fashion_mnist_classifier.load()
    train, test = (jd.data.load_fashion_mnist(split) for split in ("train", "test"))
    run = runs.train(chosen.config, folder)
    drawn = samples(chosen, run, folder)
    fid, floor = distances(classifier, drawn, train.image, test.image)
    summary = runs.likelihood(run, folder, **chosen.likelihood)

    print(f"{summary['parameters']:,} parameters, {summary['train_seconds']:.0f} s of training on {jax.devices()[0]}")
    print(f"classifier: {accuracy(classifier, test):.4f} of the test images")
    print(
        f"FMNIST-FID of {len(drawn):,} samples {fid.value:.2f} ± {fid.standard_error:.2f}; of as many training images "
        f"{floor.value:.2f} ± {floor.standard_error:.2f}"
    )
    print(
        f"{summary['bits_per_dim']:.3f} +- {summary['standard_error']:.3f} bits/dim of {summary['examples']:,} images"
    )
    print(f"pictures in {folder}")


if __name__ == "__main__":
    tyro.cli(main)
