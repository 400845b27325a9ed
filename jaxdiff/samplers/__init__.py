"""Samplers, which turn noise into data: each is one step, and a run is one scan over its steps."""

from jaxdiff.arrays import example_keys
from jaxdiff.denoisers import check_cond
from jaxdiff.samplers.ancestral import DDIM, Ancestral
from jaxdiff.samplers.batches import draw
from jaxdiff.samplers.bridge import cross
from jaxdiff.samplers.daps import DAPS, LangevinDraw, LinearDraw, PosteriorDraw
from jaxdiff.samplers.dpm_solver import DPMSolverPP
from jaxdiff.samplers.each import Each
from jaxdiff.samplers.euler_maruyama import EulerMaruyama, forward_paths
from jaxdiff.samplers.heun import Heun
from jaxdiff.samplers.inversion import invert
from jaxdiff.samplers.noise import NoiseEstimate, estimate_noise
from jaxdiff.samplers.predictor_corrector import AnnealedLangevin, PredictorCorrector, langevin
from jaxdiff.samplers.probability_flow import ProbabilityFlow, Solution, decode, encode
from jaxdiff.samplers.repaint import RePaint
from jaxdiff.samplers.reverse_sde import ReverseSDE
from jaxdiff.samplers.sample import sample
from jaxdiff.samplers.sampler import Sampler
from jaxdiff.samplers.switch import Switch
from jaxdiff.samplers.tau_leaping import TauLeaping
from jaxdiff.samplers.unipc import UniPC
from jaxdiff.samplers.unmask import Unmask

__all__ = [
    "DAPS",
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "DPMSolverPP",
    "Each",
    "EulerMaruyama",
    "Heun",
    "LangevinDraw",
    "LinearDraw",
    "NoiseEstimate",
    "PosteriorDraw",
    "PredictorCorrector",
    "ProbabilityFlow",
    "RePaint",
    "ReverseSDE",
    "Sampler",
    "Solution",
    "Switch",
    "TauLeaping",
    "UniPC",
    "Unmask",
    "check_cond",
    "cross",
    "decode",
    "draw",
    "encode",
    "estimate_noise",
    "example_keys",
    "forward_paths",
    "invert",
    "langevin",
    "sample",
]


def __dir__():
    return __all__
