"""Pictures of the plane: panels, each of a layer or several."""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

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
    """Samples [n, 2] as dots."""

    points: np.ndarray
    color: str = BLUE

    def __post_init__(self):
        _in_plane(self.points, "points", "[n, 2]", 2)

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

    def __post_init__(self):
        check_function("field", self.field, "a function [m, 2] -> [m, 2]")
        check_whole("arrows", self.arrows)

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

    def __post_init__(self):
        _in_plane(self.paths, "paths", "[frames, n, 2]", 3)

    def draw(self, axes: Axes, extent: float) -> None:
        """Draw the lines under the dots."""
        paths = _in_plane(self.paths, "paths", "[frames, n, 2]", 3)
        axes.add_collection(LineCollection(list(paths.swapaxes(0, 1)), colors=GREY, linewidths=0.5, alpha=0.5))
        axes.scatter(*paths[-1].T, s=7, color=self.color, linewidths=0, zorder=3)


def plane(extent: float, resolution: int) -> np.ndarray:
    """Centres of resolution x resolution cells of [-extent, extent]²: [resolution², 2] float32, x fastest."""
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
    """The square [-extent, extent]² several times, each under its name: {name: layer or layers, from below}.

    All densities of a picture share one scale of colour, so that they can be compared.

    Raises ValueError for no panels, and for points or fields of another shape or with a NaN; TypeError for
    what is no layer.
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
    return picture.saved(path)


def _in_plane(points, name: str, expected: str, ndim: int) -> np.ndarray:
    points = np.asarray(check_real(name, points), np.float64)
    if points.ndim != ndim or points.shape[-1] != 2 or 0 in points.shape:
        raise ValueError(f"{name} has shape {points.shape}; expected {expected}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds {np.sum(~np.isfinite(points))} values that are NaN or infinite")
    return points
