r"""A joint model of digits and their labels: each given the other, and three bounds of their joint probability.

    python experiments/joint_digits.py                      8 minutes of CPU time
    python experiments/joint_digits.py --setting gpu        not measured yet

A transformer (`networks.Joint`) of the 16 patches of a digit and its label, trained at `times.Subsets`, predicts

    p(label | image)   Given(joint, "image") at t = 1: its accuracy on 447 test digits, and -log2 p
    p(image | label)   Given(joint, "label") with DPM-Solver++: the share of samples that an SVM of the training digits,
                       with accuracy .942 on the test digits, assigns to their label; and a picture, label.png
    both, drawn        Each({"image": DPMSolverPP(), "label": Ancestral()}): the same share; joint.png

and the bits of an image and its label (64 values of 17 levels and one of ten), jointly and as two factors:

    -log2 p(image, label)                               the joint bound: both at the same noise level
    -log2 p(image | label) - log2 p(label)              a bound, and log2 10: labels are uniform
    -log2 p(image) - log2 p(label | image)              a bound, and a probability

These would be equal for an exact model. Each is printed with its standard error over the digits, and each difference
from the joint bound with the standard error of the differences. Expect

    test labels right .913 ± .013, .573 ± .102 bits a label
    images given a label right .950 ± .010, pairs .838 ± .016
    bits of an image and its label        151.1 ± 0.8 together
                                          149.9 ± 0.8 image given label, 1.2 ± 0.4 below
                                          156.3 ± 0.7 label given image, 5.2 ± 0.5 above

The third contains p(image), for which the label is hidden at every t: the case that training samples least.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from digits_conditional import pixels
from sklearn.svm import SVC

import jaxdiff as jd
from jaxdiff import plotting
from jaxdiff.likelihood.mean import mean_of
from jaxdiff.losses import Denoising, weightings
from jaxdiff.losses.times import Subsets
from jaxdiff.networks import Categories, Joint, Patches, initialize
from jaxdiff.samplers import Ancestral, DPMSolverPP, Each
from jaxdiff.training import clipped_adam, train

CLASSES, LEVELS, EVENT = 10, 17, (8, 8, 1)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The network, its training, and the numbers of samples and of scored digits."""

    width: int
    depth: int
    steps: int
    batch_size: int
    samples: int
    sampler_steps: int
    draws: int
    scored: int = 447


SETTINGS = {
    "cpu": Setting(width=96, depth=4, steps=3_000, batch_size=64, samples=500, sampler_steps=30, draws=32),
    "gpu": Setting(width=192, depth=6, steps=20_000, batch_size=256, samples=5_000, sampler_steps=50, draws=128),
}


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Counted:
    """Weights every error by `times`, as a label is one value and an image 64."""

    times: float

    def __call__(self, denoiser, t):
        """Weights [n] for t [n]."""
        return self.times * jnp.ones_like(t)


def trained(setting: Setting, folder: Path, data: jd.data.Images) -> jd.Denoiser:
    """The joint denoiser."""
    ends = {"image": Patches(1, patch=2), "label": Categories(CLASSES, noise=False)}
    make = lambda rngs: Joint(ends, setting.width, setting.depth, heads=4, rngs=rngs)
    network, params = initialize(jax.random.key(0), make)
    process = jd.Product({"image": jd.VP(), "label": jd.Absorbing(CLASSES)})
    scale = {"image": 2 / LEVELS * jd.data.pixel_moments(data)[1], "label": None}
    denoiser = jd.Denoiser(network, params, process, data_std=scale)
    loss = Denoising({"image": weightings.Simple(), "label": Counted(8.0)}, Subsets())
    examples = {"image": data.image, "label": data.label.astype(np.int32)}

    def prepare(key, batch):
        return {"image": jd.dequantize(key, batch["image"], LEVELS), "label": batch["label"]}, None

    return train(
        jax.random.key(1),
        folder / "joint",
        denoiser,
        loss,
        jd.data.batches(examples, setting.batch_size, 0),
        steps=setting.steps,
        optimizer=functools.partial(clipped_adam, learning_rate=1e-3),
        ema_decay=0.998,
        prepare=prepare,
    )


def labels(joint, image) -> np.ndarray:
    """log p(label | image) for every label, [n, 10]; images are scaled as data."""
    masks = np.full(len(image), CLASSES)
    ask = jax.jit(lambda image: jd.Given(joint, "image")(masks, 1.0, image).log_probabilities())
    return np.asarray(ask(image), np.float64)


def bits(joint, image, label, log_p, draws: int) -> dict[str, np.ndarray]:
    """Bits of each image with its label, [n], computed in three ways; images are integers, log_p is from `labels`."""
    bound = functools.partial(jd.continuous_bound, jax.random.key(4), draws=draws, batch_size=256, progress=True)
    image_alone = math.prod(EVENT)
    given = jd.Given(joint, "label")
    known = bound(given, image, levels=LEVELS, cond=label).per_example * image_alone
    alone = bound(given, image, levels=LEVELS).per_example * image_alone
    both = bound(joint, {"image": image, "label": label}, levels={"image": LEVELS, "label": None})
    return {
        "together": both.per_example * (image_alone + 1),
        "image given label": known + math.log2(CLASSES),
        "label given image": alone - log_p[np.arange(len(label)), label] / math.log(2),
    }


def right(svm, image, label) -> tuple[float, float]:
    """The share of images, scaled as data, that the SVM assigns to `label`, and its standard error."""
    return mean_of(svm.predict(pixels(jd.quantize(image, LEVELS))) == label)


def main(setting: Literal["cpu", "gpu"] = "cpu", folder: Path | None = None) -> dict[str, Any]:
    """Train, sample and score; returns the numbers with their standard errors, by name.

    Args:
        setting: For two CPU cores, or for one GPU.
        folder: The folder of the model and pictures.
    """
    chosen, folder = SETTINGS[setting], folder or Path(f"runs/joint_digits_{setting}")
    data, test = (jd.data.load_digits(split) for split in ("train", "test"))
    image, label = test.image[: chosen.scored], test.label[: chosen.scored].astype(np.int32)
    svm = SVC().fit(pixels(data.image), data.label)
    joint = trained(chosen, folder, data)
    log_p = labels(joint, np.asarray(jd.VP().clean(image, LEVELS), np.float32))
    found = {
        "right of test labels": mean_of(log_p.argmax(1) == label),
        "bits of a label given its image": mean_of(-log_p[np.arange(len(label)), label] / math.log(2)),
    }
    asked = np.arange(chosen.samples) % CLASSES
    draw = functools.partial(jd.samplers.draw, jax.random.key(3), batch_size=250, steps=chosen.sampler_steps)
    x = draw(jd.Given(joint, "label"), (chosen.samples, *EVENT), cond=asked)
    found["right of images given a label"] = right(svm, x, asked)
    plotting.strip(x[: 10 * CLASSES].reshape(-1, CLASSES, *EVENT).swapaxes(0, 1), folder / "label.png")
    each = Each({"image": DPMSolverPP(), "label": Ancestral()})
    pair = draw(joint, {"image": (chosen.samples, *EVENT), "label": (chosen.samples,)}, sampler=each)
    found["right of pairs"] = right(svm, pair["image"], pair["label"])
    first = {k: pair["image"][pair["label"] == k] for k in range(CLASSES)}
    shown = min(10, *map(len, first.values()))
    if shown:
        rows = np.stack([images[:shown] for images in first.values()])
        plotting.strip(rows, folder / "joint.png", names=[str(k) for k in first])
    ways = bits(joint, image, label, log_p, chosen.draws)
    for name, values in ways.items():
        found[f"bits, {name}"] = mean_of(values)
        if name != "together":
            found[f"bits, {name}, beyond together"] = mean_of(values - ways["together"])
    for name, (value, error) in found.items():
        print(f"{name:45s} {value:8.3f} ± {error:.3f}")
    return found


if __name__ == "__main__":
    tyro.cli(main)
