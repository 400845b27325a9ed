"""The words of the library: everything that can be named in a config and on the command line, with one table per kind.

    parse("edm(sigma_max=160)", jd.Process) -> jd.EDM(sigma_max=160.0)          write(jd.VP(), jd.Process) -> "vp"

A word is the public name in snake case. Networks, guidance and data sets are recipes: the run supplies the rest of
their arguments when it calls them.
"""

import os
import re
from typing import Any

import diffrax

import jaxdiff as jd
from jaxdiff import data, guidance, losses, networks, samplers
from jaxdiff.data.rows import SUFFIXES
from jaxdiff.likelihood import Trace
from jaxdiff.losses import Loss
from jaxdiff.losses.couplings import Coupling
from jaxdiff.losses.times import Times
from jaxdiff.losses.weightings import Weighting
from jaxdiff.networks import Waves
from jaxdiff.processes.grids import Grid
from jaxdiff.processes.schedules import Schedule
from jaxdiff.samplers import Sampler, predictor_corrector
from jaxdiff.words import Recipe, Table, Vocabulary

SHORT = {"dpm_solver_pp": "dpm_solver", "uni_pc": "unipc", "sh_ark": "shark", "image_folder": "folder", "di_t": "dit"}


class Network(Recipe):
    """A network without the arguments that depend on the data: `network(channels_in=3, classes=10, rngs=rngs)`."""

    supplied = (
        *("event", "channels_in", "classes", "vector", "image", "level", "tokens", "outputs", "ends"),
        *("categories", "length", "rngs"),
    )


class Noise(Recipe):
    """A process of categories without their number: `noise(categories=27)`."""

    supplied = ("categories",)


class Guidance(Recipe):
    """A guidance without the denoiser that it wraps: `guidance(denoiser=denoiser)`."""

    supplied = ("denoiser",)


class Data(Recipe):
    """A data set without its split, `data(split="train")`, or a toy distribution, `data(key=key, n=1000)`."""

    supplied = "split", "data_dir", "key", "n", "progress", "condition"


def word(name: str) -> str:
    """The word for a public name: its snake case without `load_`, or its entry in `SHORT`."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z][A-Z])(?=[A-Z][a-z])", "_", name)
    snake = parts.lower().removeprefix("load_")
    return SHORT.get(snake, snake)


def _named(room: Any, names: str) -> dict[str, Any]:
    """{word: class or function} for public names of a module."""
    return {word(name): getattr(room, name) for name in names.split()}


def _data_of_path(text: str) -> str | None:
    """The word for the data at a path; None if `text` is not a path."""
    ending = os.path.splitext(text)[1].lower()
    if ending in SUFFIXES:
        return f"table({text!r})"
    if os.path.isdir(text):
        return f"folder({text!r}, size=64)"
    return f"text({text!r}, length=128)" if ending == ".txt" or os.path.isfile(text) else None


_PICTURES = "load_digits load_fashion_mnist load_cifar10 load_imagenet64 ImageFolder"
_POINTS = "two_moons eight_gaussians checkerboard swiss_roll s_curve pinwheel circles cat"
_LOSSES = (
    "Denoising Bound Steps AnyOrder Hybrid ScoreMatching SlicedScoreMatching FlowMatching BridgeMatching LeastVariance"
)
_STEPS = "DPMSolverPP Ancestral DDIM EulerMaruyama Heun UniPC PredictorCorrector AnnealedLangevin TauLeaping Unmask"
_SHARPER = "Temperature TopK Nucleus"
_SOLVERS = "Dopri5 Dopri8 Tsit5 Bosh3 Heun Midpoint Ralston Kvaerno3 Kvaerno4 Kvaerno5 HalfSolver Euler SRA1 ShARK SEA"
WORDS = Vocabulary(
    {
        jd.Process: Table(
            "a process",
            _named(
                jd,
                "VP SubVP OU VE BrownianVE EDM Cosine Flow LearnedVP Brownian "
                "Absorbing Multinomial DiscretizedGaussian",
            ),
        ),
        Noise: Table("a noise", _named(jd, "Absorbing Multinomial DiscretizedGaussian")),
        Schedule: Table("a schedule", _named(jd.schedules, "Linear Cosine CosineHoogeboom Polynomial Geometric")),
        Loss: Table("a loss", _named(losses, _LOSSES)),
        Weighting: Table("a weighting", _named(losses.weightings, "Simple Likelihood MinSNR EDM Sigmoid")),
        Times: Table(
            "a law of times", _named(losses.times, "Stratified Uniform LogNormal LogitNormal Importance Fixed Subsets")
        ),
        Coupling: Table("a coupling", _named(losses.couplings, "Independent Paired OptimalTransport Entropic")),
        Sampler: Table(
            "a sampler",
            _named(samplers, f"{_STEPS} ProbabilityFlow ReverseSDE Switch") | _named(predictor_corrector, "HandOn"),
        ),
        samplers.ProbabilityFlow: Table("a flow", _named(samplers, "ProbabilityFlow")),
        Grid: Table("a grid", _named(jd.grids, "Time Angle LogSNR Kept Karras")),
        Trace: Table("a trace", _named(jd.likelihood, "Hutchinson HutchPP XTrace Exact")),
        diffrax.AbstractSolver: Table("a solver", _named(diffrax, _SOLVERS)),
        diffrax.AbstractAdjoint: Table(
            "an adjoint", _named(diffrax, "RecursiveCheckpointAdjoint DirectAdjoint ForwardMode")
        ),
        guidance.Interval: Table("an interval", _named(guidance, "Interval")),
        Guidance: Table("a guidance", _named(guidance, f"ClassifierFree ClassifierFreePP DynamicThreshold {_SHARPER}")),
        Network: Table("a network", _named(networks, "UNet MLP DiT Joint Transformer")),
        Waves: Table("a set of waves", _named(networks, "Sinusoidal Fourier")),
        Data: Table("a data set", _named(data, f"{_PICTURES} Table MixedTable text maps {_POINTS}"), _data_of_path),
    },
    {"diffrax": diffrax},
)
parse, write, describe, has = WORDS.parse, WORDS.write, WORDS.describe, WORDS.has

# Public names of these kinds that have no word, and why.
UNREACHABLE = {
    "from_betas": "a table of a thousand numbers is read from a file",
    "from_transitions": "a table of matrices is read from a file",
    "Product": "its processes are a tree, one for each part of the data",
    "DAPS": "its operator is a function",
    "RePaint": "it needs arrays of known values, which no setting holds",
    "Each": "its samplers are a tree, one for each part of the data",
    "Classification": "it trains a classifier, and a run has none",
    "Sum": "its terms are any number of pairs",
    "ConditionDropout": "a run drops its condition by the setting `dropout`",
    "Auto": "it guides by another model, which is no setting",
    "Classifier": "it guides by a classifier, or is the network of one, which is no setting",
    "StepClassifier": "it guides by a classifier, which is no setting",
    "TweedieClassifier": "it guides by a classifier, which is no setting",
    "Observed": "it guides by a measurement and its operator, which are no settings",
}


def listing() -> dict[str, list[str]]:
    """The words of each kind with their fields and defaults, by the kind's noun."""
    return {table.noun.split(" ", 1)[1]: describe(kind) for kind, table in WORDS.tables.items()}


def primitive(kind: Any) -> dict[str, Any] | None:
    """The fields of tyro's PrimitiveConstructorSpec for an annotation that has words; None for any other.

    A text that is rejected ends the program with one line and exit code 1, like any error of the command line.
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
