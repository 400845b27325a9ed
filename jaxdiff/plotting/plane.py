"""Pictures of the plane: panels, each with one or more layers."""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from jaxdiff.arrays import (
    check_function,
    check_instance,
    check_real,
    check_room,
    check_scalar,
    check_whole,
)
from jaxdiff.plotting.picture import BLUE, DEPTHS, FAINT, GREY, INK, PathLike, Picture


class Layer(abc.ABC):
    """Base class of layers, which are drawn in a panel of the square [-extent, extent]².

    A subclass defines `draw`.

    Examples:
        >>> import jaxdiff as jd
        >>> class Circle(jd.plotting.Layer):
        ...     def draw(self, axes, extent):
        ...         axes.scatter([0.0], [0.0], s=100, facecolors="none", edgecolors=jd.plotting.INK)
        >>> picture = jd.plotting.panels({"circle": Circle()})
        >>> len(picture.axes)
        1
    """

    @abc.abstractmethod
    def draw(self, axes: Axes, extent: float) -> None:
        """Draw on the axes of one panel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Density(Layer):
    """A density, given by its logarithm, as depth of colour.

    Args:
        log_prob: the log-density, a function `[m, 2] -> [m]`, or its values on `plane(extent, resolution)`,
            `[resolution²]` or `[resolution, resolution]`.
        resolution: points a side of the grid on which a function is evaluated.

    Examples:
        >>> import jaxdiff as jd
        >>> normal = jd.plotting.Density(lambda x: -(x**2).sum(1) / 2, resolution=20)
        >>> picture = jd.plotting.panels({"normal": normal})
        >>> len(picture.axes)  # the panel and the bar of colours
        2
    """

    log_prob: Callable | np.ndarray
    resolution: int = 160

    def __post_init__(self):
        if not callable(self.log_prob):
            check_real("log_prob", self.log_prob)
        check_whole("resolution", self.resolution)

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
    """Samples as dots.

    Args:
        points: `[n, 2]`.
        color: colour of the dots.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> picture = jd.plotting.panels({"data": jd.plotting.Points(x)})
        >>> len(picture.axes)
        1
    """

    points: np.ndarray
    color: str = BLUE

    def __post_init__(self):
        _in_plane(self.points, "points", "[n, 2]", 2)

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw the dots, smaller and fainter the more there are."""
        points = _in_plane(self.points, "points", "[n, 2]", 2)
        crowd = max(len(points) / 1000, 1)
        axes.scatter(*points.T, s=5 / crowd**0.5, alpha=0.75 / crowd**0.25, color=self.color, linewidths=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Field(Layer):
    """A vector field as a grid of arrows.

    The length of an arrow is proportional to log(1 + |v| / median |v|), since a score is a thousand times longer far
    from the data than at its modes: directions are exact, lengths show the order of magnitudes.

    Args:
        field: function `[m, 2] -> [m, 2]`.
        arrows: arrows a side of the grid.
        color: colour of the arrows.

    Examples:
        >>> import jaxdiff as jd
        >>> score = jd.plotting.Field(lambda x: -x, arrows=10)
        >>> picture = jd.plotting.panels({"score": score})
        >>> len(picture.axes)
        1
    """

    field: Callable
    arrows: int = 22
    color: str = INK

    def __post_init__(self):
        check_function("field", self.field, "a function [m, 2] -> [m, 2]")
        check_whole("arrows", self.arrows)

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw the arrows, the longest as long as their distance."""
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
    """Trajectories as thin lines with a dot at the last frame.

    Args:
        paths: `[frames, n, 2]`.
        color: colour of the dots.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> walks = np.random.default_rng(0).normal(scale=0.1, size=(20, 30, 2)).cumsum(0)
        >>> picture = jd.plotting.panels({"walks": jd.plotting.Paths(walks)})
        >>> len(picture.axes)
        1
    """

    paths: np.ndarray
    color: str = BLUE

    def __post_init__(self):
        _in_plane(self.paths, "paths", "[frames, n, 2]", 3)

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw the lines under the dots."""
        paths = _in_plane(self.paths, "paths", "[frames, n, 2]", 3)
        axes.add_collection(LineCollection(list(paths.swapaxes(0, 1)), colors=GREY, linewidths=0.5, alpha=0.5))
        axes.scatter(*paths[-1].T, s=7, color=self.color, linewidths=0, zorder=3)


def plane(extent: float, resolution: int) -> np.ndarray:
    """Return a grid of points: the centres of resolution x resolution cells of [-extent, extent]².

    Args:
        extent: half the side of the square.
        resolution: cells a side.

    Returns:
        Points `[resolution², 2]` in float32; x varies fastest.

    Examples:
        >>> import jaxdiff as jd
        >>> jd.plotting.plane(1.0, 2)
        array([[-0.5, -0.5],
               [ 0.5, -0.5],
               [-0.5,  0.5],
               [ 0.5,  0.5]], dtype=float32)
    """
    check_scalar("extent", extent, above=0)
    check_room("a plane", check_whole("resolution", resolution), resolution, 2)
    centres = extent * ((2 * np.arange(resolution) + 1) / resolution - 1)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def panels(
    panels: Mapping[str, Layer | Sequence[Layer]],
    path: PathLike = None,
    extent: float = 2.5,
    columns: int | None = None,
    title: str | None = None,
) -> Picture:
    """Draw layers over the square [-extent, extent]², in one panel for each name.

    All densities of a picture share one scale of colour, so that they can be compared; a bar to their right shows it.

    Args:
        panels: {name: layer or layers}, drawn in their order.
        path: file to save the picture in, if any.
        extent: half the side of the square.
        columns: panels in a row; None is at most four.
        title: title of the picture.

    Raises:
        ValueError: for no panels, and for points or fields of another shape or with a NaN.
        TypeError: if a layer is not a `Layer`.

    Examples:
        >>> import numpy as np
        >>> import pathlib, tempfile
        >>> import jaxdiff as jd
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> model = [jd.plotting.Density(lambda x: -(x**2).sum(1) / 2, resolution=20), jd.plotting.Field(lambda x: -x)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.png")
        ...     picture = jd.plotting.panels({"data": jd.plotting.Points(x), "model": model}, path)
        ...     print(path.exists())
        True
    """
    check_instance("panels", panels, Mapping, "{name: layer or layers}")
    check_scalar("extent", extent, above=0)
    if columns is not None:
        check_whole("columns", columns)
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
    shaded = any(isinstance(layer, Density) for layers in stacks.values() for layer in layers)
    side, gap, head, above = 2.5, 0.12, 0.3, 0.4 if title else 0.0  # inches
    margin, beside = 0.5, 0.75 if shaded else 0.0
    width = margin + columns * (side + gap) + beside
    height = above + rows * (side + head) + margin
    picture = Picture(width, height)
    for i, (name, layers) in enumerate(stacks.items()):
        row, column = divmod(i, columns)
        left, bottom = margin + column * (side + gap), height - above - (row + 1) * (side + head)
        axes = picture.add_axes((left / width, bottom / height, side / width, side / height))
        axes.set_title(name, loc="left", color=INK, size=10, pad=5)
        for layer in layers:
            layer.draw(axes, extent)
        axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
        axes.spines[:].set_color(FAINT)
        first, last = column == 0, i + columns >= len(stacks)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))
        axes.tick_params(colors=GREY, labelsize=8, length=2, labelleft=first, labelbottom=last)
        axes.set_xlabel("x₁" if last else "", color=GREY, size=9)
        axes.set_ylabel("x₂" if first else "", color=GREY, size=9, labelpad=0)
    densities = [image for axes in picture.axes for image in axes.images]
    highest = max((image.get_clim()[1] for image in densities), default=1)
    for image in densities:
        image.set_clim(0, highest)
    if shaded:
        left, bottom = width - beside, height - above - side - head
        bar = picture.add_axes((left / width, bottom / height, 0.1 / width, side / height))
        picture.colorbar(densities[0], cax=bar).set_label("density", color=GREY, size=9)
        bar.tick_params(colors=GREY, labelsize=8, length=2)
        bar.spines[:].set_color(FAINT)
    if title:
        picture.text(margin / width, 1 - above / 2 / height, title, va="center", color=INK, size=12)
    return picture.saved(path)


def _in_plane(points, name: str, expected: str, ndim: int) -> np.ndarray:
    points = np.asarray(check_real(name, points), np.float64)
    if points.ndim != ndim or points.shape[-1] != 2 or 0 in points.shape:
        raise ValueError(f"{name} has shape {points.shape}; expected {expected}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds {np.sum(~np.isfinite(points))} values that are NaN or infinite")
    return points
