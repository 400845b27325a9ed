"""Pictures: image grids, trajectories, the training curve, and densities, fields and samples in the plane.

Every function returns its figure, and saves it where `path` is given (the ending says how: .png, .pdf, .svg).
None needs a display or touches pyplot's state. A picture of the plane is panels, each of a layer or several:

    panels({"data": Points(x), "model": [Density(log_prob), Field(score)]}, path="model.png")
"""

import abc
import dataclasses
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from jaxdiff.arrays import atomic_write, check_choice, check_path

INK, GREY, FAINT, BLUE, ORANGE = "#22303c", "#7b8794", "#e4e8ec", "#2b6c99", "#d9692f"
DEPTHS = LinearSegmentedColormap.from_list("depths", ["#ffffff", "#d3e5ef", "#8fbcd6", "#4a8db7", BLUE, "#123a5a"])

_HUES = (BLUE, ORANGE, "#3c9d72", "#8a5fb0", "#c2456b", "#b8952b", "#4bb3c3")
_DPI = 144
_Path = str | os.PathLike | None


class Picture(Figure):
    """A figure that a notebook shows whether or not pyplot was imported. Width and height in inches."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

    def _saved(self, path: _Path) -> "Picture":
        if path is not None:
            path = check_path("path", path)
            check_choice("the ending of path", path.suffix[1:].lower(), sorted(self.canvas.get_supported_filetypes()))
            with atomic_write(path) as file:
                self.savefig(file, format=path.suffix[1:].lower())
        return self


def sample_grid(images, path: _Path = None, columns: int | None = None, title: str | None = None) -> Picture:
    """Images [n, H, W, C], C = 1 or 3, in rows of `columns` (by default about as many as there are rows).

    Values are model values, [-1, 1]; those outside are clipped. Raises TypeError for integers, ValueError for
    another shape, no images, a NaN, or columns < 1.
    """
    images = _model_values(images, "images", "[n, H, W, C]", 4)
    columns = min(math.ceil(math.sqrt(len(images))) if columns is None else columns, len(images))
    if columns < 1:
        raise ValueError(f"columns = {columns}; expected at least 1")
    return _tiles(images, columns, 56, title)._saved(path)


def strip(
    trajectory, path: _Path = None, times=None, names: Sequence[str] | None = None, title: str | None = None
) -> Picture:
    """The noising or denoising of one example, [frames, H, W, C], or of several: [rows, frames, H, W, C].

    Values are model values, [-1, 1]; those outside are clipped.

    Args:
        times: [frames], the t written under each column.
        names: one for each row, written to its left.

    Raises TypeError for integers, ValueError for shapes that do not fit, no frames, or a NaN.
    """
    if np.ndim(trajectory) == 4:
        trajectory = np.asarray(trajectory)[None]
    frames = _model_values(trajectory, "trajectory", "[frames, H, W, C] or [rows, frames, H, W, C]", 5)
    rows, columns = frames.shape[:2]
    if times is not None and np.shape(times) != (columns,):
        raise ValueError(f"times has shape {np.shape(times)}; expected ({columns},), one t for each frame")
    if names is not None and len(names) != rows:
        raise ValueError(f"names has {len(names)} entries; expected {rows}, one for each row")
    below = [] if times is None else [f"{float(t):.2g}" for t in np.asarray(times)]
    if below:
        below[0] = f"t = {below[0]}"
    return _tiles(frames.reshape(-1, *frames.shape[2:]), columns, 80, title, below, names or [])._saved(path)


def training_curve(metrics: Sequence[Mapping], path: _Path = None, title: str | None = None) -> Picture:
    """The loss over the steps, as recorded and smoothed by a Gaussian window a sixtieth of the run wide.

    `metrics` are records {"step", "loss", ...}, as `jaxdiff.training` writes them; other records, and
    those whose loss is not finite, are left out. The axis is logarithmic where the smoothed loss changes more
    than threefold. Raises ValueError if no record is left.
    """
    records = [(r["step"], r["loss"]) for r in metrics if "step" in r and np.isfinite(r.get("loss", np.nan))]
    if not records:
        raise ValueError(f'none of {len(metrics)} records has a "step" and a finite "loss"; train for a step first')
    step, loss = np.array(sorted(records), float).T
    at, smooth = _smoothed(step, loss)

    picture = Picture(6.4, 3.4)
    axes = picture.add_axes((0.08, 0.16, 0.82, 0.7))
    axes.plot(step, loss, color=BLUE, alpha=0.3, linewidth=0.8, marker="." if len(step) == 1 else None)
    axes.plot(at, smooth, color=BLUE, linewidth=2.0)
    last = axes.annotate(f"{smooth[-1]:.3g}", (at[-1], smooth[-1]), (6, 0), textcoords="offset points")
    last.set(color=BLUE, size=9, va="center")
    if loss.min() > 0 and smooth.max() > 3 * smooth.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(0, step[0]), step[-1] + (step[-1] == step[0]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.set_xlabel("step", color=GREY, size=9)
    axes.set_title(title or "training loss", loc="left", color=INK, size=11, pad=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(which="both", colors=GREY, labelsize=9, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return picture._saved(path)


class Layer(abc.ABC):
    """Something to draw in a panel of the square [-extent, extent]²."""

    @abc.abstractmethod
    def draw(self, axes: Axes, extent: float) -> None:
        """Draw on the axes of one panel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Density(Layer):
    """A density as depth of colour, given by its logarithm.

    Attributes:
        log_prob: the log-density, a function [m, 2] -> [m], or its values on `plane(extent, resolution)`,
            [resolution²] or [resolution, resolution].
        resolution: the points of the grid a side, for a function.
    """

    log_prob: Callable | np.ndarray
    resolution: int = 160

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw from white at 0; `panels` sets the density of the deepest colour."""
        if callable(self.log_prob):
            log_prob = np.asarray(self.log_prob(plane(extent, self.resolution)))
        else:
            log_prob = np.asarray(self.log_prob)
        side = math.isqrt(log_prob.size)
        if log_prob.shape not in ((side * side,), (side, side)):
            raise ValueError(
                f"a log-density has shape {log_prob.shape}; expected one value for each point of "
                "plane(extent, resolution): [resolution²]"
            )
        values = np.exp(log_prob.reshape(side, side))
        box = (-extent, extent, -extent, extent)
        axes.imshow(values, cmap=DEPTHS, origin="lower", extent=box, interpolation="bilinear")


@dataclasses.dataclass(frozen=True, eq=False)
class Points(Layer):
    """Samples [n, 2] as dots."""

    points: np.ndarray
    color: str = BLUE

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw smaller and fainter dots the more there are."""
        points = _in_plane(self.points, "points", "[n, 2]", 2)
        crowd = max(len(points) / 1000, 1)
        axes.scatter(*points.T, s=5 / crowd**0.5, alpha=0.75 / crowd**0.25, color=self.color, linewidths=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Field(Layer):
    """A vector field, a function [m, 2] -> [m, 2], as `arrows` x `arrows` arrows.

    A score is a thousand times longer far from the data than at its modes, so that an arrow's length is
    log(1 + |v| / median |v|): directions are exact, lengths tell order.
    """

    field: Callable
    arrows: int = 22
    color: str = INK

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw the longest arrow as long as the arrows are apart."""
        at = plane(extent, self.arrows)
        vectors = _in_plane(self.field(at), "the field", f"[{len(at)}, 2]", 2)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        length = np.maximum(length, np.finfo(float).tiny)
        shown = vectors / length * np.log1p(length / np.median(length))
        longest = np.linalg.norm(shown, axis=1).max()
        shown *= 2 * extent / self.arrows / longest
        axes.quiver(
            *at.T,
            *shown.T,
            color=self.color,
            alpha=0.8,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.0045,
            pivot="mid",
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Paths(Layer):
    """Trajectories [frames, n, 2] as thin lines with a dot at the last frame."""

    paths: np.ndarray
    color: str = BLUE

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw the lines under the dots."""
        paths = _in_plane(self.paths, "paths", "[frames, n, 2]", 3)
        axes.add_collection(LineCollection(list(paths.swapaxes(0, 1)), colors=GREY, linewidths=0.5, alpha=0.5))
        axes.scatter(*paths[-1].T, s=7, color=self.color, linewidths=0, zorder=3)


def plane(extent: float, resolution: int) -> np.ndarray:
    """Centres of resolution x resolution cells of [-extent, extent]²: [resolution², 2] float32, x fastest."""
    if not (extent > 0 and resolution >= 1):
        raise ValueError(f"extent = {extent}, resolution = {resolution}; expected both above 0")
    centres = extent * ((2 * np.arange(resolution) + 1) / resolution - 1)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def panels(
    panels: Mapping[str, Layer | Sequence[Layer]],
    path: _Path = None,
    extent: float = 2.5,
    columns: int | None = None,
    title: str | None = None,
) -> Picture:
    """The square [-extent, extent]² several times, each under its name: {name: layer or layers, from below}.

    All densities of a picture share one scale of colour, so that they can be compared.

    Raises ValueError for no panels, and for points or fields of another shape or with a NaN; TypeError for
    what is no layer.
    """
    if not panels:
        raise ValueError("panels is empty; expected {name: layer}, for example {'data': Points(x)}")
    stacks = {name: [layers] if isinstance(layers, Layer) else list(layers) for name, layers in panels.items()}
    for name, layers in stacks.items():
        for layer in layers:
            if not isinstance(layer, Layer):
                kind = type(layer).__name__
                raise TypeError(f"panel {name!r} holds a {kind}; expected Density, Points, Field or Paths")
    columns = min(columns or 4, len(stacks))
    rows = math.ceil(len(stacks) / columns)
    side, gap, head, above = 2.5, 0.12, 0.3, 0.4 if title else 0.0  # inches
    width, height = columns * (side + gap) + gap, rows * (side + head) + gap + above
    picture = Picture(width, height)
    for i, (name, layers) in enumerate(stacks.items()):
        row, column = divmod(i, columns)
        left, bottom = gap + column * (side + gap), height - above - (row + 1) * (side + head)
        axes = picture.add_axes((left / width, bottom / height, side / width, side / height))
        axes.set_title(name, loc="left", color=INK, size=10, pad=5)
        for layer in layers:
            layer.draw(axes, extent)
        axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color(FAINT)
    densities = [image for axes in picture.axes for image in axes.images]
    highest = max((image.get_clim()[1] for image in densities), default=1)
    for image in densities:
        image.set_clim(0, highest)
    if title:
        picture.text(gap / width, 1 - above / 2 / height, title, va="center", color=INK, size=12)
    return picture._saved(path)


def lines(
    panels: Mapping[str, Mapping[str, tuple]],
    path: _Path = None,
    x: str = "",
    y: str = "",
    floors: Mapping[str, float] | None = None,
    columns: int = 2,
) -> Picture:
    """Curves on logarithmic axes, {panel: {name: (x, y)}}, a name in one colour and with one mark in all of them.

    `floors` {panel: y} marks the level that no curve can pass. Raises ValueError for no panels, a curve whose two
    arrays differ in length or hold a value that is not above 0, or a floor of a panel that is not there.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels is empty, or one of them; expected {panel: {name: (x, y)}}")
    level = dict(floors or {})
    if unknown := set(level) - set(panels):
        raise ValueError(f"floors has {sorted(unknown)}; expected names among {sorted(panels)}")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    style = {name: (_HUES[i % len(_HUES)], "os^Dv"[i // len(_HUES) % 5]) for i, name in enumerate(names)}
    columns = min(columns, len(panels))
    width, height = 4.2 * columns + 2.4, 3.1 * (rows := math.ceil(len(panels) / columns))
    picture = Picture(width, height)
    for i, (title, curves) in enumerate(panels.items()):
        row, column = divmod(i, columns)
        box = ((4.2 * column + 0.7) / width, (height - 3.1 * row - 2.65) / height, 3.4 / width, 2.25 / height)
        axes = picture.add_axes(box, xscale="log", yscale="log")
        for name, (at, value) in curves.items():
            at, value = np.asarray(at, float), np.asarray(value, float)
            if at.shape != value.shape or at.ndim != 1 or not ((at > 0).all() and (value > 0).all()):
                raise ValueError(f"{title}, {name}: {at} and {value}; expected two arrays [n] of numbers above 0")
            color, mark = style[name]
            axes.plot(at, value, color=color, marker=mark, markersize=3.5, linewidth=1.4)
        if title in level:
            axes.axhline(level[title], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_title(title, loc="left", color=INK, size=10)
        axes.set_xlabel(x if row == rows - 1 else "", color=GREY, size=9)
        axes.set_ylabel(y if column == 0 else "", color=GREY, size=9)
        for axis in (axes.xaxis, axes.yaxis):
            decades = np.ptp(np.log10(axis.get_view_interval()))
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(which="both", colors=GREY, labelsize=8, length=0)
        axes.grid(color=FAINT, linewidth=0.8)
    entries = [Line2D([], [], color=c, marker=m, markersize=4, linewidth=1.4) for c, m in style.values()]
    picture.legend(entries, names, loc="center left", bbox_to_anchor=(4.2 * columns / width, 0.5), frameon=False)
    return picture._saved(path)


def _model_values(images, name: str, expected: str, ndim: int) -> np.ndarray:
    """`images` as float32 clipped to [-1, 1]; an error where they are not images of model values."""
    images = np.asarray(images)
    if np.issubdtype(images.dtype, np.integer) or images.dtype == bool:
        raise TypeError(
            f"{name} have dtype {images.dtype}; expected floating model values in [-1, 1]: show integer "
            "images as 2 * images / (levels - 1) - 1"
        )
    if images.ndim != ndim or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"{name} have shape {images.shape}; expected {expected}, none of them 0, and C = 1 or 3")
    images = images.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] holds a NaN or an infinity; {bad.size} of {len(images)} do")
    return images.clip(-1, 1)


def _in_plane(points, name: str, expected: str, ndim: int) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != ndim or points.shape[-1] != 2 or 0 in points.shape:
        raise ValueError(f"{name} has shape {points.shape}; expected {expected}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds {np.sum(~np.isfinite(points))} values that are NaN or infinite")
    return points


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
    left = margin + max((11 * len(name) for name in beside), default=0)
    top, bottom = margin + line * bool(title), margin + line * bool(below)
    full_x, full_y = left + canvas.shape[1] + margin, top + canvas.shape[0] + bottom
    picture = Picture(full_x / _DPI, full_y / _DPI)
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
        axes.text(-12, (row + 0.5) * pitch_y - gap / 2, text, ha="right", va="center", color=INK, size=9)
    return picture


def _smoothed(step, loss, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the loss there under a Gaussian window of standard deviation a sixtieth of the run."""
    at = np.linspace(step[0], step[-1], points)
    width = max((step[-1] - step[0]) / 60, 1)
    return at, np.array([np.average(loss, weights=np.exp(-(((step - s) / width) ** 2) / 2)) for s in at])
