"""Denoisers: predictions of the data and the noise in x_t, from networks or in closed form, and guidance."""

from jaxdiff.denoisers import exact as exact
from jaxdiff.denoisers import guidance as guidance
from jaxdiff.denoisers.bridge import Bridge, BridgeLike, Swapped, ToData, TwoEnded, check_bridge
from jaxdiff.denoisers.classifier import NoisyClassifier
from jaxdiff.denoisers.condition import check_cond, check_cond_of, no_label_of
from jaxdiff.denoisers.denoiser import (
    Denoiser,
    DenoiserLike,
    Wrapper,
    angular_velocity,
    check_denoiser,
    check_numbers,
    check_start,
    innermost,
    score,
    takes_key_of,
    warn_uncovered,
    with_key,
    with_params,
)
from jaxdiff.denoisers.energy import Gradient, InnerProduct, energy
from jaxdiff.denoisers.given import Given
from jaxdiff.denoisers.on_process import OnProcess
from jaxdiff.denoisers.precision import arithmetic, uncast
from jaxdiff.denoisers.side_by_side import SideBySide
from jaxdiff.denoisers.with_process import WithProcess

__all__ = [
    "Bridge",
    "BridgeLike",
    "Denoiser",
    "DenoiserLike",
    "Given",
    "Gradient",
    "InnerProduct",
    "NoisyClassifier",
    "OnProcess",
    "SideBySide",
    "Swapped",
    "ToData",
    "TwoEnded",
    "WithProcess",
    "Wrapper",
    "angular_velocity",
    "arithmetic",
    "check_bridge",
    "check_cond",
    "check_cond_of",
    "check_denoiser",
    "check_numbers",
    "check_start",
    "energy",
    "exact",
    "guidance",
    "innermost",
    "no_label_of",
    "score",
    "takes_key_of",
    "uncast",
    "warn_uncovered",
    "with_key",
    "with_params",
]


def __dir__():
    return __all__
