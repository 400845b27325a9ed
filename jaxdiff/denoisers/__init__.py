"""What a network says: how much of x_t is data and how much is noise."""

from jaxdiff.denoisers import exact as exact
from jaxdiff.denoisers import guidance as guidance
from jaxdiff.denoisers.bridge import Bridge, BridgeLike, Swapped, ToData, TwoEnded, check_bridge
from jaxdiff.denoisers.denoiser import (
    Denoiser,
    DenoiserLike,
    Prediction,
    angular_velocity,
    c_noise,
    check_cond,
    check_cond_of,
    check_denoiser,
    check_prediction,
    check_start,
    no_label_of,
    score,
)
from jaxdiff.denoisers.energy import Gradient, InnerProduct, energy
from jaxdiff.denoisers.on_process import OnProcess
from jaxdiff.denoisers.parameterization import ROWS, row
from jaxdiff.denoisers.prior import warn_uncovered
from jaxdiff.denoisers.reverse_step import check_variance, log_variance_ratio, reverse

__all__ = [
    "ROWS",
    "Bridge",
    "BridgeLike",
    "Denoiser",
    "DenoiserLike",
    "Gradient",
    "InnerProduct",
    "OnProcess",
    "Prediction",
    "Swapped",
    "ToData",
    "TwoEnded",
    "angular_velocity",
    "c_noise",
    "check_bridge",
    "check_cond",
    "check_cond_of",
    "check_denoiser",
    "check_prediction",
    "check_start",
    "check_variance",
    "energy",
    "exact",
    "guidance",
    "log_variance_ratio",
    "no_label_of",
    "reverse",
    "row",
    "score",
    "warn_uncovered",
]
