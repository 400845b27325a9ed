"""Losses, by which denoisers are trained: `loss(denoiser, key, x0, cond, weight)` returns one number per example."""

from jaxdiff.losses import couplings as couplings
from jaxdiff.losses import times as times
from jaxdiff.losses import weightings as weightings
from jaxdiff.losses.any_order import AnyOrder
from jaxdiff.losses.bound import Bound, Steps
from jaxdiff.losses.bridge_matching import BridgeMatching
from jaxdiff.losses.classification import Classification
from jaxdiff.losses.condition_dropout import ConditionDropout
from jaxdiff.losses.denoising import Denoising
from jaxdiff.losses.flow_matching import FlowMatching
from jaxdiff.losses.hybrid import Hybrid
from jaxdiff.losses.least_variance import LeastVariance
from jaxdiff.losses.loss import Loss
from jaxdiff.losses.score_matching import ScoreMatching, SlicedScoreMatching
from jaxdiff.losses.sum import Sum

__all__ = [
    "AnyOrder",
    "Bound",
    "BridgeMatching",
    "Classification",
    "ConditionDropout",
    "Denoising",
    "FlowMatching",
    "Hybrid",
    "LeastVariance",
    "Loss",
    "ScoreMatching",
    "SlicedScoreMatching",
    "Steps",
    "Sum",
    "couplings",
    "times",
    "weightings",
]


def __dir__():
    return __all__
