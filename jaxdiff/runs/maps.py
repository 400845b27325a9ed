"""Runs of maps, which are pictures whose pixels are categories."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import atomic_write, check_whole, said
from jaxdiff.config import Config
from jaxdiff.metrics import Distance
from jaxdiff.runs.known import shuffled
from jaxdiff.runs.labels import Labelled, check_label
from jaxdiff.runs.tokens import LIMIT, Tokens
from jaxdiff.vocabulary import WORDS, Network

MASKED = (150, 150, 150)  # the colour of masks
CELLS = 4  # parts along a side, for features
FRAMES = 12  # steps shown in denoising.png


@dataclasses.dataclass(frozen=True)
class Maps(Labelled, Tokens):
    """What a run of maps keeps of its data.

    Attributes:
        event: (height, width).
        data_std: 1; not used.
        palette: the colour of each category, (red, green, blue) of 0..255.
        classes: the number of labels, 0 to classes - 1.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import runs
        >>> known = runs.Maps(event=(4, 4), data_std=1.0, palette=((0, 0, 0), (255, 255, 255)), classes=1)
        >>> known.categories
        2
        >>> known.restore(np.ones((3, 4, 4), int)).dtype
        dtype('uint8')
    """

    SOURCES: ClassVar = (jd.data.Maps,)
    NETWORK: ClassVar = WORDS.parse("unet(channels=(16, 32), blocks=1, attention=(1,))", Network)
    SHOWN: ClassVar = 64
    names: ClassVar = ()

    palette: tuple[tuple[float, ...], ...]
    classes: int

    def __post_init__(self):
        super().__post_init__()
        if len(self.event) != 2:
            raise ValueError(f"event = {self.event}; expected (height, width)")
        if len(self.palette) < 2 or {*map(len, self.palette)} != {3}:
            raise ValueError(f"palette = {said(self.palette)}; expected (red, green, blue) of two categories or more")
        check_whole("classes", self.classes, most=2**31 - 1)

    @classmethod
    def learned(cls, config: Config, source, seen: int = 0) -> "Maps":
        """From the maps of `jaxdiff.data.maps`."""
        cls.check(config)
        check_label(config, "maps", source.classes)
        return cls(source.tokens.shape[1:], 1.0, source.palette, source.classes)

    @property
    def noun(self) -> str:
        """What one value is called."""
        return "pixel"

    @property
    def categories(self) -> int:
        """The number of values of a pixel, the mask not counted."""
        return len(self.palette)

    def offered(self, config: Config) -> dict[str, Any]:
        """The arguments for all tokens, and the classes."""
        return super().offered(config) | ({"classes": self.classes} if config.condition else {})

    def lasting(self, config: Config) -> dict[str, Any]:
        """The shape and the categories, and for a conditional model the classes."""
        return super().lasting(config) | ({"classes": self.classes} if config.condition else {})

    def examples(self, source) -> Any:
        """The maps with their labels."""
        return source.examples

    def prepare(self, config: Config) -> Callable:
        """The maps unchanged, and their labels if they are the condition."""
        return lambda key, batch: (batch["x"], batch["label"] if config.condition else None)

    def real(self, source, config, condition, most) -> tuple[np.ndarray, np.ndarray]:
        """Categories and labels."""
        self._check_alike(source)
        order = shuffled(len(source))
        if wanted := [label for text in condition for label in self._labels(text)]:
            order = order[np.isin(source.label[order], wanted)]
        return source.tokens[order[:most]], source.label[order[:most]]

    def features(self, features, folder, source, held_out, progress) -> tuple[Callable, dict[str, Any]]:
        """The share of each category in each of 4 x 4 parts of a map."""
        if features is not None:
            raise ValueError(f"features = {said(features)} are for pictures; maps are compared by shares: leave it out")
        name = f"shares of {self.categories} categories in {CELLS} x {CELLS} parts"
        return lambda tokens: shares(tokens, self.categories), {"name": name}

    def distances(self, key, real, x) -> dict[str, Distance]:
        """Empty: maps are compared by features."""
        return {}

    def restore(self, x) -> np.ndarray:
        """The categories, uint8."""
        return np.asarray(x).astype(np.uint8 if self.categories <= 256 else np.int32)

    def write(self, x, folder: Path) -> Path:
        """Write samples.npy."""
        with atomic_write(folder / "samples.npy") as file:
            np.save(file, x)
        return folder / "samples.npy"

    def coloured(self, x) -> np.ndarray:
        """Maps as pictures [..., 3] in [-1, 1], in the colours of the palette with masks in grey."""
        return np.array([*self.palette, MASKED], np.float32)[np.asarray(x)] / 127.5 - 1

    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> Path:
        """Draw samples in a grid."""
        return self.in_rows(self.coloured(x), path, title, cond)

    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """Draw denoising.png: a sample at several times from noise to data."""
        path = np.asarray(draw(1, None, FRAMES, seed=1, trajectory=True))[:, 0]
        jd.plotting.strip(self.coloured(path), folder / "denoising.png", names=["noise to data"])

    def score(self, key, denoiser, source, limit, conditional, lasting, **settings) -> tuple[dict, str]:
        """The bound in bits per pixel."""
        self._check_alike(source)
        chosen = shuffled(len(source))[: limit or LIMIT]
        x, cond = source.tokens[chosen], source.label[chosen] if conditional else None
        counted = np.full(len(x), x[0].size)
        figures, _ = self.bits(key, denoiser, jnp.asarray(x), None, counted, cond, lasting, **settings)
        return figures, self.in_words(figures)

    def _check_alike(self, source) -> None:
        if (source.tokens.shape[1:], source.categories) != (self.event, self.categories):
            raise ValueError(
                f"the maps are {source.tokens.shape[1:]} with {source.categories} categories; expected {self.event} "
                f"with {self.categories}, as those that the run was trained on"
            )


def shares(tokens, categories: int) -> np.ndarray:
    """The share of each category in each of 4 x 4 parts of maps [n, height, width]: float64 [n, 16 `categories`]."""
    parts = [cell for row in np.array_split(np.asarray(tokens), CELLS, 1) for cell in np.array_split(row, CELLS, 2)]
    of = lambda cell: np.stack([(cell == i).mean((1, 2)) for i in range(categories)], 1)
    return np.concatenate([of(cell) for cell in parts], axis=1)
