"""What a network says: how much of x_t is data and how much is noise."""

from jaxdiff.denoisers import exact as exact
from jaxdiff.denoisers import guidance as guidance
from jaxdiff.denoisers.denoiser import (
    Denoiser,
    DenoiserLike,
    Prediction,
    angular_velocity,
    c_noise,
    check_start,
    score,
)
from jaxdiff.denoisers.energy import Gradient, InnerProduct, energy
from jaxdiff.denoisers.on_process import OnProcess
from jaxdiff.denoisers.parameterization import ROWS, row

__all__ = [
    "ROWS",
    "Denoiser",
    "DenoiserLike",
    "Gradient",
    "InnerProduct",
    "OnProcess",
    "Prediction",
    "angular_velocity",
    "c_noise",
    "check_start",
    "energy",
    "exact",
    "guidance",
    "row",
    "score",
]
