"""TFDS builders of the image data sets, without TensorFlow. The module is imported when it is used.

A data set has images and labels in the published order, read in one or several parts, and splits that are slices of
that order. Files are not trusted: an archive is read member by member and never unpacked onto the disk, and no more of
it is inflated than the published one holds.
"""

import abc
import functools
import gzip
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import requests

from jaxdiff.arrays import digest, require

require("tensorflow_datasets", "sklearn")

import tensorflow_datasets as tfds

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_SHA256 = {  # of the content: the name and the time that gzip adds differ between distributors
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_MNIST_BYTES = 16 + 60_000 * 28 * 28  # of the largest file
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


IMAGENET64_FILES = (*(f"train_data_batch_{i}.npz" for i in range(1, 11)), "val_data.npz")
NPY_HEADER = 1024  # the most bytes that NumPy writes before an array of numbers
MEBIBYTE = 2**20  # room for a tar archive's headers and the two small texts in it


class Part(NamedTuple):
    """n consecutive images in the published order.

    Attributes:
        n: the number of images.
        read: a function that returns them, uint8 [n, *SHAPE], and their labels [n].
    """

    n: int
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


class ImageBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Images of one shape with one label each: a base class.

    It writes one shard per part of a split. TFDS's `GeneratorBasedBuilder` would keep a split in memory, and needs
    TensorFlow beyond a gigabyte.

    Attributes:
        SHAPE: height, width, channels.
        LEVELS: the number of values of a pixel.
        CLASSES: the number of labels.
        SPLITS: the indices of each split.
    """

    VERSION = tfds.core.Version("1.1.0")
    SHAPE: tuple[int, int, int]
    LEVELS: int = 256
    CLASSES: int = 10
    SPLITS: ClassVar[dict[str, range]]

    @abc.abstractmethod
    def parts(self, dl_manager) -> list[Part]:
        """All images in the published order; one part is in memory at a time."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    # bytes are 18 times faster to write and 3 times faster to read than TFDS's default of 64 bits
                    "image": tfds.features.Tensor(
                        shape=self.SHAPE, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
                    ),
                    "label": tfds.features.ClassLabel(num_classes=self.CLASSES),
                }
            ),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager):
        parts = self.parts(dl_manager)
        starts = np.cumsum([0, *(part.n for part in parts)]).tolist()
        return {
            split: [
                functools.partial(_examples, part, range(max(of.start - start, 0), min(of.stop - start, part.n)))
                for start, part in zip(starts, parts)
                if max(of.start, start) < min(of.stop, start + part.n)
            ]
            for split, of in self.SPLITS.items()
        }


def _examples(part: Part, indices: range) -> Iterator[tuple[int, dict]]:
    images, labels = part.read()
    for i in indices:
        yield i, {"image": images[i], "label": int(labels[i])}


class Digits(ImageBuilder, skip_registration=True):
    """1,797 handwritten digits of 8 x 8 pixels with 17 levels, 0 to 16 (Alpaydin and Kaynak 1998).

    They ship with scikit-learn.
    """

    name = "sklearn_digits"
    SHAPE = (8, 8, 1)
    LEVELS = 17
    SPLITS: ClassVar = {"train": range(0, 1000), "validation": range(1000, 1350), "test": range(1350, 1797)}

    def parts(self, dl_manager) -> list[Part]:
        """All digits, in scikit-learn's order."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return _whole(pixels.reshape(-1, *self.SHAPE).astype(np.uint8), labels)


class FashionMNIST(ImageBuilder, skip_registration=True):
    """70,000 grey pictures of clothes, 28 x 28 pixels (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747).

    `folder` has the four published files; for None TFDS downloads them.
    """

    name = "jaxdiff_fashion_mnist"
    SHAPE = (28, 28, 1)
    SPLITS: ClassVar = {"train": range(0, 55_000), "validation": range(55_000, 60_000), "test": range(60_000, 70_000)}

    def __init__(self, *, folder: str | os.PathLike | None = None, **settings):
        self.folder = folder
        super().__init__(**settings)

    def parts(self, dl_manager) -> list[Part]:
        """The published training set, then the test set."""
        if self.folder is None:
            paths = _download(
                dl_manager,
                {name: FASHION_MNIST_URL + name for name in FASHION_MNIST_SHA256},
                "connect to the network, or install Debian's package dataset-fashion-mnist, or give the folder of the "
                "four .gz files once: jaxdiff.data.load_fashion_mnist(folder=...)",
            )
        else:
            paths = {name: Path(self.folder) / name for name in FASHION_MNIST_SHA256}
        images, labels, test_images, test_labels = (
            np.frombuffer(_content(path, FASHION_MNIST_SHA256[name]), np.uint8, offset=16 if "images" in name else 8)
            for name, path in paths.items()
        )
        images = np.concatenate([images, test_images]).reshape(-1, *self.SHAPE)
        return _whole(images, np.concatenate([labels, test_labels]))


class Cifar10(ImageBuilder, skip_registration=True):
    """60,000 photographs of 32 x 32 pixels (Krizhevsky 2009), from the binary version; the other is a pickle."""

    name = "jaxdiff_cifar10"
    SHAPE = (32, 32, 3)
    SPLITS: ClassVar = {"train": range(0, 45_000), "validation": range(45_000, 50_000), "test": range(50_000, 60_000)}
    IMAGES_IN_A_FILE = 10_000

    def parts(self, dl_manager) -> list[Part]:
        """The five training batches, then the test batch. A record is the label, then the red, green, blue planes."""
        fix = f"connect to the network, or copy {Path(self.data_dir).parent} from a machine that has prepared it"
        path = _download(dl_manager, {"archive": CIFAR10_URL}, fix)["archive"]
        names = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        record = 1 + 3 * 32 * 32
        content = _members(path, [f"cifar-10-batches-bin/{name}.bin" for name in names], self.IMAGES_IN_A_FILE * record)
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        return _whole(_from_planes(records[:, 1:], 32), records[:, 0])


class ImageNet64(ImageBuilder, skip_registration=True):
    """1,331,167 photographs of 64 x 64 pixels with a thousand labels (Chrabaszcz et al. 2017, arXiv 1707.08819).

    `folder` has the published archives, which are read one at a time and take 1.6 GB of memory.
    """

    name = "jaxdiff_imagenet64"
    SHAPE = (64, 64, 3)
    CLASSES = 1000
    SPLITS: ClassVar = {
        "train": range(0, 1_271_167),
        "validation": range(1_271_167, 1_281_167),
        "test": range(1_281_167, 1_331_167),
    }

    def __init__(self, *, folder: str | os.PathLike | None = None, **settings):
        self.folder = folder
        super().__init__(**settings)

    def parts(self, dl_manager) -> list[Part]:
        """The ten archives of the training set, then the one of the validation set, whose labels are public."""
        if self.folder is None or not all((Path(self.folder) / name).is_file() for name in IMAGENET64_FILES):
            raise FileNotFoundError(
                f"ImageNet-64 is not in {self.folder}; expected {IMAGENET64_FILES[0]} to {IMAGENET64_FILES[-2]} and "
                f"{IMAGENET64_FILES[-1]}: log in at https://image-net.org, take both parts of the 64 x 64 training set "
                "and the validation set under 'Download downsampled image data (32x32, 64x64)', unpack them into one "
                "folder, and give it once: jaxdiff.data.load_imagenet64(folder=...)"
            )
        paths = [Path(self.folder) / name for name in IMAGENET64_FILES]
        labels = [self._labels(path) for path in paths]
        train, test = sum(map(len, labels[:-1])), len(labels[-1])
        of = self.SPLITS["test"]
        if (train, test) != (of.start, len(of)):
            raise ValueError(
                f"{self.folder} has {train} training and {test} validation images; expected {of.start} and {len(of)}: "
                "fetch the archives again"
            )
        return [Part(len(of), functools.partial(self._read, path, of)) for path, of in zip(paths, labels)]

    def _labels(self, path: Path) -> np.ndarray:
        """Labels 0..CLASSES-1; the archive counts from 1. The number of pixels is validated before they are read."""
        labels = _array(path, "labels", 8 * self.SPLITS["test"].stop)
        pixels = int(np.prod(self.SHAPE))
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise ValueError(f"{path}: labels are {labels.dtype}{list(labels.shape)}; expected whole numbers [n]")
        if labels.min() < 1 or labels.max() > self.CLASSES:
            raise ValueError(f"{path}: labels are {labels.min()} to {labels.max()}; expected 1 to {self.CLASSES}")
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist() if member.filename == "data.npy")
        if not 0 <= size - len(labels) * pixels <= NPY_HEADER:
            raise ValueError(
                f"{path}: data has {size} bytes; expected {len(labels) * pixels}, one for each of {pixels} values of "
                f"{len(labels)} images, and a header: fetch it again"
            )
        return labels - 1

    def _read(self, path: Path, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        expected = (len(labels), int(np.prod(self.SHAPE)))
        pixels = _array(path, "data", int(np.prod(expected)))
        if pixels.dtype != np.uint8 or pixels.shape != expected:
            raise ValueError(
                f"{path}: data is {pixels.dtype}{list(pixels.shape)}; expected uint8{list(expected)}: fetch it again"
            )
        return _from_planes(pixels, self.SHAPE[0]), labels


def _whole(images: np.ndarray, labels: np.ndarray) -> list[Part]:
    return [Part(len(labels), lambda: (images, labels))]


def _from_planes(pixels: np.ndarray, size: int) -> np.ndarray:
    """[n, 3 size size], the red plane first, as [n, size, size, 3]."""
    return pixels.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)


def _download(dl_manager, urls: dict[str, str], fix: str) -> dict[str, os.PathLike]:
    """Download `urls`; TFDS validates its registered checksums. Without a network it would retry for minutes."""
    url = next(iter(urls.values()))
    try:
        with requests.get(url, stream=True, timeout=10) as response:
            response.raise_for_status()
    except requests.RequestException as error:
        raise ConnectionError(f"{url} cannot be reached ({type(error).__name__}); {fix}") from error
    return dl_manager.download(urls)


def _inflate(path: os.PathLike, limit: int) -> bytes:
    """The content of a gzip file. Raises ValueError if it inflates to more than `limit` bytes."""
    try:
        with gzip.open(path) as file:
            content = file.read(limit + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error
    if len(content) > limit:
        raise ValueError(
            f"{path} unpacks to more than {limit} bytes, which the published file does not; fetch it again"
        )
    return content


def _members(path: os.PathLike, names: list[str], size: int) -> bytes:
    """The content of files of `size` bytes each in a gzipped tar archive, concatenated in the order of `names`."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflate(path, len(names) * size + MEBIBYTE)), mode="r:") as archive:
            for member in archive:
                if member.name in names:
                    if not member.isreg() or member.size != size or member.name in found:
                        kind = f"a file of {member.size} bytes" if member.isreg() else "no file"
                        raise ValueError(
                            f"{path}: {member.name} is {kind}; expected one file of {size}: fetch it again"
                        )
                    found[member.name] = archive.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error
    if missing := [name for name in names if len(found.get(name, b"")) != size]:
        raise ValueError(f"{path} is damaged ({missing[0]} is missing or incomplete); fetch it again")
    return b"".join(found[name] for name in names)


def _array(path: Path, name: str, limit: int) -> np.ndarray:
    """One array of an .npz file; ValueError for a pickle, or for more than `limit` bytes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if file.zip.getinfo(f"{name}.npy").file_size > limit + NPY_HEADER:
                raise ValueError(f"{name} is larger than {limit} bytes")
            return file[name]
    except OSError:
        raise
    except Exception as error:  # a damaged file raises whatever its parser does
        raise ValueError(f"{path} is not an archive of ImageNet-64 ({error}); fetch it again") from error


def _content(path: os.PathLike, sha256: str) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected a folder with {', '.join(FASHION_MNIST_SHA256)}")
    content = _inflate(path, FASHION_MNIST_BYTES)
    found = digest([content])
    if found != sha256:
        raise ValueError(f"{path} unpacks to SHA-256 {found}; expected {sha256}: fetch Fashion-MNIST's file again")
    return content
