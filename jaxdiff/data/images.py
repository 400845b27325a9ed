"""Data sets of images, prepared once by TFDS and read as arrays, or example by example if they are too large."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from jaxdiff.arrays import check_path, check_whole, said
from jaxdiff.data.batches import Source
from jaxdiff.data.splits import Split

if TYPE_CHECKING:
    from jaxdiff.data.builders import ImageBuilder

AT_A_TIME = 32  # images that a thread reads at a time
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist installs its files


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Integer images with their labels, in memory.

    Args:
        image: uint8 `[n, height, width, channels]`, values 0..levels-1.
        label: int32 `[n]`, values 0..classes-1.
        levels: the number of values of a pixel.
        classes: the number of labels.
        names: the names of the classes, or empty.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> images = data.Images(np.zeros((10, 8, 8, 1), np.uint8), np.arange(10), levels=17, classes=10)
        >>> batches = data.batches({"image": images.image, "label": images.label}, batch_size=5, seed=0)
        >>> len(images), batches[0]["image"].shape
        (10, (5, 8, 8, 1))
    """

    image: np.ndarray
    label: np.ndarray
    levels: int
    classes: int
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.label)


class ImageSource:
    """Integer images with their labels on disk: a `Source` for `batches`.

    An example is {"image": uint8 `[height, width, channels]`, values 0..levels-1; "label": int32, 0..classes-1}.

    Args:
        examples: a `data_source` of TFDS, or another sequence of such dicts with `__getitems__(indices)`.
        levels: the number of values of a pixel.
        classes: the number of labels.
        folder: where the data set is prepared, for messages.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> class Stored(list):  # in place of a data_source of TFDS
        ...     def __getitems__(self, indices):
        ...         return [self[i] for i in indices]
        >>> stored = Stored([{"image": np.zeros((8, 8, 1), np.uint8), "label": 3}] * 10)
        >>> source = data.ImageSource(stored, levels=17, classes=10, folder="digits")
        >>> data.batches(source, batch_size=5, seed=0)[0]["image"].shape
        (5, 8, 8, 1)
    """

    def __init__(self, examples: Sequence[dict], levels: int, classes: int, folder: str):
        self._examples, self._folder = examples, folder
        self.levels, self.classes = levels, classes

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        with _named_where_damaged(self._folder):
            examples = self._examples.__getitems__(indices)  # pyright: ignore[reportAttributeAccessIssue]
        return [{"image": example["image"], "label": np.int32(example["label"])} for example in examples]


def pixel_moments(images: Images | Source, n: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Measure the mean and the standard deviation of pixel values. Sums are of whole numbers, and exact.

    Args:
        images: `Images`, or a `Source` of examples with an "image" of uint8.
        n: how many images are measured at most, drawn without replacement.
        seed: the seed of that draw.

    Returns:
        (mean, standard deviation) in levels.

    Raises:
        TypeError: if `images` are others.
        ValueError: if there are none.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data
        >>> pixels = np.array([0, 16], np.uint8).reshape(2, 1, 1, 1)
        >>> data.pixel_moments(data.Images(pixels, np.zeros(2, np.int32), levels=17, classes=1))
        (8.0, 8.0)
    """
    check_whole("n", n, noun="image")
    check_whole("seed", seed, least=0)
    if not (hasattr(images, "__len__") and (isinstance(images, Images) or hasattr(images, "__getitem__"))):
        raise TypeError(f"images = {said(images)}; expected images of jaxdiff.data, or a source of such examples")
    if not len(images):
        raise ValueError("images is empty; expected at least one")
    chosen = np.arange(len(images))
    if len(images) > n:
        chosen = np.sort(np.random.RandomState(np.random.MT19937(seed)).permutation(len(images))[:n])

    def counts(indices: np.ndarray) -> np.ndarray:
        """How often each pixel value occurs in some of the images."""
        if isinstance(images, Images):
            return np.bincount(images.image[indices].ravel(), minlength=256)
        many = getattr(images, "__getitems__", None)
        examples = [images[int(i)] for i in indices] if many is None else many(indices.tolist())
        return np.sum([np.bincount(_pixels(example).ravel(), minlength=256) for example in examples], 0)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        total = np.sum([*pool.map(counts, np.array_split(chosen, -(-len(chosen) // AT_A_TIME)))], 0)
    values, share = np.arange(256), total / total.sum()
    mean = float(share @ values)
    return mean, float(np.sqrt(share @ (values - mean) ** 2))


def _pixels(example) -> np.ndarray:
    image = example.get("image") if isinstance(example, Mapping) else None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f'images has an example {said(example)}; expected a dict with an "image" of uint8')
    return image


def load_digits(split: Split = "train", data_dir: str | os.PathLike | None = None) -> Images:
    """Load the 1,797 digits of scikit-learn: 8 x 8 pixels, 17 levels, ten classes, in scikit-learn's order.

    "train" is the first 1,000 images, "validation" the next 350, "test" the last 447. The first call prepares the data
    set; nothing is downloaded.

    Args:
        split: "train", "validation" or "test".
        data_dir: the data set is prepared in `data_dir`/sklearn_digits; None means TFDS's own folder.

    Returns:
        `Images`.

    Raises:
        ValueError: if the split is another, or the prepared folder is damaged; the message names the folder to remove.

    Source:
        Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits".

    Examples:
        >>> import tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     digits = data.load_digits("test", data_dir=folder)
        >>> digits.image.shape, digits.levels, digits.classes
        ((447, 8, 8, 1), 17, 10)
    """
    from jaxdiff.data.builders import Digits

    return _load(Digits, split, data_dir)


def load_fashion_mnist(
    split: Split = "train", folder: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> Images:
    """Load Fashion-MNIST: 70,000 grey images of clothes, 28 x 28 pixels, 256 levels, ten classes.

    "train" is the first 55,000 of the published training set, "validation" its last 5,000, "test" the published
    10,000. The first call prepares the data set from the four published files (train-images-idx3-ubyte.gz, ...), whose
    content is validated.

    Args:
        split: "train", "validation" or "test".
        folder: the folder of the four files. None means those of Debian's package dataset-fashion-mnist if it is
            installed, and otherwise a download. Only the first call reads it.
        data_dir: the data set is prepared in `data_dir`/jaxdiff_fashion_mnist; None means TFDS's own folder.

    Returns:
        `Images`.

    Raises:
        ValueError: if the split is another, a file is not the published one, or the prepared folder is damaged; the
            message names the folder to remove.
        FileNotFoundError: if `folder` lacks one of the files.
        ConnectionError: if the files cannot be downloaded.

    Source:
        Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms".

    Examples:
        >>> from jaxdiff import data
        >>> data.load_fashion_mnist("test").image.shape  # doctest: +SKIP
        (10000, 28, 28, 1)
    """
    from jaxdiff.data.builders import FashionMNIST

    return _load(FashionMNIST, split, data_dir, folder=DEBIAN if folder is None and DEBIAN.is_dir() else folder)


def load_cifar10(split: Split = "train", data_dir: str | os.PathLike | None = None) -> Images:
    """Load CIFAR-10: 60,000 colour photographs, 32 x 32 pixels, 256 levels, ten classes.

    "train" is the first 45,000 of the published training set, "validation" its last 5,000, "test" the published
    10,000. The first call downloads the binary version and prepares the data set.

    Args:
        split: "train", "validation" or "test".
        data_dir: the data set is prepared in `data_dir`/jaxdiff_cifar10; None means TFDS's own folder.

    Returns:
        `Images`.

    Raises:
        ValueError: if the split is another, or the prepared folder is damaged; the message names the folder to remove.
        ConnectionError: if it cannot be downloaded.

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images".

    Examples:
        >>> from jaxdiff import data
        >>> data.load_cifar10("test").image.shape  # doctest: +SKIP
        (10000, 32, 32, 3)
    """
    from jaxdiff.data.builders import Cifar10

    return _load(Cifar10, split, data_dir)


def load_imagenet64(
    split: Split = "train", folder: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> ImageSource:
    """Load ImageNet-64: 1,331,167 photographs, 64 x 64 pixels, 256 levels, a thousand classes, read from disk.

    "train" is the first 1,271,167 of the published training set, "validation" its last 10,000, "test" the published
    50,000 for validation, on which papers report. The first call prepares the data set, 16 GB.

    Args:
        split: "train", "validation" or "test".
        folder: the folder of the published archives, train_data_batch_1.npz to train_data_batch_10.npz and
            val_data.npz, from https://image-net.org (with an account). Only the first call reads it.
        data_dir: the data set is prepared in `data_dir`/jaxdiff_imagenet64; None means TFDS's own folder.

    Returns:
        `ImageSource`.

    Raises:
        ValueError: if the split is another, an archive is not as published, or the prepared folder is damaged; the
            message names the folder to remove.
        FileNotFoundError: if `folder` lacks an archive.

    Source:
        Chrabaszcz, Loshchilov and Hutter 2017, "A downsampled variant of ImageNet as an alternative to the CIFAR
        datasets".

    Examples:
        >>> from jaxdiff import data
        >>> source = data.load_imagenet64("train", folder="archives")  # doctest: +SKIP
        >>> data.batches(source, batch_size=256, seed=0)[0]["image"].shape  # doctest: +SKIP
        (256, 64, 64, 3)
    """
    from jaxdiff.data.builders import ImageNet64

    builder, prepared = _prepared(ImageNet64, split, data_dir, folder=folder)
    with _named_where_damaged(prepared):
        examples = builder().as_data_source(split)
        _check_length(ImageNet64, split, len(examples))
        lengths = examples.dataset_info.splits[split].shard_lengths
        source = ImageSource(examples, ImageNet64.LEVELS, ImageNet64.CLASSES, prepared)
    source.__getitems__([0, *np.cumsum(lengths[:-1]).tolist()])  # one of each file, so that a missing file raises now
    return source


def _load(kind: "type[ImageBuilder]", split: Split, data_dir: str | os.PathLike | None, **source) -> Images:
    builder, prepared = _prepared(kind, split, data_dir, **source)
    with _named_where_damaged(prepared):
        examples = _read(builder(), split)
        _check_length(kind, split, len(examples))
    return Images(
        image=np.stack([example["image"] for example in examples]),
        label=np.array([example["label"] for example in examples], np.int32),
        levels=kind.LEVELS,
        classes=kind.CLASSES,
    )


def _prepared(
    kind: "type[ImageBuilder]", split: Split, data_dir: str | os.PathLike | None, **source
) -> tuple[Callable[[], Any], str]:
    """A function that makes the builder of a data set, and the folder in which it is now prepared."""
    if split not in get_args(Split):
        raise ValueError(f"split = {split!r}; expected one of {', '.join(map(repr, get_args(Split)))}")
    from tensorflow_datasets.core.constants import DATA_DIR

    data_dir = os.fspath(check_path("data_dir", DATA_DIR if data_dir is None else data_dir))
    source = {name: None if path is None else check_path(name, path) for name, path in source.items()}
    builder = lambda: kind(data_dir=data_dir, file_format="array_record", **source)
    folder = os.path.join(data_dir, kind.name, str(kind.VERSION))
    if not os.path.exists(folder):
        _prepare(builder(), folder)
    return builder, folder


@contextlib.contextmanager
def _named_where_damaged(folder: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, PermissionError):
        raise
    except Exception as error:  # a damaged file raises whatever its format's parser does
        raise ValueError(f"{folder} is damaged ({error}); remove that folder, and the next call prepares it") from error


def _check_length(kind: "type[ImageBuilder]", split: Split, found: int) -> None:
    if found != len(kind.SPLITS[split]):
        raise ValueError(f"{found} examples; expected {len(kind.SPLITS[split])} in {split}")


def _prepare(builder, folder: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            builder.download_and_prepare()
        except OSError:
            if not os.path.exists(folder):  # otherwise another process has just prepared it
                raise


def _read(builder, split: Split) -> Sequence[dict]:
    source = builder.as_data_source(split)
    return source.__getitems__(range(len(source)))
