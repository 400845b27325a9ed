"""Sets of images, prepared once by TFDS and read back as arrays, or example by example where they are too large."""

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

AT_A_TIME = 32  # images a thread reads
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Integer images with their labels.

    Attributes:
        image: uint8 [n, height, width, channels], values 0..levels-1.
        label: int32 [n], values 0..classes-1.
        names: of the classes; none where they have none.
    """

    image: np.ndarray
    label: np.ndarray
    levels: int
    classes: int
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.label)


class ImageSource:
    """Integer images with their labels on disk: a source for `batches`.

    An example is {"image": uint8 [height, width, channels], values 0..levels-1; "label": int32, 0..classes-1}.
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
    """The mean and the standard deviation of pixel values, of all images of a set where they are n or fewer.

    Of more it takes n, drawn from `seed` without repeats, which are read in threads, a few at a time. Sums are of whole
    numbers, and exact. `images` are `Images`, or a source of examples with an "image" of uint8.

    Raises TypeError for other examples, and what the source raises.
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
    """1,797 digits of 8 x 8 pixels, 17 levels, ten classes (Alpaydin and Kaynak 1998), in scikit-learn order.

    "train" is the first 1,000 images, "validation" the next 350, "test" the last 447. The first call prepares
    the data set in `data_dir`/sklearn_digits (by default in TFDS's own folder); nothing is downloaded.

    Raises:
        ValueError: for another split, and for a prepared folder that is damaged, naming the folder to remove.
    """
    from jaxdiff.data.builders import Digits

    return _load(Digits, split, data_dir)


def load_fashion_mnist(
    split: Split = "train", folder: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> Images:
    """70,000 grey images of clothes, 28 x 28 pixels, 256 levels, ten classes (Xiao, Rasul and Vollgraf 2017).

    "train" is the first 55,000 of the published training set, "validation" its last 5,000, "test" the published
    10,000. The first call prepares the data set in `data_dir`/jaxdiff_fashion_mnist (by default in TFDS's own folder)
    from the four published files (train-images-idx3-ubyte.gz, ...), whose content is checked: those in `folder`, or of
    Debian's package dataset-fashion-mnist, or else downloaded. Later calls do not look at `folder`.

    Raises:
        ValueError: for another split, for a file that is not the published one, and for a prepared folder that is
            damaged, naming the folder to remove.
        FileNotFoundError: for a `folder` that lacks one of the four.
        ConnectionError: where they must be downloaded and cannot be.
    """
    from jaxdiff.data.builders import FashionMNIST

    return _load(FashionMNIST, split, data_dir, folder=DEBIAN if folder is None and DEBIAN.is_dir() else folder)


def load_cifar10(split: Split = "train", data_dir: str | os.PathLike | None = None) -> Images:
    """60,000 colour photographs, 32 x 32 pixels, 256 levels, ten classes (Krizhevsky 2009).

    "train" is the first 45,000 of the published training set, "validation" its last 5,000, "test" the published
    10,000. The first call downloads the binary version and prepares the data set in `data_dir`/jaxdiff_cifar10 (by
    default in TFDS's own folder).

    Raises:
        ValueError: for another split, and for a prepared folder that is damaged, naming the folder to remove.
        ConnectionError: where it must be downloaded and cannot be.
    """
    from jaxdiff.data.builders import Cifar10

    return _load(Cifar10, split, data_dir)


def load_imagenet64(
    split: Split = "train", folder: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> ImageSource:
    """1,331,167 photographs, 64 x 64 pixels, 256 levels, a thousand classes (Chrabaszcz et al. 2017), read from disk.

    "train" is the first 1,271,167 of the published training set, "validation" its last 10,000, "test" the published
    50,000 for validation, which papers report on. The first call prepares the data set in
    `data_dir`/jaxdiff_imagenet64 (by default in TFDS's own folder), 16 GB, from the published archives in `folder`:
    train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz, which https://image-net.org gives to who is
    logged in. Later calls do not look at `folder`.

    Raises:
        ValueError: for another split, for an archive that is not as published, and for a prepared folder that is
            damaged, naming the folder to remove.
        FileNotFoundError: for a `folder` that lacks an archive.
    """
    from jaxdiff.data.builders import ImageNet64

    builder, prepared = _prepared(ImageNet64, split, data_dir, folder=folder)
    with _named_where_damaged(prepared):
        examples = builder().as_data_source(split)
        _check_length(ImageNet64, split, len(examples))
        lengths = examples.dataset_info.splits[split].shard_lengths
        source = ImageSource(examples, ImageNet64.LEVELS, ImageNet64.CLASSES, prepared)
    source.__getitems__([0, *np.cumsum(lengths[:-1]).tolist()])  # one of each file, so that none is missed only later
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
    """What makes the builder of a set, and the folder where that now lies prepared."""
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
        raise ValueError(f"{found} examples where {split} has {len(kind.SPLITS[split])}")


def _prepare(builder, folder: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            builder.download_and_prepare()
        except OSError:
            if not os.path.exists(folder):  # otherwise another process has just put it there, whole
                raise


def _read(builder, split: Split) -> Sequence[dict]:
    source = builder.as_data_source(split)
    return source.__getitems__(range(len(source)))
