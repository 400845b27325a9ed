"""Data sets of images for TFDS, none of which needs TensorFlow; loaded when used.

A data set is one pair of arrays in the published order, and splits that are slices of it and keep that order.
"""

import abc
import gzip
import hashlib
import os
import tarfile
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import requests
import tensorflow_datasets as tfds

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_SHA256 = {  # of the content: what gzip adds, a name and a time, differs from one distributor to the next
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images of one shape with one of ten labels.

    Attributes:
        SHAPE: height, width, channels.
        LEVELS: how many values a pixel has.
        SPLITS: the indices of each split.
    """

    VERSION = tfds.core.Version("1.0.0")
    SHAPE: tuple[int, int, int]
    LEVELS: int
    SPLITS: ClassVar[dict[str, range]]

    @abc.abstractmethod
    def arrays(self, dl_manager) -> tuple[np.ndarray, np.ndarray]:
        """All images, uint8 [n, *SHAPE], and their labels [n], in the published order."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=self.SHAPE, dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        images, labels = self.arrays(dl_manager)
        return {split: self._generate_examples(images, labels, of) for split, of in self.SPLITS.items()}

    def _generate_examples(self, images, labels, indices):
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

    def arrays(self, dl_manager) -> tuple[np.ndarray, np.ndarray]:
        """As scikit-learn has them."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return pixels.reshape(-1, *self.SHAPE).astype(np.uint8), labels


class FashionMNIST(ImageBuilder, skip_registration=True):
    """70,000 grey pictures of clothes, 28 x 28 pixels (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747).

    `folder` is where the four published files are; None has TFDS download them.
    """

    name = "jaxdiff_fashion_mnist"
    SHAPE = (28, 28, 1)
    LEVELS = 256
    SPLITS: ClassVar = {"train": range(0, 55_000), "validation": range(55_000, 60_000), "test": range(60_000, 70_000)}

    def __init__(self, *, folder: str | os.PathLike | None = None, **settings):
        self.folder = folder
        super().__init__(**settings)

    def arrays(self, dl_manager) -> tuple[np.ndarray, np.ndarray]:
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
        return np.concatenate([images, test_images]).reshape(-1, *self.SHAPE), np.concatenate([labels, test_labels])


class Cifar10(ImageBuilder, skip_registration=True):
    """60,000 photographs of 32 x 32 pixels (Krizhevsky 2009), from the binary version: the other one is a pickle."""

    name = "jaxdiff_cifar10"
    SHAPE = (32, 32, 3)
    LEVELS = 256
    SPLITS: ClassVar = {"train": range(0, 45_000), "validation": range(45_000, 50_000), "test": range(50_000, 60_000)}

    def arrays(self, dl_manager) -> tuple[np.ndarray, np.ndarray]:
        """The five training batches, then the test batch; a record is the label, then the red, green, blue planes."""
        fix = f"connect to the network, or copy {Path(self.data_dir).parent} from a machine that has prepared it"
        path = _download(dl_manager, {"archive": CIFAR10_URL}, fix)["archive"]
        names = [
            f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        ]
        with tarfile.open(path) as archive:
            content = b"".join(archive.extractfile(name).read() for name in names)  # pyright: ignore
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _download(dl_manager, urls: dict[str, str], fix: str) -> dict[str, os.PathLike]:
    """The files behind `urls`, held by TFDS to its registered checksums. Without a network it would try for minutes."""
    url = next(iter(urls.values()))
    try:
        with requests.get(url, stream=True, timeout=10) as response:
            response.raise_for_status()
    except requests.RequestException as error:
        raise ConnectionError(f"{url} cannot be reached ({type(error).__name__}); {fix}") from error
    return dl_manager.download(urls)


def _content(path: os.PathLike, sha256: str) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected a folder with {', '.join(FASHION_MNIST_SHA256)}")
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} unpacks to SHA-256 {found}; expected {sha256}: fetch Fashion-MNIST's file again")
    return content
