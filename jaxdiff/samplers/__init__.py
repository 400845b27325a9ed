"""How noise becomes data: one step under the one scan."""

from jaxdiff.samplers.ancestral import DDIM, Ancestral
from jaxdiff.samplers.dpm_solver import DPMSolverPP
from jaxdiff.samplers.euler_maruyama import EulerMaruyama
from jaxdiff.samplers.heun import Heun
from jaxdiff.samplers.probability_flow import ProbabilityFlow, Solution, decode, encode, solve
from jaxdiff.samplers.sample import sample
from jaxdiff.samplers.sampler import Sampler, check_cond, example_keys

__all__ = [
    "DDIM",
    "Ancestral",
    "DPMSolverPP",
    "EulerMaruyama",
    "Heun",
    "ProbabilityFlow",
    "Sampler",
    "Solution",
    "check_cond",
    "decode",
    "encode",
    "example_keys",
    "sample",
    "solve",
]
