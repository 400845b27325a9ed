"""The metrics of samples against the number of samples and of sampling steps, each beside its floor.

    python experiments/quality.py                         5 minutes of CPU time; quality_classifier.png
    python experiments/quality.py --features pixels       the same samples by their 64 pixels, 2 minutes more

The 1,797 digits of scikit-learn are shuffled and halved, so that both halves have one law (the test split of
load_digits has other writers). A diffusion model and a classifier learn from one half, which is also what samples are
compared with; the floors are of the other half, always as many digits as there are samples. Samples are drawn by
DPM-Solver++. Standard errors are those of `jaxdiff.metrics`.

Expect, by a classifier that is right about .989 of the other half, of 898 samples,

    steps                     3        5        8       12       20       50      floor
    Fréchet distance       1.69     1.11      .61      .45      .38      .34        .32
                            .30      .21      .14      .14      .14      .13        .23
    kernel distance, e-3   58.6     32.2      8.9      2.2      -.9     -2.6        4.4
                           18.2     13.0      6.9      7.0      7.1      7.1       11.7
    precision              .589     .606     .654     .684     .713     .715       .899
    recall                 .942     .957     .951     .958     .961     .957       .940
    density                .528     .534     .608     .651     .685     .712       .975
    coverage               .806     .822     .890     .910     .921     .922       .977

the standard errors of the first two below them, of the others .005 to .02; and of 50 steps

    samples                  25       50      100      200      400      898
    Fréchet distance       6.83     2.65     1.09     1.26      .48      .34
      its floor            2.53     1.23      .96      .66      .37      .32
    kernel distance        .095    -.004    -.022     .022    -.004    -.003
      its error            .161     .064     .034     .031     .011     .007
    precision              .800     .780     .690     .670     .693     .715
    recall                 .906     .994     .929     .953     .947     .957
    coverage               .090     .195     .296     .494     .732     .922
      its floor            .122     .210     .384     .626     .859     .977

The Fréchet distance of 25 real digits is above that of 898 samples in three steps: a number without its floor says
little. From 12 steps on neither distance tells samples from real digits. Precision and density do, by three standard
errors of 100 samples and by ten of 898. Coverage grows with the number of samples, whatever they are. By pixels, digits
in three steps, which are too smooth, have a density of 1.34 ± .03 where real ones have .97 ± .02, and a recall of .40
where real ones have .90: only both say that they are wrong.
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
    """The digits in two halves, drawn at random."""
    parts = [jd.data.load_digits(split) for split in ("train", "validation", "test")]
    image, label = (np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "label"))
    order = np.random.default_rng(0).permutation(len(label))
    return [jd.data.Images(image[i], label[i], 17, 10) for i in np.array_split(order, 2)]


def main(features: Literal["classifier", "pixels"] = "classifier", folder: Path = FOLDER) -> dict[str, dict]:
    """Train, draw and measure.

    Args:
        features: What digits are compared by.
        folder: That of the run and of the picture.
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
