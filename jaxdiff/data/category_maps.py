"""Pictures whose pixels are categories: silhouettes of clothes, and emoji in eight colours."""

import colorsys
import dataclasses
import os
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from jaxdiff.arrays import check_choice, check_path
from jaxdiff.data.emoji import DEBIAN, read_emoji
from jaxdiff.data.images import load_fashion_mnist
from jaxdiff.data.splits import Split

DARK = 32  # pixels of Fashion-MNIST below are background
COLOURS = (  # the centres of k-means on the training pixels, the most frequent first
    *((254, 254, 254), (220, 217, 209), (190, 157, 150), (136, 110, 80)),
    *((54, 56, 56), (245, 184, 38), (52, 125, 196), (222, 57, 45)),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Maps of categories of one size: pictures whose pixels are categories.

    Train on `batches(maps.examples, ...)`.

    Args:
        tokens: int32 `[n, height, width]`, values 0..categories-1.
        label: int32 `[n]`, values 0..classes-1.
        classes: the number of labels.
        palette: the colour of each category, (red, green, blue) of 0..255.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> tokens = np.zeros((5, 4, 4), np.int32)
        >>> maps = data.Maps(tokens, np.zeros(5, np.int32), classes=1, palette=[(0, 0, 0), (255, 255, 255)])
        >>> len(maps), maps.categories, maps.examples["x"].shape
        (5, 2, (5, 4, 4))
    """

    tokens: np.ndarray
    label: np.ndarray
    classes: int
    palette: Sequence[tuple[int, int, int]]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def categories(self) -> int:
        """The number of values of a pixel."""
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
    """Load a data set of maps.

    "fashion" are silhouettes of Fashion-MNIST, 28 x 28 with 11 categories: 0 for pixels below 32, and the class + 1
    elsewhere. They have ten labels and the splits of `load_fashion_mnist`.

    "emoji" are the emoji of a font, 32 x 32, in 8 colours: each pixel has the nearest of `COLOURS` in RGB. The font of
    Debian 12 has 3,926. Every tenth is for testing (9, 19, ...), every twentieth for validation (4, 24, ...).

    Args:
        name: "fashion" or "emoji".
        split: "train", "validation" or "test".
        folder: for "fashion" as in `load_fashion_mnist`; for "emoji" the folder of NotoColorEmoji.ttf, by default that
            of Debian's package fonts-noto-color-emoji.
        data_dir: as in `load_fashion_mnist`; not for "emoji".

    Returns:
        `Maps`.

    Raises:
        ValueError: if the name or the split is another.
        FileNotFoundError: if the font is missing.

    Examples:
        >>> from jaxdiff import data
        >>> data.maps("fashion").tokens.shape  # doctest: +SKIP
        (55000, 28, 28)
    """
    check_choice("name", name, ("fashion", "emoji"))
    check_choice("split", split, get_args(Split))
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
    emoji = emoji[place == split]
    return Maps(_nearest(emoji), np.zeros(len(emoji), np.int32), 1, COLOURS)


def _nearest(pixels: np.ndarray) -> np.ndarray:
    """The index of the nearest of `COLOURS` for each pixel [..., 3]: int32 [...]."""
    nearest, best = np.zeros(pixels.shape[:-1], np.int32), np.full(pixels.shape[:-1], np.inf, np.float32)
    for i, colour in enumerate(COLOURS):
        far = np.square(pixels.astype(np.float32) - np.asarray(colour, np.float32)).sum(-1)
        nearest, best = np.where(far < best, i, nearest), np.minimum(far, best)
    return nearest
