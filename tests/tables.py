"""Samplers and traces, one row each: every test of what holds for all of a kind runs over its table."""

import dataclasses

from jaxdiff.likelihood import Exact, Hutchinson, HutchPP, XTrace
from jaxdiff.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseSDE,
    Sampler,
    Switch,
    UniPC,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """`order`: of convergence to the flow, where the table's tests hold it. `below`: it starts where α > 0 alone."""

    sampler: Sampler
    random: bool = False
    reversible: bool = False
    below: bool = False
    order: int | None = None


# The first word is the public name; the last row of a name has the most to it.
SAMPLERS = {
    "Ancestral": Row(Ancestral(), random=True),
    "DDIM": Row(DDIM(), reversible=True, order=1),
    "DDIM with noise": Row(DDIM(0.6), random=True),
    "DPMSolverPP of order 1": Row(DPMSolverPP(1), order=1),
    "DPMSolverPP": Row(DPMSolverPP(), order=2),
    "DPMSolverPP with noise": Row(DPMSolverPP(sde=True), random=True),
    "DPMSolverPP of order 3": Row(DPMSolverPP(3), order=3),
    "UniPC": Row(UniPC(), order=3),
    "UniPC of order 3": Row(UniPC(3), order=4),
    "Heun": Row(Heun(), reversible=True, order=2),
    "Heun with churn": Row(Heun(1.0), random=True),
    "PredictorCorrector": Row(PredictorCorrector(DDIM(0.3), 1, 0.1), random=True),
    "ReverseSDE": Row(ReverseSDE(noise=0.7), random=True),
    "Switch": Row(Switch(Ancestral(), UniPC(), 0.6), random=True),
    "EulerMaruyama": Row(EulerMaruyama(0.5), random=True, below=True),
    "AnnealedLangevin": Row(AnnealedLangevin(1, 0.2), random=True, below=True),
    "ProbabilityFlow": Row(ProbabilityFlow(rtol=1e-6, atol=1e-6), reversible=True),
}
TRACES = {"Exact": Exact(), "Hutchinson": Hutchinson(2), "HutchPP": HutchPP(), "XTrace": XTrace()}
KINDS = {name.partition(" ")[0]: row.sampler for name, row in SAMPLERS.items()}
