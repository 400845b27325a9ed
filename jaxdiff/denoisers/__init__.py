"""What a network says: how much of x_t is data and how much is noise."""

from jaxdiff.denoisers import exact as exact
from jaxdiff.denoisers import guidance as guidance
from jaxdiff.denoisers.bridge import Bridge, BridgeLike, Swapped, ToData, TwoEnded
from jaxdiff.denoisers.denoiser import (
    Denoiser,
    DenoiserLike,
    Prediction,
    angular_velocity,
    c_noise,
    check_start,
    score,
)
from jaxdiff.denoisers.parameterization import ROWS, row

__all__ = [
    "ROWS",
    "Bridge",
    "BridgeLike",
    "Denoiser",
    "DenoiserLike",
    "Prediction",
    "Swapped",
    "ToData",
    "TwoEnded",
    "angular_velocity",
    "c_noise",
    "check_start",
    "exact",
    "guidance",
    "row",
    "score",
]
