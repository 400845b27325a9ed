"""Pictures whose pixels are categories: silhouettes of clothes, and emoji in eight colours."""

import colorsys
import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxdiff.arrays import check_choice, check_path
from jaxdiff.data.emoji import DEBIAN, read_emoji
from jaxdiff.data.images import load_fashion_mnist
from jaxdiff.data.splits import Split, check_split

DARK = 32  # pixels of Fashion-MNIST below are background
COLOURS = (  # the centres that k-means finds of the pixels for training, by how often they are the nearest
    *((254, 254, 254), (220, 217, 209), (190, 157, 150), (136, 110, 80)),
    *((54, 56, 56), (245, 184, 38), (52, 125, 196), (222, 57, 45)),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Maps of categories, one size for all.

    `batches(maps.examples, ...)` gives what a model sees of them.

    Attributes:
        tokens: int32 [n, height, width], values 0..categories-1.
        label: int32 [n], values 0..classes-1.
        classes: how many labels there are.
        palette: the colour of each category, (red, green, blue) of 0..255.
    """

    tokens: np.ndarray
    label: np.ndarray
    classes: int
    palette: Sequence[tuple[int, int, int]]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def categories(self) -> int:
        """How many values a pixel has."""
        return len(self.palette)

    @property
    def examples(self) -> dict[str, np.ndarray]:
        """{"x": tokens, "label": label}."""
        return {"x": self.tokens, "label": self.label}


def maps(
    name: Literal["fashion", "emoji"],
    split: Split = "train",
    folder: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
) -> Maps:
    """A set of maps by its name.

    "fashion": silhouettes of Fashion-MNIST, 28 x 28, 11 categories: 0 where a pixel is below 32, and elsewhere the
    class + 1; ten labels, the split of `load_fashion_mnist`, whose `folder` and `data_dir` these are.

    "emoji": 3,926 emoji, 32 x 32, in 8 colours: each pixel is that of `COLOURS` which is the nearest in RGB. They are
    those of the font NotoColorEmoji.ttf in `folder`, by default that of Debian's package fonts-noto-color-emoji (the
    number is that of Debian 12). Every tenth is for testing (9, 19, ...), every twentieth for validation (4, 24, ...).

    Raises ValueError for another name or split, and what `load_fashion_mnist` raises; FileNotFoundError where the font
    is not there.
    """
    check_choice("name", name, ("fashion", "emoji"))
    check_split(split)
    if name == "fashion":
        clothes = load_fashion_mnist(split, folder, data_dir)
        label = clothes.label
        tokens = np.where(clothes.image[..., 0] < DARK, 0, 1 + label[:, None, None]).astype(np.int32)
        hues = [colorsys.hsv_to_rgb(i / clothes.classes, 0.65, 0.85 - 0.25 * (i % 2)) for i in range(clothes.classes)]
        palette = [(255, 255, 255), *((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues)]
        return Maps(tokens, label, clothes.classes, palette)
    if data_dir is not None:
        raise ValueError(f"data_dir = {str(data_dir)!r}: emoji are not prepared by TFDS; give the folder of the font")
    emoji = read_emoji(DEBIAN if folder is None else check_path("folder", folder))
    at = np.arange(len(emoji))
    place = np.select([at % 10 == 9, at % 20 == 4], ["test", "validation"], "train")
    emoji = emoji if split is None else emoji[place == split]
    return Maps(_nearest(emoji), np.zeros(len(emoji), np.int32), 1, COLOURS)


def _nearest(pixels: np.ndarray) -> np.ndarray:
    """Which of `COLOURS` is the nearest to each pixel [..., 3]: int32 [...]."""
    nearest, best = np.zeros(pixels.shape[:-1], np.int32), np.full(pixels.shape[:-1], np.inf, np.float32)
    for i, colour in enumerate(COLOURS):
        far = np.square(pixels.astype(np.float32) - np.asarray(colour, np.float32)).sum(-1)
        nearest, best = np.where(far < best, i, nearest), np.minimum(far, best)
    return nearest
