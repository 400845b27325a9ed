"""scikit-learn's handwritten digits, prepared once by TFDS and read back as arrays."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Integer images with their labels.

    Attributes:
        image: uint8 [n, height, width, channels], values 0..levels-1.
        label: int32 [n], values 0..classes-1.
    """

    image: np.ndarray
    label: np.ndarray
    levels: int
    classes: int

    def __len__(self) -> int:
        return len(self.label)


def load_digits(split: Split = "train", data_dir: str | os.PathLike | None = None) -> Images:
    """1,797 digits of 8 x 8 pixels, 17 levels, ten classes (Alpaydin and Kaynak 1998), in scikit-learn order.

    "train" is the first 1,000 images, "validation" the next 350, "test" the last 447. The first call prepares
    the data set in `data_dir`/sklearn_digits (by default in TFDS's own folder); nothing is downloaded.

    Raises:
        ValueError: for another split.
        RuntimeError: for a prepared folder that is damaged, naming the folder to remove.
    """
    if split not in get_args(Split):
        raise ValueError(f"split = {split!r}; expected one of {', '.join(map(repr, get_args(Split)))}")
    from tensorflow_datasets.core.constants import DATA_DIR

    from jaxdiff.data.digits_dataset_builder import SPLITS, Builder

    data_dir = os.path.expanduser(data_dir or DATA_DIR)
    folder = os.path.join(data_dir, Builder.name, str(Builder.VERSION))
    if not os.path.exists(folder):
        _prepare(Builder(data_dir=data_dir, file_format="array_record"), folder)
    try:
        examples = _read(Builder(data_dir=data_dir, file_format="array_record"), split)
        if len(examples) != len(SPLITS[split]):
            raise RuntimeError(f"{len(examples)} examples where {split} has {len(SPLITS[split])}")
    except (ImportError, PermissionError):
        raise
    except Exception as error:  # a damaged file raises whatever its format's parser does
        raise RuntimeError(
            f"{folder} is damaged ({error}); remove that folder, and the next call prepares it"
        ) from error
    return Images(
        image=np.stack([example["image"] for example in examples]),
        label=np.array([example["label"] for example in examples], np.int32),
        levels=17,
        classes=10,
    )


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
