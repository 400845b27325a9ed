"""A folder of pictures as a data set.

A picture of another size is halved by 2 x 2 means while its shorter side is at least twice too long, then resized by a
bicubic filter, and cropped to its centre, as Dhariwal and Nichol (2021) prepared ImageNet.
"""

import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from jaxdiff.arrays import check_path, check_room, check_whole, fingerprint, require
from jaxdiff.data.images import Images
from jaxdiff.data.splits import Split, check_split, split_of

FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # the only readers of Pillow that are tried
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
AT_A_TIME = 32  # files that a thread reads at a time
HEAD = 512  # the first bytes of a file, in which most formats state the picture's size
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers of JPEG that the size follows
HELD = 10_000  # the most pictures that are held in memory, a second or two of reading
HELD_BYTES = 2**28  # and the most bytes


class ImageFolder:
    """The pictures in a folder and its sub-folders (.png, .jpg, .jpeg, .webp, .bmp), in the order of their names.

    It is a `Source` for `batches`: an example is {"image": uint8 `[size, size, channels]`, "label": int32}, read on
    demand. `load()` reads all into memory, and `held()` does so if they are few. Immediate sub-folders are classes, in
    the order of their names; without any, all pictures have label 0. Names that begin with a dot are skipped.

    Colours are those of the file: profiles and orientation tags are not applied, CMYK is converted, the upper 8 of 16
    bits are kept (12 bits in a file of 16 are an error), transparent pictures are composed on white, and of several
    frames the first is taken.

    Args:
        folder: the folder.
        size: height and width of the examples, in pixels.
        channels: 3 for colours, 1 for grey.
        split: "train", "validation" or "test" for about 90, 5 or 5 % of the files; None for all. The split of a file
            depends on its relative path alone, by its SHA-256: adding files does not move others.
        on_corrupt: "raise" or "skip" files that are not pictures. The constructor reads only their first bytes, or the
            header if these do not state the size. A file whose pixels are damaged raises when it is read; `load()` and
            `checked()` skip it.
        progress: whether to show a progress bar.

    Attributes:
        paths: the paths of the files, relative to the folder.
        label: int32 `[n]`.
        levels: 256.
        classes: the number of classes.
        names: their names.
        skipped: (path, reason) of the files that were skipped.

    Raises:
        TypeError: if `folder` is not a path, or `size` is not a whole number.
        ValueError: if the folder has no pictures, has pictures next to its classes, or has a link to a folder or out of
            it; or if files are not pictures or have more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
        FileNotFoundError: if there is no such folder.

    Source:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis" (how pictures are resized).

    Examples:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         pathlib.Path(folder, name).mkdir()
        ...         Image.new("RGB", (40, 30)).save(f"{folder}/{name}/0.png")
        ...     images = data.ImageFolder(folder, size=16).load(progress=False)
        >>> images.image.shape, list(images.names), images.label.tolist()
        ((2, 16, 16, 3), ['cat', 'dog'], [0, 1])
    """

    levels = 256

    def __init__(
        self,
        folder: str | os.PathLike,
        size: int = 64,
        channels: Literal[1, 3] = 3,
        split: Split | None = None,
        on_corrupt: Literal["raise", "skip"] = "raise",
        progress: bool = False,
    ):
        require("PIL", "tqdm")
        if (size := check_whole("size", size, least=None)) < 1:
            raise ValueError(f"size = {size}; expected at least 1")
        if check_whole("channels", channels) not in (1, 3):
            raise ValueError(f"channels = {channels}; expected 3 for colours or 1 for grey")
        check_room("a picture", size, size, channels, itemsize=1)
        check_split(split)
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(f"on_corrupt = {on_corrupt!r}; expected 'raise' or 'skip'")
        self.folder, self.size, self.channels = check_path("folder", folder).resolve(), size, channels
        self.on_corrupt: Literal["raise", "skip"] = on_corrupt
        self.skipped: list[tuple[str, str]] = []
        found = _pictures(self.folder)
        self.names = sorted({path.split("/")[0] for path in found if "/" in path})
        self._class = {name: i for i, name in enumerate(self.names)}
        if self.names and (beside := [path for path in found if "/" not in path]):
            raise ValueError(
                f"{self.folder} has {len(beside)} pictures next to its classes {', '.join(self.names)}, the first "
                f"{beside[0]}; move them into a class, or elsewhere"
            )
        self.classes = len(self.names) or 1
        self.paths = [path for path in found if split is None or split_of(os.fsencode(path)) == split]
        if not self.paths:
            of = "" if split is None else f" in its split {split!r}, which the hash of each path decides"
            raise ValueError(f"{self.folder} has no pictures{of}; expected files that end in {', '.join(SUFFIXES)}")
        self._bytes = np.zeros(len(self.paths), np.int64)
        self._keep_those_that(self._look, progress)

    @property
    def label(self) -> np.ndarray:
        """The class of every file, int32 [n]."""
        return np.array([self._class.get(path.split("/")[0], 0) for path in self.paths], np.int32)

    @property
    def fingerprint(self) -> str:
        """A string that identifies the contents: a hash of the files' names and lengths, the size and the channels."""
        files = "\n".join(f"{path!r} {size}" for path, size in zip(self.paths, self._bytes.tolist()))
        return fingerprint(self.size, self.channels, files)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self.paths[index]
        return {"image": self._read(path), "label": np.array(self._class.get(path.split("/")[0], 0), np.int32)}

    def checked(self, progress: bool = True) -> "ImageFolder":
        """Read every picture once, and return this set. With on_corrupt="skip" damaged pictures are removed from it."""
        self._keep_those_that(lambda i: self._read(self.paths[i]), progress)
        return self

    def held(self, progress: bool = True) -> "Images | ImageFolder":
        """`load()` for at most 10,000 pictures and 256 MiB; a larger set is returned as it is, to be read on demand.

        With on_corrupt="skip" every picture of a larger set is read once here.
        """
        if len(self) <= HELD and len(self) * self.channels * self.size**2 <= HELD_BYTES:
            return self.load(progress)
        return self.checked(progress) if self.on_corrupt == "skip" else self

    def load(self, progress: bool = True) -> Images:
        """Read all pictures into memory. With on_corrupt="skip" damaged pictures are removed."""
        images = np.empty((len(self), self.size, self.size, self.channels), np.uint8)

        def read(i: int) -> None:
            images[i] = self._read(self.paths[i])

        kept = self._keep_those_that(read, progress)
        images = images if len(kept) == len(images) else images[kept]
        return Images(images, self.label, self.levels, self.classes, self.names)

    def _read(self, path: str) -> np.ndarray:
        return self._open(path, lambda image: _fitted(image, self.size, self.channels))

    def _look(self, index: int) -> None:
        """Record the length of a file. Raises ValueError if it is not a picture, or is too large to read."""
        descriptor = os.open(os.path.join(self.folder, self.paths[index]), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            head, self._bytes[index] = os.read(descriptor, HEAD), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        size = _size_of(head)
        if size is None or self._too_large(*size):
            self._open(self.paths[index], lambda image: None)

    def _too_large(self, width: int, height: int) -> str | None:
        """Why a picture of that size cannot be read; None if it can."""
        from PIL import Image

        if min(width, height) < 1:
            return "it has no pixels"
        pixels = width * height * max(1, self.size / min(width, height)) ** 2
        if Image.MAX_IMAGE_PIXELS is None or pixels <= Image.MAX_IMAGE_PIXELS:
            return None
        return (
            f"{width} x {height}, {pixels:.0f} pixels at this size, are more than "
            f"PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}"
        )

    def _open(self, path: str, use: Callable):
        """`use(image)` of an open picture whose pixels are not read yet. Raises ValueError if it is not a picture."""
        from PIL import Image

        try:
            with Image.open(os.path.join(self.folder, path), formats=FORMATS) as image:
                if why := self._too_large(*image.size):
                    raise ValueError(why)
                return use(image)
        except Exception as error:  # a damaged file raises whatever its format's parser does
            if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the file
                raise
            raise ValueError(f"{self.folder / path} is damaged or not a picture ({error})") from error

    def _keep_those_that(self, work: Callable[[int], object], progress: bool) -> list[int]:
        """Keep the files for whose index `work` raises no ValueError; skip others, or raise. Returns the indices."""
        from tqdm.auto import tqdm

        def attempt(start: int) -> list[ValueError | None]:
            reasons: list[ValueError | None] = []
            for i in range(start, min(start + AT_A_TIME, len(self))):
                try:
                    work(i)
                    reasons.append(None)
                except ValueError as error:
                    reasons.append(error)
            return reasons

        found: list[ValueError | None] = []
        threads = os.cpu_count()  # more threads wait for each other: three times the CPU time on a busy machine
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(self), unit="file", disable=not progress, leave=False) as bar,
        ):
            try:
                for reasons in pool.map(attempt, range(0, len(self), AT_A_TIME)):
                    found += reasons
                    bar.update(len(reasons))
            except BaseException:  # such as Ctrl-C: do not wait for work that has not begun
                pool.shutdown(cancel_futures=True)
                raise
        bad = [(path, error) for path, error in zip(self.paths, found) if error is not None]
        if bad and self.on_corrupt == "raise":
            raise ValueError(
                f"{bad[0][1]}, the first of {len(bad)} such files among {len(found)}; repair or remove them, or skip "
                'them by on_corrupt="skip"'
            ) from bad[0][1]
        self.skipped += [(path, str(error.__cause__)) for path, error in bad]
        kept = [i for i, error in enumerate(found) if error is None]
        if not kept:
            raise ValueError(f"all {len(found)} files in {self.folder} were skipped; the first: {bad[0][1]}")
        self.paths, self._bytes = [self.paths[i] for i in kept], self._bytes[kept]
        return kept


def _pictures(folder: Path) -> list[str]:
    """The relative paths of the picture files below a folder, in order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one with pictures in it")
    found, below = [], [""]
    while below:
        within = below.pop()
        with os.scandir(folder / within) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if entry.is_symlink():
                        raise ValueError(
                            f"{entry.path} is a link to a folder, which is not followed; put the folder itself there"
                        )
                    below.append(f"{within}{entry.name}/")
                elif entry.name.lower().endswith(SUFFIXES):
                    inside = not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(folder)
                    if not (entry.is_file() and inside):
                        raise ValueError(
                            f"{entry.path} is not a file in {folder}, or a link that leads out of it; remove it"
                        )
                    found.append(within + entry.name)
    return sorted(found)


def _size_of(head: bytes) -> tuple[int, int] | None:
    """(width, height) of a PNG or a JPEG by its first bytes; None if they do not state it, as in other formats."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and len(head) >= 24:
        return struct.unpack_from(">II", head, 16)
    if head.startswith(b"\xff\xd8"):
        at = 2
        while at + 9 <= len(head) and head[at] == 0xFF:
            if head[at + 1] in FRAMES:
                height, width = struct.unpack_from(">HH", head, at + 5)
                return width, height
            at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return None


def _check_depth(image) -> None:
    """Raise if a picture of 16 bits does not use two or more of its upper bits, such as a picture of 12 bits."""
    if not (image.tile and str(image.tile[0].args).endswith(";16B")):  # Pillow's name for PNG's 16 bits
        return
    values = np.asarray(image)
    if values.ndim == 2 and not values.any():  # black in any depth
        return
    used = int(values.max()).bit_length() if values.ndim == 2 else int(values[..., :3].max()).bit_length() + 8
    if used <= 14:
        raise ValueError(
            f"its values have 16 bits, of which the upper {16 - used} are unused: only the upper 8 are read, which "
            f"would be nearly black; multiply the values by {2 ** (16 - used)}, or save them with 8 bits"
        )


def _fitted(image, size: int, channels: int) -> np.ndarray:
    """The centre of a picture at the size, uint8 [size, size, channels]."""
    from PIL import Image

    _check_depth(image)
    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    if image.size == (size, size):
        return np.asarray(image).reshape(size, size, channels)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).reshape(size, size, channels)
