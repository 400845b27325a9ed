"""The words of the library: what can be named in a config and on the command line, a table for each kind.

    parse("edm(sigma_max=160)", jd.Process) -> jd.EDM(sigma_max=160.0)          write(jd.VP(), jd.Process) -> "vp"

A word is the public name in snake case, so that an object enters by its name in a table. Networks, guidance and data
are recipes: the run supplies the rest of their arguments when it calls them.
"""

import re
from typing import Any

import diffrax

import jaxdiff as jd
from jaxdiff import data, guidance, networks, samplers
from jaxdiff.likelihood import Exact, Hutchinson, HutchPP, Trace, XTrace
from jaxdiff.losses import Loss, couplings, times, weightings
from jaxdiff.networks import Waves
from jaxdiff.processes.grids import Grid
from jaxdiff.samplers import Sampler, predictor_corrector
from jaxdiff.words import Recipe, Table, Vocabulary

SHORT = {"dpm_solver_pp": "dpm_solver", "uni_pc": "unipc", "sh_ark": "shark", "image_folder": "folder"}


class Network(Recipe):
    """A network but for its data: `network(channels_in=3, classes=10, rngs=rngs)`."""

    supplied = "event", "channels_in", "classes", "vector", "outputs", "rngs"


class Guidance(Recipe):
    """A wrapper but for the denoiser that it wraps: `guidance(denoiser=denoiser)`."""

    supplied = ("denoiser",)


class Data(Recipe):
    """A data set but for the part of it: `data(split="train")`, or `data(key=key, n=1000)` of a toy set."""

    supplied = "split", "data_dir", "key", "n", "progress"


def word(name: str) -> str:
    """The word for a public name: its snake case, without `load_`, or what `SHORT` has for that."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z][A-Z])(?=[A-Z][a-z])", "_", name.strip("_"))
    snake = parts.lower().removeprefix("load_")
    return SHORT.get(snake, snake)


def _table(noun: str, *makers) -> Table:
    return Table(noun, {word(make.__name__): make for make in makers})


WORDS = Vocabulary(
    {
        jd.Process: _table(
            "a process",
            *(jd.VP, jd.SubVP, jd.OU, jd.VE, jd.BrownianVE, jd.EDM, jd.Cosine, jd.Flow, jd.LearnedVP, jd.Brownian),
            jd.Absorbing,
        ),
        Loss: _table(
            "a loss",
            *(jd.losses.Denoising, jd.losses.Hybrid, jd.losses.ScoreMatching, jd.losses.SlicedScoreMatching),
            *(jd.losses.FlowMatching, jd.losses.BridgeMatching, jd.losses.LeastVariance),
        ),
        weightings.Weighting: _table(
            "a weighting",
            *(weightings.Simple, weightings.Likelihood, weightings.MinSNR, weightings.EDM, weightings.Sigmoid),
        ),
        times.Times: _table(
            "a law of times",
            *(times.Stratified, times.Uniform, times.LogNormal, times.LogitNormal, times.Importance, times.Fixed),
        ),
        couplings.Coupling: _table(
            "a coupling",
            *(couplings.Independent, couplings.Paired, couplings.OptimalTransport, couplings.Entropic),
        ),
        Sampler: _table(
            "a sampler",
            *(samplers.DPMSolverPP, samplers.Ancestral, samplers.DDIM, samplers.EulerMaruyama, samplers.Heun),
            *(samplers.UniPC, samplers.PredictorCorrector, samplers.AnnealedLangevin, samplers.ProbabilityFlow),
            *(samplers.ReverseSDE, samplers.Switch, predictor_corrector._HandOn),
        ),
        Grid: _table("a grid", jd.grids.Time, jd.grids.Angle, jd.grids.LogSNR, jd.grids.Karras),
        Trace: _table("a trace", Hutchinson, HutchPP, XTrace, Exact),
        diffrax.AbstractSolver: _table(
            "a solver",
            *(diffrax.Dopri5, diffrax.Dopri8, diffrax.Tsit5, diffrax.Bosh3, diffrax.Heun, diffrax.Midpoint),
            *(diffrax.Ralston, diffrax.Kvaerno3, diffrax.Kvaerno4, diffrax.Kvaerno5, diffrax.HalfSolver),
            *(diffrax.Euler, diffrax.SRA1, diffrax.ShARK, diffrax.SEA),
        ),
        diffrax.AbstractAdjoint: _table(
            "an adjoint", diffrax.RecursiveCheckpointAdjoint, diffrax.DirectAdjoint, diffrax.ForwardMode
        ),
        guidance.Interval: _table("an interval", guidance.Interval),
        Guidance: _table("a guidance", guidance.ClassifierFree, guidance.ClassifierFreePP, guidance.DynamicThreshold),
        Network: _table("a network", networks.UNet, networks.MLP),
        Waves: _table("a set of waves", networks.Sinusoidal, networks.Fourier),
        Data: _table(
            "a data set",
            *(data.load_digits, data.load_fashion_mnist, data.load_cifar10, data.load_imagenet64, data.ImageFolder),
            data.Table,
            *(data.two_moons, data.eight_gaussians, data.checkerboard, data.swiss_roll, data.s_curve, data.pinwheel),
            *(data.circles, data.cat),
        ),
    },
    {"diffrax": diffrax},
)
parse, write, describe, has = WORDS.parse, WORDS.write, WORDS.describe, WORDS.has

# Public names of these kinds that no word makes, and why.
UNREACHABLE = {
    "from_betas": "a table of a thousand numbers is read from a file",
    "Product": "its processes are a tree, one a part of the data",
    "Each": "its samplers are a tree, one a part of the data",
    "Auto": "it guides by another model, which is no setting",
    "Classifier": "it guides by a classifier, which is no setting",
    "TweedieClassifier": "it guides by a classifier, which is no setting",
}


def primitive(kind: Any) -> dict[str, Any] | None:
    """The fields of tyro's PrimitiveConstructorSpec for an annotation that words can be of; None for any other.

    A text that is refused ends the program by one line and exit code 1, as any error of the command line.
    """
    if not has(kind):
        return None
    nouns = WORDS.nouns(kind)

    def read(texts: list[str]) -> Any:
        try:
            return parse(texts[0], kind, " or ".join(nouns))
        except ValueError as error:
            raise SystemExit(f"jaxdiff: {error}") from None

    def is_instance(value: Any) -> bool:
        try:
            write(value, kind)
        except TypeError:
            return False
        return True

    return {
        "nargs": 1,
        "metavar": "|".join(nouns).upper(),
        "instance_from_str": read,
        "is_instance": is_instance,
        "str_from_instance": lambda value: [write(value, kind)],
    }
