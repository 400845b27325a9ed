"""Data: images through TFDS and in folders, tables, toy sets, and batches that depend on (seed, step) alone."""

from jaxdiff.data.batches import Source, batches, fingerprint
from jaxdiff.data.folder import ImageFolder
from jaxdiff.data.images import (
    Images,
    ImageSource,
    load_cifar10,
    load_digits,
    load_fashion_mnist,
    load_imagenet64,
    pixel_moments,
)
from jaxdiff.data.reading import process_shard
from jaxdiff.data.rows import read_rows, write_rows
from jaxdiff.data.table import Columns, Table
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
    "Columns",
    "ImageFolder",
    "ImageSource",
    "Images",
    "Source",
    "Table",
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
    "pixel_moments",
    "process_shard",
    "read_rows",
    "s_curve",
    "swiss_roll",
    "two_moons",
    "write_rows",
]
