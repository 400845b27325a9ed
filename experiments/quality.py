r"""What the metrics of samples say: each against the number of samples and of sampling steps, beside its floor.

    python experiments/quality.py                         one picture, quality.png, and the tables below
    python experiments/quality.py --features pixels       the same by the 64 pixels

The 1,797 digits of scikit-learn are shuffled and halved, so that both halves have one law (load_digits has other
writers in its test split). A diffusion model and a classifier learn from one half, which is also what samples are
compared with; of the other half the floors are, always as many digits as there are samples. Standard errors are those
of `jaxdiff.metrics`.
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
