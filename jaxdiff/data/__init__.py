"""Data sets: images, tables, texts, maps of categories and toy distributions, and batches by (seed, step)."""

import difflib
from typing import TYPE_CHECKING

from jaxdiff.data.batches import Source, batches, fingerprint
from jaxdiff.data.category_maps import Maps, maps
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
from jaxdiff.data.mixed import MixedColumns, MixedTable
from jaxdiff.data.reading import process_shard
from jaxdiff.data.rows import read_columns, read_rows, write_columns, write_rows
from jaxdiff.data.symbols import Symbols
from jaxdiff.data.table import Columns, Table
from jaxdiff.data.texts import Texts, text
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
    "Maps",
    "MixedColumns",
    "MixedTable",
    "Source",
    "Symbols",
    "Table",
    "Texts",
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
    "maps",
    "pinwheel",
    "pixel_moments",
    "process_shard",
    "read_columns",
    "read_rows",
    "s_curve",
    "swiss_roll",
    "text",
    "two_moons",
    "write_columns",
    "write_rows",
]


def __dir__():
    return __all__


if not TYPE_CHECKING:  # a type checker would take every name for one of the module

    def __getattr__(name: str):
        """AttributeError that suggests the nearest public name, such as load_digits for the word digits."""
        near = "".join(f"; did you mean {close}?" for close in difflib.get_close_matches(name, __all__, n=1))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{near}")
