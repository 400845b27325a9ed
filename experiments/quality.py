"""The metrics of samples against the numbers of samples and of sampling steps, each with its floor.

    python experiments/quality.py                         5 minutes of CPU time; quality_classifier.png
    python experiments/quality.py --features pixels       the 64 pixels as features; 2 minutes more

The 1,797 digits of scikit-learn are shuffled and halved, so both halves have the same distribution (the test split of
load_digits has other writers). A diffusion model and a classifier are trained on one half, and samples are compared
with this half. Floors are the metrics of as many digits of the other half as there are samples. Samples are drawn by
DPM-Solver++. Standard errors are those of `jaxdiff.metrics`.

Expect, for 898 samples and a classifier with an accuracy of .989 on the other half,

    steps                     3        5        8       12       20       50      floor
    Fréchet distance       1.69     1.11      .61      .45      .38      .34        .32
                            .30      .21      .14      .14      .14      .13        .23
    kernel distance, e-3   58.6     32.2      8.9      2.2      -.9     -2.6        4.4
                           18.2     13.0      6.9      7.0      7.1      7.1       11.7
    precision              .589     .606     .654     .684     .713     .715       .899
    recall                 .942     .957     .951     .958     .961     .957       .940
    density                .528     .534     .608     .651     .685     .712       .975
    coverage               .806     .822     .890     .910     .921     .922       .977

with the standard errors of the first two below them, and .005 to .02 for the others; and for 50 steps

    samples                  25       50      100      200      400      898
    Fréchet distance       6.83     2.65     1.09     1.26      .48      .34
      its floor            2.53     1.23      .96      .66      .37      .32
    kernel distance        .095    -.004    -.022     .022    -.004    -.003
      its error            .161     .064     .034     .031     .011     .007
    precision              .800     .780     .690     .670     .693     .715
    recall                 .906     .994     .929     .953     .947     .957
    coverage               .090     .195     .296     .494     .732     .922
      its floor            .122     .210     .384     .626     .859     .977

The Fréchet distance of 25 real digits is above that of 898 samples in three steps: the value means little without its
floor. From 12 steps on, neither distance distinguishes samples from real digits. Precision and density do: by three
standard errors with 100 samples, and by ten with 898. Coverage always grows with the number of samples. With pixels as
features, samples in three steps, which are too smooth, have a density of 1.34 ± .03 (real digits .97 ± .02) and a
recall of .40 (real digits .90): density alone would rate them too high, and recall shows the fault.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import jaxdiff as jd
from jaxdiff import plotting, runs
from jaxdiff.runs.evaluate import distances
from jaxdiff.runs.features import centres, of_classifier

FOLDER = Path("runs/quality")


CONFIG = runs.Config(data=None, steps=3_000)
NUMBERS = (25, 50, 100, 200, 400, 898)  # of samples, drawn in the last number of steps
STEPS = (3, 5, 8, 12, 20, 50)  # in which the last number of samples is drawn


def halves() -> list[jd.data.Images]:
    """The digits, split at random into two halves."""
    parts = [jd.data.load_digits(split) for split in ("train", "validation", "test")]
    image, label = (np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "label"))
    order = np.random.default_rng(0).permutation(len(label))
    return [jd.data.Images(image[i], label[i], 17, 10) for i in np.array_split(order, 2)]


def main(features: Literal["classifier", "pixels"] = "classifier", folder: Path = FOLDER) -> dict[str, dict]:
    """Train, sample and measure.

    Args:
        features: The features by which digits are compared.
        folder: The folder of the run and of the picture.
    """
    known, others = halves()
    run = runs.train(CONFIG, folder, known)
    if features == "classifier":
        compare = of_classifier(folder, known, {"image": known.image, "label": known.label}, (8, 8, 1), True)
        right, error = compare.accuracy(others.image, others.label)
        print(f"the classifier is right about {right:.3f} ± {error:.3f} of the other digits")
    else:
        compare = lambda images: centres(images, 17).reshape(len(images), -1)
    real, other = compare(known.image), compare(others.image)
    drawn = {steps: compare(run.restore(runs.draw(run, max(NUMBERS), steps=steps))) for steps in STEPS}

    by_number = {n: (distances(real, drawn[STEPS[-1]][:n]), distances(real, other[:n])) for n in NUMBERS}
    last = by_number[NUMBERS[-1]][1]
    by_steps = {steps: (distances(real, z), last) for steps, z in drawn.items()}
    panels = {}
    for metric in last:
        for what, found in (("number of samples", by_number), ("number of steps", by_steps)):
            curves = {
                name: ([*found], *zip(*(pair[i][metric] for pair in found.values())))
                for i, name in enumerate(("samples", "floor"))
            }
            panels[f"{metric.replace('_', ' ')} by {what}"] = curves
            print(
                f"\n{metric} by {what}\n"
                + "\n".join(
                    f"{at:>6}  {pair[0][metric].value:9.4f} ± {pair[0][metric].standard_error:.4f}"
                    f"  floor {pair[1][metric].value:9.4f} ± {pair[1][metric].standard_error:.4f}"
                    for at, pair in found.items()
                )
            )
    plotting.estimates(panels, folder / f"quality_{features}.png", columns=4)
    return {"numbers": by_number, "steps": by_steps}


if __name__ == "__main__":
    tyro.cli(main)
