"""Images in rows, and their noising or denoising."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import as_array, check_array, check_instance, check_whole, with_dtype
from jaxdiff.plotting.picture import DPI, GREY, INK, PathLike, Picture

NAME_SIZE = 9  # of a row's name, in points
NAME_GAP = 12  # between a row's name and its images, in pixels


def sample_grid(
    images,
    path: PathLike = None,
    columns: int | None = None,
    title: str | None = None,
    names: Sequence[str] | None = None,
) -> Picture:
    """Show images in a grid.

    Values are model values in [-1, 1]; those outside are clipped.

    Args:
        images: floats `[n, H, W, C]`, C = 1 or 3.
        path: file to save the picture in, if any.
        columns: images in a row; None makes about as many columns as rows.
        title: title of the picture.
        names: one for each row, written to its left.

    Raises:
        TypeError: for integers.
        ValueError: for another shape, no images, a NaN, `columns` below 1, or another number of names.

    Examples:
        >>> import numpy as np
        >>> import pathlib, tempfile
        >>> import jaxdiff as jd
        >>> images = np.random.default_rng(0).uniform(-1, 1, size=(6, 8, 8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "samples.png")
        ...     picture = jd.plotting.sample_grid(images, path, columns=3)
        ...     print(path.exists())
        True
    """
    images = _model_values(images, "images", "[n, H, W, C]", 4)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if check_whole("columns", columns, least=None) < 1:
        raise ValueError(f"columns = {columns}; expected at least 1")
    columns = min(columns, len(images))
    beside = _named_rows(names, math.ceil(len(images) / columns))
    return _tiles(images, columns, 56, title, beside=beside).saved(path)


def strip(
    trajectory, path: PathLike = None, times=None, names: Sequence[str] | None = None, title: str | None = None
) -> Picture:
    """Show the noising or denoising of one example or of several, one a row.

    Values are model values in [-1, 1]; those outside are clipped.

    Args:
        trajectory: floats `[frames, H, W, C]`, or `[rows, frames, H, W, C]`, C = 1 or 3.
        path: file to save the picture in, if any.
        times: the t written under each column, `[frames]`.
        names: one for each row, written to its left.
        title: title of the picture.

    Raises:
        TypeError: for integers.
        ValueError: for shapes that do not fit, no frames, or a NaN.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> frames = np.random.default_rng(0).uniform(-1, 1, size=(5, 8, 8, 1))
        >>> picture = jd.plotting.strip(frames, times=np.linspace(1, 0, 5))
        >>> len(picture.axes)
        1
    """
    trajectory = as_array(trajectory)
    if trajectory is not None and trajectory.ndim == 4:
        trajectory = trajectory[None]
    frames = _model_values(trajectory, "trajectory", "[frames, H, W, C] or [rows, frames, H, W, C]", 5)
    rows, columns = frames.shape[:2]
    if times is not None:
        times = check_array("times", times)
        if times.shape != (columns,):
            raise ValueError(f"times has shape {times.shape}; expected ({columns},), one t for each frame")
    beside = _named_rows(names, rows)
    below = [] if times is None else [f"{float(t):.2g}" for t in np.asarray(times)]
    if below:
        below[0] = f"t = {below[0]}"
    return _tiles(frames.reshape(-1, *frames.shape[2:]), columns, 80, title, below, beside).saved(path)


def _named_rows(names: Sequence[str] | None, rows: int) -> Sequence[str]:
    """`names`, one for each row, or none; raise for another number of them."""
    if names is None:
        return ()
    check_instance("names", names, (list, tuple), "a list of names, one for each row")
    if len(names) != rows:
        raise ValueError(f"names has {len(names)} entries; expected {rows}, one for each row")
    return names


def _model_values(images, name: str, expected: str, ndim: int) -> np.ndarray:
    """`images` as float32 clipped to [-1, 1]; raise if they are not images of model values."""
    given, images = images, as_array(images)
    if images is None or not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"{with_dtype(name, given).replace(' has ', ' have ')}; expected floating model values in [-1, 1]: show "
            "integer images as 2 * images / (levels - 1) - 1"
        )
    images = np.asarray(images)
    if images.ndim != ndim or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"{name} have shape {images.shape}; expected {expected}, none of these 0, and C = 1 or 3")
    images = images.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] holds a NaN or an infinity; {bad.size} of {len(images)} do")
    return images.clip(-1, 1)


def _tiles(images, columns: int, size: int, title: str | None, below=(), beside=()) -> Picture:
    """Images [n, H, W, C] row by row, enlarged by a whole factor to about `size` pixels each."""
    n, height, width, _ = images.shape
    rows, scale = math.ceil(n / columns), max(1, round(size / height))
    gap = round(size / 10)
    pitch_y, pitch_x = height * scale + gap, width * scale + gap
    canvas = np.ones((rows * pitch_y - gap, columns * pitch_x - gap, 3), np.float32)
    for i, image in enumerate((images + 1) / 2):
        y, x = i // columns * pitch_y, i % columns * pitch_x
        canvas[y : y + height * scale, x : x + width * scale] = image.repeat(scale, 0).repeat(scale, 1)

    margin, line = 16, 30
    left = margin + max(map(_room, beside), default=0)
    top, bottom = margin + line * bool(title), margin + line * bool(below)
    full_x, full_y = left + canvas.shape[1] + margin, top + canvas.shape[0] + bottom
    picture = Picture(full_x / DPI, full_y / DPI)
    box = (left / full_x, bottom / full_y, canvas.shape[1] / full_x, canvas.shape[0] / full_y)
    axes = picture.add_axes(box, xlim=(0, canvas.shape[1]), ylim=(canvas.shape[0], 0))
    axes.imshow(canvas, interpolation="nearest", extent=(0, canvas.shape[1], canvas.shape[0], 0), aspect="auto")
    axes.axis("off")
    if title:
        axes.text(0, -12, title, va="bottom", color=INK, size=11)
    for column, text in enumerate(below):
        axes.text(
            (column + 0.5) * pitch_x - gap / 2,
            canvas.shape[0] + 10,
            text,
            ha="center",
            va="top",
            color=GREY,
            size=8,
        )
    for row, text in enumerate(beside):
        axes.text(-NAME_GAP, (row + 0.5) * pitch_y - gap / 2, text, ha="right", va="center", color=INK, size=NAME_SIZE)
    return picture


def _room(name: str) -> int:
    """The pixels for the name of a row and the gap beside it; letters are up to 5 % wider at a lower resolution."""
    return NAME_GAP + math.ceil(1.1 * Picture(1, 1).text(0, 0, name, size=NAME_SIZE).get_window_extent().width)
