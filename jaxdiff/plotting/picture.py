"""A figure that needs no display and is independent of pyplot, and the colours of all pictures."""

import io
import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxdiff.arrays import atomic_write, check_choice, check_path, check_scalar

INK, GREY, FAINT, BLUE, ORANGE = "#22303c", "#7b8794", "#e4e8ec", "#2b6c99", "#d9692f"
DEPTHS = LinearSegmentedColormap.from_list("depths", ["#ffffff", "#d3e5ef", "#8fbcd6", "#4a8db7", BLUE, "#123a5a"])

HUES = (BLUE, ORANGE, "#3c9d72", "#8a5fb0", "#c2456b", "#b8952b", "#4bb3c3")
DPI = 144
PathLike = str | os.PathLike | None


class Picture(Figure):
    """A figure that a notebook shows whether or not pyplot was imported.

    Args:
        width: in inches.
        height: in inches.

    Examples:
        >>> import jaxdiff as jd
        >>> picture = jd.plotting.Picture(3, 2)
        >>> line = picture.add_axes((0.1, 0.1, 0.8, 0.8)).plot([0, 1], [1, 0])
        >>> picture.get_size_inches()
        array([3., 2.])
    """

    def __init__(self, width: float, height: float):
        check_scalar("width", width, above=0)
        check_scalar("height", height, above=0)
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

    def saved(self, path: PathLike) -> "Picture":
        """This figure, saved if `path` is given; ValueError for an unknown suffix."""
        if path is not None:
            path = check_path("path", path)
            check_choice("the ending of path", path.suffix[1:].lower(), sorted(self.canvas.get_supported_filetypes()))
            with atomic_write(path) as file:
                self.savefig(file, format=path.suffix[1:].lower())
        return self
