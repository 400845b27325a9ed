r"""Three kinds of guidance to a digit's class, at several scales; and the class of a digit by Bayes' rule.

    python experiments/digits_conditional.py                      7 minutes of CPU time
    python experiments/digits_conditional.py --setting gpu        not measured yet

One conditional denoiser, trained with a tenth of the labels dropped, and one classifier of noised digits, both trained
on the first 1,000 of scikit-learn's digits. Samples start from the same noise under

    (a) the noisy classifier          guidance.Classifier(denoiser, classifier, scale)
    (b) the clean one, by Tweedie     guidance.TweedieClassifier(denoiser, classifier.clean, scale)
    (c) classifier-free               guidance.ClassifierFree(denoiser, scale)

At scale 0 each is the unconditional model, and at scale 1 each approximates p(x | y). The clean classifier is the noisy
one at t = 0.

    right      the share that an SVM trained on the same digits assigns to the requested class; 0.942 for test digits
    spread     the variance of the pixels, on [0, 1], within a class, summed; 2.66 for the training digits
    Fréchet    the Fréchet distance of the 64 pixels to the training digits; 0.288 for the (fewer) 447 test digits

Expect, for 500 samples each,

    scale                   0     0.5       1     1.5       2       3       5      10
    right      (a)       .116    .410    .678    .818    .900    .962    .984    .996
               (b)       .116    .650    .886    .968    .982    .986    .998    .996
               (c)       .116    .678    .998   1.000   1.000   1.000   1.000   1.000
    spread     (a)       4.15    3.76    3.31    3.02    2.78    2.45    2.08    1.63
               (b)       4.15    3.40    2.89    2.63    2.44    2.26    2.03    1.77
               (c)       4.15    3.09    2.33    2.07    1.92    1.77    1.64    1.38
    Fréchet    (a)       .170    .195    .159    .137    .126    .134    .178    .311
               (b)       .170    .187    .170    .182    .206    .263    .371    .619
               (c)       .170    .138    .074    .105    .176    .369    .822   1.852

and .990 ± .010 of 100 test digits classified correctly by Bayes' rule. The noisy classifier's accuracy on the test
digits is .93 at t = 0, .69 at t = 0.25 and .20 at t = 0.5, so it says little at the times when the class is decided.
Classifier-free guidance is right at scale 1; a classifier trained on 1,000 digits needs scale 3.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from sklearn.svm import SVC

import jaxdiff as jd
from jaxdiff import plotting, runs
from jaxdiff.likelihood import Hutchinson
from jaxdiff.metrics import Distance, frechet_distance
from jaxdiff.networks import Classifier, initialize
from jaxdiff.samplers import ProbabilityFlow

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
SHOWN = (0.0, 1.0, 3.0, 10.0)
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Setting:
    """A run, its classifier, the numbers of samples and steps, and of digits classified by Bayes' rule."""

    config: runs.Config
    channels: tuple[int, ...]
    classifier_steps: int
    samples: int
    steps: int
    told: int


SETTINGS = {
    "cpu": Setting(
        runs.Config(condition=("label",), steps=3_000),
        channels=(16, 32),
        classifier_steps=1_000,
        samples=500,
        steps=30,
        told=100,
    ),
    "gpu": Setting(
        runs.Config(condition=("label",), network="unet(channels=(64, 128), blocks=2, attention=(1,))", steps=10_000),
        channels=(64, 128),
        classifier_steps=5_000,
        samples=5_000,
        steps=50,
        told=447,
    ),
}


def classifier_of(folder, denoiser, data, channels, steps) -> jd.NoisyClassifier:
    """The classifier of noised digits, trained if it is missing."""
    x = np.asarray(denoiser.process.clean(data.image, data.levels), np.float32)
    make = lambda rngs: Classifier(1, CLASSES, channels, blocks=1, rngs=rngs)
    network, params = initialize(jax.random.key(1), make)
    classifier = jd.NoisyClassifier(network, params, denoiser.process, denoiser.data_std)
    batches = jd.data.batches({"x": x, "label": data.label.astype(np.int32)}, 128, seed=1)
    loss = jd.losses.Classification()
    return jd.training.train(jax.random.key(2), folder, classifier, loss, batches, steps=steps, ema_decay=0.995)


def guides(denoiser, classifier):
    """The three kinds of guidance by name, each a function of the scale."""
    return {
        "noisy classifier": lambda scale: jd.guidance.Classifier(denoiser, classifier, scale),
        "clean classifier": lambda scale: jd.guidance.TweedieClassifier(denoiser, classifier.clean, scale),
        "classifier-free": lambda scale: jd.guidance.ClassifierFree(denoiser, scale),
    }


def pixels(images) -> np.ndarray:
    """Images of 17 levels on [0, 1], [n, 64]."""
    return np.asarray(images, np.float64).reshape(len(images), -1) / 16


def scores(svm, real, images, label) -> tuple[float, float, Distance]:
    """(right, spread, Fréchet) of images that were drawn for `label`."""
    drawn = pixels(images)
    spread = np.mean([drawn[label == k].var(0).sum() for k in range(CLASSES)])
    return float(np.mean(svm.predict(drawn) == label)), float(spread), frechet_distance(drawn, real)


def told_right(denoiser, images, label, levels) -> tuple[float, float]:
    """The share of images, at their pixel centres, that Bayes' rule classifies correctly, and its standard error."""
    x = np.asarray(denoiser.process.clean(images, levels), np.float32)
    flow = ProbabilityFlow(rtol=1e-2, atol=1e-2)
    found = jd.likelihood.class_posterior(
        jax.random.key(3),
        denoiser,
        x,
        CLASSES,
        flow=flow,
        trace=Hutchinson(2),
        t_min=1e-3,
        batch_size=50,
        progress=True,
    )
    right = found.log_prob.argmax(1) == label
    return float(right.mean()), float(right.std() / len(right) ** 0.5)


def main(setting: Literal["cpu", "gpu"] = "cpu", folder: Path | None = None) -> dict:
    """Train, sample with every guidance and scale, and score; returns the table's numbers by name and scale.

    Args:
        setting: For two CPU cores, or for one GPU.
        folder: The folder of runs and pictures.
    """
    chosen, folder = SETTINGS[setting], folder or Path(f"runs/digits_conditional_{setting}")
    train, test = (jd.data.load_digits(split) for split in ("train", "test"))
    run = runs.train(chosen.config, folder)
    classifier = classifier_of(folder / "classifier", run.denoiser, train, chosen.channels, chosen.classifier_steps)
    real, held = pixels(train.image), pixels(test.image)
    svm = SVC().fit(real, train.label)
    print(f"the SVM is right on {np.mean(svm.predict(held) == test.label):.3f} of the test digits")
    print(f"spread {np.mean([real[train.label == k].var(0).sum() for k in range(CLASSES)]):.2f} of the training digits")
    floor = frechet_distance(held, real)
    print(f"Fréchet {floor.value:.3f} ± {floor.standard_error:.3f} of the test digits")
    for t in (0.0, 0.25, 0.5, 0.75):
        x, _ = jd.perturb(
            jax.random.key(4), run.denoiser.process, run.denoiser.process.clean(test.image, test.levels), t
        )
        print(f"the classifier is right on {np.mean(classifier.logits(x, t).argmax(1) == test.label):.3f} at t = {t}")

    label, shape = np.arange(chosen.samples) % CLASSES, (chosen.samples, *run.known.event)
    found, rows = {}, {}
    for name, guide in guides(run.denoiser, classifier).items():
        for scale in SCALES:
            x = jd.samplers.draw(jax.random.key(5), guide(scale), shape, 250, label, steps=chosen.steps)
            found[name, scale] = scores(svm, real, run.restore(x), label)
            right, spread, distance = found[name, scale]
            print(
                f"{name:18s} {scale:4.1f}   right {right:.3f}   spread {spread:.2f}   "
                f"Fréchet {distance.value:.3f} ± {distance.standard_error:.3f}",
                flush=True,
            )
            if scale in SHOWN:
                rows[name, scale] = x[: 2 * CLASSES]
    names = [f"{name}, {scale:g}" for name, scale in rows]
    plotting.strip(np.stack([*rows.values()]), folder / "guidance.png", names=names)
    told, error = told_right(run.denoiser, test.image[: chosen.told], test.label[: chosen.told], test.levels)
    print(f"Bayes' rule tells {told:.3f} ± {error:.3f} of {chosen.told} test digits")
    return found


if __name__ == "__main__":
    tyro.cli(main)
