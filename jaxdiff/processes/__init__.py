"""Processes: how data becomes noise, given by two curves α(t), σ(t) and a space of data."""

from jaxdiff.arrays import as_pytree, check_event, check_time, expand_time, is_concrete, pytree
from jaxdiff.processes import ends as ends
from jaxdiff.processes import grids as grids
from jaxdiff.processes import schedules as schedules
from jaxdiff.processes.absorbing import Absorbing, check_absorbing
from jaxdiff.processes.discrete import Discrete
from jaxdiff.processes.gaussian import Gaussian, check_gaussian, forward_sde, perturb, posterior, transition
from jaxdiff.processes.heads import Head, Seen, of_examples
from jaxdiff.processes.heat import DiscretizedGaussian
from jaxdiff.processes.learned import LearnedVP
from jaxdiff.processes.multinomial import Multinomial
from jaxdiff.processes.named import EDM, OU, VE, VP, Brownian, BrownianVE, Cosine, Flow, SubVP, from_betas
from jaxdiff.processes.parameterization import ROWS, row
from jaxdiff.processes.plausible import check_curves
from jaxdiff.processes.predictions import Categorical, Certain, Prediction, check_variance, extrapolated, with_variance
from jaxdiff.processes.process import Process, check_process
from jaxdiff.processes.product import Product
from jaxdiff.processes.transitions import from_transitions, gaussian_transitions

__all__ = [
    "EDM",
    "OU",
    "ROWS",
    "VE",
    "VP",
    "Absorbing",
    "Brownian",
    "BrownianVE",
    "Categorical",
    "Certain",
    "Cosine",
    "Discrete",
    "DiscretizedGaussian",
    "Flow",
    "Gaussian",
    "Head",
    "LearnedVP",
    "Multinomial",
    "Prediction",
    "Process",
    "Product",
    "Seen",
    "SubVP",
    "as_pytree",
    "check_absorbing",
    "check_curves",
    "check_event",
    "check_gaussian",
    "check_process",
    "check_time",
    "check_variance",
    "ends",
    "expand_time",
    "extrapolated",
    "forward_sde",
    "from_betas",
    "from_transitions",
    "gaussian_transitions",
    "grids",
    "is_concrete",
    "of_examples",
    "perturb",
    "posterior",
    "pytree",
    "row",
    "schedules",
    "transition",
    "with_variance",
]


def __dir__():
    return __all__
