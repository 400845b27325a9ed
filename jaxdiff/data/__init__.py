"""Data: images through TFDS, toy sets in the plane, and batches that depend on (seed, step) alone."""

from jaxdiff.data.batches import batches, fingerprint
from jaxdiff.data.images import Images, load_cifar10, load_digits, load_fashion_mnist
from jaxdiff.data.toys import (
    cat,
    checkerboard,
    circles,
    eight_gaussians,
    eight_gaussians_mixture,
    pinwheel,
    s_curve,
    swiss_roll,
    two_moons,
)

__all__ = [
    "Images",
    "batches",
    "cat",
    "checkerboard",
    "circles",
    "eight_gaussians",
    "eight_gaussians_mixture",
    "fingerprint",
    "load_cifar10",
    "load_digits",
    "load_fashion_mnist",
    "pinwheel",
    "s_curve",
    "swiss_roll",
    "two_moons",
]
