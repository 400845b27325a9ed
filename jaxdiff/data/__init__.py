"""Data: images through TFDS and in folders, toy sets in the plane, and batches that depend on (seed, step) alone."""

from jaxdiff.data.batches import Source, batches, fingerprint
from jaxdiff.data.folder import ImageFolder
from jaxdiff.data.images import Images, ImageSource, load_cifar10, load_digits, load_fashion_mnist, load_imagenet64
from jaxdiff.data.reading import process_shard
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
    "ImageFolder",
    "ImageSource",
    "Images",
    "Source",
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
    "load_imagenet64",
    "pinwheel",
    "process_shard",
    "s_curve",
    "swiss_roll",
    "two_moons",
]
