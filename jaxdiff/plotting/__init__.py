"""Pictures: image grids, trajectories, the training curve, and densities, fields and samples in the plane.

Every function returns its figure, and saves it if `path` is given, in the format of its suffix (.png, .pdf, .svg).
None needs a display or changes pyplot's state. A picture of the plane consists of panels, each with one or more layers:

    panels({"data": Points(x), "model": [Density(log_prob), Field(score)]}, path="model.png")
"""

from jaxdiff.arrays import require

require("matplotlib")

from jaxdiff.plotting.curves import estimates, lines, training_curve
from jaxdiff.plotting.images import sample_grid, strip
from jaxdiff.plotting.pairs import pairs
from jaxdiff.plotting.picture import BLUE, DEPTHS, FAINT, GREY, INK, ORANGE, Picture
from jaxdiff.plotting.plane import Density, Field, Layer, Paths, Points, panels, plane

__all__ = [
    "BLUE",
    "DEPTHS",
    "FAINT",
    "GREY",
    "INK",
    "ORANGE",
    "Density",
    "Field",
    "Layer",
    "Paths",
    "Picture",
    "Points",
    "estimates",
    "lines",
    "pairs",
    "panels",
    "plane",
    "sample_grid",
    "strip",
    "training_curve",
]


def __dir__():
    return __all__
