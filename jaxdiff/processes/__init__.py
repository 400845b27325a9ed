"""How data becomes noise: two curves, one rotation."""

from jaxdiff.arrays import as_pytree, check_event, check_time, expand_time, is_concrete, pytree
from jaxdiff.processes import ends as ends
from jaxdiff.processes import grids as grids
from jaxdiff.processes.gaussian import Process, check_process, forward_sde, perturb, posterior, transition
from jaxdiff.processes.learned import LearnedVP
from jaxdiff.processes.plausible import check_curves
from jaxdiff.processes.schedules import EDM, OU, VE, VP, Brownian, BrownianVE, Cosine, Flow, SubVP, from_betas

__all__ = [
    "EDM",
    "OU",
    "VE",
    "VP",
    "Brownian",
    "BrownianVE",
    "Cosine",
    "Flow",
    "LearnedVP",
    "Process",
    "SubVP",
    "as_pytree",
    "check_curves",
    "check_event",
    "check_process",
    "check_time",
    "ends",
    "expand_time",
    "forward_sde",
    "from_betas",
    "grids",
    "is_concrete",
    "perturb",
    "posterior",
    "pytree",
    "transition",
]
