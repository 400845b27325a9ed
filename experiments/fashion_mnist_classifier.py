"""A small classifier of Fashion-MNIST, which gives the features of the FMNIST-FID.

    python experiments/fashion_mnist_classifier.py        about a minute on two cores; run again to report only

Expect an accuracy of 0.914 +- 0.003 on the 10,000 test images.
"""

import functools
import math
from pathlib import Path

import classifier

import jaxdiff as jd

FOLDER = Path("runs/fashion_mnist_classifier")


def load(folder: Path = FOLDER) -> classifier.Classifier:
    """The classifier in `folder`; if it is missing, it is trained first."""
    return classifier.load(folder, functools.partial(jd.data.load_fashion_mnist, "train"), (28, 28), 10)


def main() -> None:
    model, data = load(), jd.data.load_fashion_mnist("test")
    right = classifier.accuracy(model, data)
    error = math.sqrt(right * (1 - right) / len(data))
    print(f"{right:.4f} +- {error:.4f} of the {len(data):,} test images are classified rightly")


if __name__ == "__main__":
    main()
