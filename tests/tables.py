"""One table for each kind of object: every test of what holds for all of a kind runs over its table.

The first word of a row is the public name; the last row of a name has the most to it, and `kinds` has that one alone.
"""

import dataclasses
from collections.abc import Callable

import conftest
import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.denoisers import guidance
from jaxdiff.likelihood import Exact, Hutchinson, HutchPP, XTrace
from jaxdiff.losses import (
    Bound,
    BridgeMatching,
    ConditionDropout,
    Denoising,
    FlowMatching,
    Hybrid,
    LeastVariance,
    Loss,
    ScoreMatching,
    SlicedScoreMatching,
    Steps,
    couplings,
    times,
    weightings,
)
from jaxdiff.samplers import (
    DAPS,
    DDIM,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    ProbabilityFlow,
    RePaint,
    ReverseSDE,
    Sampler,
    Switch,
    TauLeaping,
    UniPC,
    Unmask,
)
from jaxdiff.vocabulary import Guidance


def kinds(table):
    """The last row of each public name."""
    return {name.partition(" ")[0]: row for name, row in table.items()}


PROCESSES = conftest.PROCESSES | {  # of numbers
    "Brownian": jd.Brownian(3.0),
    "LearnedVP": jd.LearnedVP(8.0, -4.0, np.array([0.3, -0.2, 0.1])),
}
SCHEDULES = {
    "Linear": jd.schedules.Linear(),
    "Cosine": jd.schedules.Cosine(),
    "CosineHoogeboom": jd.schedules.CosineHoogeboom(0.02),
    "Polynomial": jd.schedules.Polynomial(2.5),
    "Geometric": jd.schedules.Geometric(1e-3, 12.0),
}
CATEGORIES = {
    "Absorbing": jd.Absorbing(2, SCHEDULES["Polynomial"]),
    "Multinomial": jd.Multinomial(2, SCHEDULES["CosineHoogeboom"]),
    "DiscretizedGaussian": jd.DiscretizedGaussian(2, SCHEDULES["Geometric"]),
    "from_transitions": jd.from_transitions(np.full((4, 2, 2), 0.5)),
}
GRIDS = {
    "Time": jd.grids.Time(),
    "Angle": jd.grids.Angle(),
    "LogSNR": jd.grids.LogSNR(),
    "Kept": jd.grids.Kept(),
    "Karras": jd.grids.Karras(5.0),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """`order`: of convergence to the flow, measured in samplers/test_order.py. `below`: it starts where α > 0 alone."""

    sampler: Sampler
    random: bool = False
    reversible: bool = False
    below: bool = False
    order: int | None = None


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
    "RePaint": Row(RePaint(DDIM(0.5), 2, 2), random=True),
    "DAPS": Row(DAPS(jnp.mean, 0.5, 2, data_std=0.8), random=True),
    "ProbabilityFlow": Row(ProbabilityFlow(rtol=1e-6, atol=1e-6), reversible=True),
}
OWN_CONDITIONS = {  # what samplers read of cond by themselves, for samples of a shape
    "known": lambda shape: np.full(shape, 0.3, np.float32),
    "y": lambda shape: np.full(shape[0], 0.4, np.float32),
    "mask": lambda shape: np.arange(shape[-1]) == 0,
}


def given(sampler, shape, cond=None):
    """What `sampler` is given, where the denoiser takes `cond`."""
    own = {name: OWN_CONDITIONS[name](shape) for name in sampler.takes}
    return {**own, "cond": cond} if own else cond


TRACES = {"Exact": Exact(), "Hutchinson": Hutchinson(2), "HutchPP": HutchPP(), "XTrace": XTrace()}
TOKEN_SAMPLERS = {  # of masks, and of no numbers
    "TauLeaping": TauLeaping(1),
    "Unmask": Unmask("confidence", 2),
    "Ancestral remasking": Ancestral(remask=0.5),
}
KINDS = {name: row.sampler for name, row in kinds(SAMPLERS).items()}
WEIGHTINGS = {
    "Simple": weightings.Simple(),
    "Likelihood": weightings.Likelihood(),
    "MinSNR": weightings.MinSNR(2.0),
    "EDM": weightings.EDM(),
    "Sigmoid": weightings.Sigmoid(1.0),
}
TIMES = {
    "Importance": times.Importance(0.05),
    "Uniform": times.Uniform(0.05),
    "Stratified": times.Stratified(0.05),
    "LogNormal": times.LogNormal(-0.8, 1.1),
    "LogitNormal": times.LogitNormal(0.3, 0.9),
    "Fixed": times.Fixed(0.4),
}
COUPLINGS = {
    "Independent": couplings.Independent(),
    "Paired": couplings.Paired(),
    "OptimalTransport": couplings.OptimalTransport(),
    "Entropic": couplings.Entropic(0.5),
    "Entropic from the optimum": couplings.Entropic(0.5, couplings.OptimalTransport(), sweeps=1),
}
REPAIRING = {name: coupling for name, coupling in COUPLINGS.items() if getattr(coupling, "permutes", False)}


@dataclasses.dataclass(frozen=True)
class Trained:
    """`of`: what it trains, "numbers", "variance" (learned), "bridge" or "process" (and its network).

    `held`: it keeps some gradients off, so that its derivative is not that of its value. `shared`: a number of it is
    one for the batch. `given`: it needs a condition, of one number an example.
    """

    loss: Loss
    of: str = "numbers"
    held: bool = False
    shared: bool = False
    given: bool = False

    def __call__(self, model, key, x):
        """The loss of `model`, with what it needs."""
        return self.loss(model, key, x, x.reshape(len(x), -1)[:, 0] if self.given else None)


LOSSES = {
    f"Denoising {weighting} {law}": Trained(Denoising(WEIGHTINGS[weighting], TIMES[law]))
    for weighting, law in zip([*WEIGHTINGS, "Simple"], TIMES)
}
LOSSES |= {
    "Bound": Trained(Bound(TIMES["Stratified"])),
    "Steps": Trained(Steps(3, GRIDS["LogSNR"])),
    "ScoreMatching": Trained(ScoreMatching(TIMES["LogNormal"])),
    "SlicedScoreMatching": Trained(SlicedScoreMatching(TIMES["Uniform"])),
    "SlicedScoreMatching plain": Trained(SlicedScoreMatching(TIMES["Uniform"], False, 2, "gaussian")),
    "FlowMatching": Trained(FlowMatching(sigma=0.1)),
    "FlowMatching Entropic": Trained(FlowMatching(COUPLINGS["Entropic"], 0.1, TIMES["Uniform"]), shared=True),
    "BridgeMatching": Trained(BridgeMatching(COUPLINGS["Independent"], TIMES["Uniform"]), "bridge"),
    "BridgeMatching Entropic": Trained(BridgeMatching(), "bridge", shared=True),
    "Hybrid": Trained(Hybrid(0.01, 4, GRIDS["Karras"], WEIGHTINGS["MinSNR"]), "variance", held=True),
    "ConditionDropout": Trained(ConditionDropout(Denoising(), np.float32(0.3), 0.4), shared=True, given=True),
    "LeastVariance": Trained(
        LeastVariance(Denoising(WEIGHTINGS["Likelihood"], times.Stratified(0.0))), "process", held=True
    ),
}


def near_the_origin(x, *_):
    """The log-likelihood of a classifier, up to a constant."""
    return -jnp.sum(x**2, range(1, x.ndim))


CLASSIFIER = jax.tree_util.Partial(near_the_origin)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class OfLabels(guidance.Observed):
    """It takes labels, as the others do: the mean of x_0 was measured to be the label, which the denoiser is given."""

    def __call__(self, x, t, cond=None):
        return super().__call__(x, t, _measured(jnp.broadcast_to(cond, x.shape[:1])))

    def asked(self, cond):
        return super().asked(_measured(cond))

    def check_cond(self, cond):
        super().check_cond(_measured(cond))


def _measured(label):
    return {"y": jnp.asarray(label).astype(jnp.float32), "cond": label}


def observed(spread, noise_std=0.5, scale=0.7):
    return lambda denoiser: OfLabels(denoiser, jnp.mean, noise_std, spread, scale)


GUIDANCE: dict[str, Callable[..., guidance.Wrapper]] = {  # of `denoiser=`
    "ClassifierFree": Guidance(guidance.ClassifierFree, {"scale": 2.0}),
    "ClassifierFree within an Interval": Guidance(guidance.ClassifierFree, {"scale": guidance.Interval(2.0, 0.1, 3.0)}),
    "ClassifierFree under a null": Guidance(
        guidance.ClassifierFree, {"scale": guidance.Interval(2.0, 0.1, 3.0), "null": 2, "rescale": 0.3}
    ),
    "Auto": lambda denoiser: guidance.Auto(denoiser, guidance.DynamicThreshold(denoiser, 0.5, 0.3), 2.0),
    "ClassifierFreePP": Guidance(guidance.ClassifierFreePP, {"scale": 0.5}),
    "ClassifierFreePP under a null": Guidance(guidance.ClassifierFreePP, {"scale": 0.5, "null": 2}),
    "Classifier": lambda denoiser: guidance.Classifier(denoiser, CLASSIFIER, 0.7),
    "StepClassifier": lambda denoiser: guidance.StepClassifier(denoiser, CLASSIFIER, 0.7),
    "TweedieClassifier": lambda denoiser: guidance.TweedieClassifier(denoiser, CLASSIFIER, 0.7, conditional=True),
    "Observed by Isotropic": observed(guidance.Isotropic(0.6)),
    "Observed by Proximal": observed(guidance.Proximal(0.8)),
    "Observed": observed(guidance.Moment(3), scale=guidance.Interval(0.7, 0.1, 9.0)),
    "DynamicThreshold": Guidance(guidance.DynamicThreshold, {"quantile": 0.6, "bound": 0.5}),
}
TOKEN_GUIDANCE = {  # of categories
    "Temperature": Guidance(guidance.Temperature, {"tau": 0.7}),
    "TopK": Guidance(guidance.TopK, {"k": 2}),
    "Nucleus": Guidance(guidance.Nucleus, {"p": 0.8}),
}
