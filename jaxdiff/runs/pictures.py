"""Runs of pictures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import atomic_write, check_whole
from jaxdiff.config import Config
from jaxdiff.metrics import Distance
from jaxdiff.runs.features import centres, of_classifier
from jaxdiff.runs.known import SEEN, Known, shuffled
from jaxdiff.runs.labels import Labelled, check_label
from jaxdiff.vocabulary import WORDS, Network

AT_ONCE = 1000  # pictures read at a time


@dataclasses.dataclass(frozen=True)
class Pictures(Labelled, Known):
    """What a run of pictures keeps of its data.

    Attributes:
        event: (height, width, channels).
        data_std: the standard deviation of pixel values on [-1, 1].
        levels: the number of values of a pixel.
        classes: the number of labels, 0 to classes - 1.
        names: the names of the classes, or empty.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import runs
        >>> known = runs.Pictures(event=(8, 8, 1), data_std=0.7, levels=17, classes=10)
        >>> pixels = known.restore(np.full((2, 8, 8, 1), 0.99, np.float32))
        >>> pixels.dtype, int(pixels.max())
        (dtype('uint8'), 16)
    """

    SOURCES: ClassVar = (jd.data.Images, jd.data.ImageFolder, jd.data.ImageSource)
    NETWORK: ClassVar = WORDS.parse("unet(channels=(16, 32), blocks=1, attention=(1,))", Network)
    SHOWN: ClassVar = 64

    levels: int
    classes: int
    names: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if len(self.event) != 3:
            raise ValueError(f"event = {self.event}; expected (height, width, channels)")
        check_whole("levels", self.levels, least=2, most=2**16)
        check_whole("classes", self.classes, most=2**31 - 1)
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} names of {self.classes} classes; expected one each, or none")

    @classmethod
    def learned(cls, config: Config, source, seen: int = SEEN) -> "Pictures":
        """From images of `jaxdiff.data`."""
        check_label(config, "pictures", source.classes, "; put each class into a sub-folder")
        event = _at(source, np.arange(1))[0].shape[1:]
        std = 2 / source.levels * jd.data.pixel_moments(source, seen)[1]
        names = tuple(getattr(source, "names", ()))
        return cls(event, std, source.levels, source.classes, names)

    def offered(self, config: Config) -> dict[str, Any]:
        """The channels for a U-Net, the event for an MLP, and the classes."""
        classes = {"classes": self.classes} if config.condition else {}
        return {"channels_in": self.event[-1], "event": self.event} | classes

    def lasting(self, config: Config) -> dict[str, Any]:
        """The shape and the levels, and for a conditional model the classes."""
        classes = {"classes": self.classes, "names": self.names} if config.condition else {}
        return super().lasting(config) | {"levels": self.levels} | classes

    def examples(self, source) -> Any:
        """The pictures with their labels, as arrays if they are in memory."""
        return {"image": source.image, "label": source.label} if isinstance(source, jd.data.Images) else source

    def prepare(self, config: Config) -> Callable:
        """Dequantise, and mirror half of the pictures if the config says so."""
        levels, flip, conditional = self.levels, config.flip, bool(config.condition)

        def prepare(key, batch):
            noise_key, _, flip_key = jax.random.split(key, 3)
            x0 = jd.dequantize(noise_key, batch["image"], levels)
            if flip:
                mirrored = jax.random.bernoulli(flip_key, 0.5, (len(x0), 1, 1, 1))
                x0 = jnp.where(mirrored, x0[:, :, ::-1], x0)
            return x0, batch["label"] if conditional else None

        return prepare

    def real(self, source, config, condition, most) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and labels."""
        wanted = [label for text in condition for label in self._labels(text)]
        images, labels = [], []
        for indices in np.split(shuffled(len(source)), range(AT_ONCE, len(source), AT_ONCE)):
            image, label = _at(source, indices)
            label = self._own_labels(source, label) if config.condition else label
            kept = np.isin(label, wanted) if wanted else slice(None)
            images.append(image[kept])
            labels.append(label[kept])
            if sum(map(len, labels)) >= most:
                break
        self._check_alike(source, images[0])
        return np.concatenate(images)[:most], np.concatenate(labels)[:most]

    def features(self, features, folder, source, held_out, progress) -> tuple[Callable, dict[str, Any]]:
        """The features of a classifier of the pictures, their pixels, or the features of the user's function."""
        if callable(features):
            if self.levels != 256:
                raise ValueError(f"the pictures have {self.levels} levels; features of a function expect 256, 8 bits")
            return features, {"name": getattr(features, "name", getattr(features, "__name__", "a function"))}
        if features == "pixels" or (features is None and source.classes < 2):
            why = "" if features else ", as the pictures have no labels for a classifier"
            return lambda images: centres(images, self.levels).reshape(len(images), -1), {"name": f"pixels{why}"}
        if source.classes < 2:
            raise ValueError("features = 'classifier', but the pictures are of one class; expected 'pixels'")
        classifier = of_classifier(folder, source, self.examples(source), self.event, progress)
        accuracy, error = classifier.accuracy(*held_out)
        return classifier, {"name": classifier.name, "accuracy": accuracy, "accuracy_standard_error": error}

    def whole(self, x, cond) -> np.ndarray:
        """The pixels."""
        return self.restore(x)

    def distances(self, key, real, x) -> dict[str, Distance]:
        """Empty: pictures are compared by features."""
        return {}

    def restore(self, x) -> np.ndarray:
        """The pixels, uint8 (uint16 beyond 256 levels)."""
        return np.asarray(jd.quantize(jnp.asarray(x), self.levels)).astype(
            np.uint8 if self.levels <= 256 else np.uint16
        )

    def write(self, x, folder: Path) -> Path:
        """Write samples.npy."""
        with atomic_write(folder / "samples.npy") as file:
            np.save(file, x)
        return folder / "samples.npy"

    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> Path:
        """Draw the first 256 samples in a grid. With several labels each has a row, of at most 16 samples."""
        return self.in_rows(x, path, title, cond)

    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """Draw denoising.png: a picture of the data at several times to noise, and a sample at these times back."""
        count = 44
        times = np.append(jd.grids.Angle()(denoiser.process, count)[::4], 0.0)
        alpha, sigma = (np.asarray(c).reshape(-1, 1, 1, 1) for c in denoiser.process.marginal(times))
        x0 = jd.dequantize(jax.random.key(1), _at(source, np.arange(1))[0], self.levels)
        noising = alpha * x0 + sigma * jax.random.normal(jax.random.key(2), x0.shape)
        denoising = draw(1, jd.samplers.DDIM(), count, seed=1, grid=jd.grids.Angle(), trajectory=True)[::4, 0]
        scale = np.hypot(alpha, sigma).clip(1.0)
        rows = np.stack([noising[::-1] / scale[::-1], denoising / scale])
        jd.plotting.strip(rows, folder / "denoising.png", names=["data to noise", "noise to data"])

    def score(self, key, denoiser, source, limit, conditional, lasting, **settings) -> tuple[dict, str]:
        """Bits per dimension, by `jaxdiff.bits_per_dim`: of all pictures in their order, or of the first `shuffled`."""
        images, labels = _at(source, np.arange(len(source)) if limit is None else shuffled(len(source))[:limit])
        self._check_alike(source, images)
        cond = self._own_labels(source, labels) if conditional else None
        if wrong := sorted(settings.keys() & {"draws", "chain"}):
            raise ValueError(f"{wrong[0]} = {settings[wrong[0]]} is for texts and maps; leave it out")
        report = jd.bits_per_dim(key, denoiser, images, levels=self.levels, cond=cond, **lasting, **settings)
        return _figures(report) | {"per_example": str(lasting["record"])}, str(report)

    def _check_alike(self, source, images: np.ndarray) -> None:
        if (images.shape[1:], source.levels) != (self.event, self.levels):
            raise ValueError(
                f"the pictures are {images.shape[1:]} with {source.levels} levels; expected {self.event} with "
                f"{self.levels}, as those that the run was trained on"
            )

    def _own_labels(self, source, labels: np.ndarray) -> np.ndarray:
        """The run's labels for pictures of `source`, matched by the names of classes if the run has names."""
        names = getattr(source, "names", ())
        if self.names:
            if unknown := sorted({*names} - {*self.names}) if names else ["none"]:
                raise ValueError(
                    f"the pictures have the classes {', '.join(unknown)}; expected those of the run, "
                    f"{', '.join(self.names)}. For p(x) without a label give --unconditional"
                )
            labels = np.array([self.names.index(name) for name in names])[labels]
        if labels.max() >= self.classes:
            raise ValueError(f"the pictures have label {labels.max()}; expected 0 to {self.classes - 1}")
        return labels.astype(np.int32)


def _at(source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pictures at `indices`, uint8 [n, height, width, channels], and their labels [n]."""
    if isinstance(source, jd.data.Images):
        return source.image[indices], source.label[indices]
    indices = indices.tolist()
    many = getattr(source, "__getitems__", None)
    examples = [source[i] for i in indices] if many is None else many(indices)
    return np.stack([example["image"] for example in examples]), np.array([example["label"] for example in examples])


def _figures(report: jd.BitsPerDim) -> dict:
    """The figures of a report and its budget, for a summary."""
    numbers = lambda value: {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.repr}
    figures = numbers(report)
    if (budget := report.budget) is not None:
        shifts = {name: getattr(budget, name)._asdict() for name in ("solver", "truncation", "arithmetic")}
        bound = {name: getattr(budget.bound, name) for name in ("bits_per_dim", "standard_error")}
        figures["budget"] = numbers(budget) | shifts | {"bound": bound}
    return figures
