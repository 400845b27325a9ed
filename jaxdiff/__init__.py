"""jaxdiff: functional diffusion models in JAX. `import jaxdiff as jd`.

process -> denoiser -> loss, sampler, likelihood: see docs/design.md.
"""

from typing import TYPE_CHECKING

from jaxdiff import denoisers, likelihood, losses, samplers
from jaxdiff.arrays.lazy import LazyModule
from jaxdiff.denoisers import Bridge, Denoiser, Given, NoisyClassifier, OnProcess, energy, exact, guidance, score
from jaxdiff.likelihood import (
    BitsPerDim,
    Likelihood,
    VariationalBound,
    bits_per_dim,
    continuous_bound,
    dequantize,
    log_likelihood,
    quantize,
    variational_bound,
)
from jaxdiff.processes import (
    EDM,
    OU,
    VE,
    VP,
    Absorbing,
    Brownian,
    BrownianVE,
    Categorical,
    Cosine,
    Discrete,
    DiscretizedGaussian,
    Flow,
    Gaussian,
    Head,
    LearnedVP,
    Multinomial,
    Prediction,
    Process,
    Product,
    Seen,
    SubVP,
    forward_sde,
    from_betas,
    from_transitions,
    grids,
    perturb,
    posterior,
    pytree,
    schedules,
    transition,
)
from jaxdiff.samplers import cross, decode, encode, invert, sample

if TYPE_CHECKING:
    from jaxdiff import data, metrics, networks, plotting, pretrained, runs, training
else:  # they import flax, orbax, TFDS or matplotlib
    data = LazyModule("jaxdiff.data")
    metrics = LazyModule("jaxdiff.metrics")
    networks = LazyModule("jaxdiff.networks")
    plotting = LazyModule("jaxdiff.plotting")
    pretrained = LazyModule("jaxdiff.pretrained")
    runs = LazyModule("jaxdiff.runs")
    training = LazyModule("jaxdiff.training")

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "OU",
    "VE",
    "VP",
    "Absorbing",
    "BitsPerDim",
    "Bridge",
    "Brownian",
    "BrownianVE",
    "Categorical",
    "Cosine",
    "Denoiser",
    "Discrete",
    "DiscretizedGaussian",
    "Flow",
    "Gaussian",
    "Given",
    "Head",
    "LearnedVP",
    "Likelihood",
    "Multinomial",
    "NoisyClassifier",
    "OnProcess",
    "Prediction",
    "Process",
    "Product",
    "Seen",
    "SubVP",
    "VariationalBound",
    "bits_per_dim",
    "continuous_bound",
    "cross",
    "data",
    "decode",
    "denoisers",
    "dequantize",
    "encode",
    "energy",
    "exact",
    "forward_sde",
    "from_betas",
    "from_transitions",
    "grids",
    "guidance",
    "invert",
    "likelihood",
    "log_likelihood",
    "losses",
    "metrics",
    "networks",
    "perturb",
    "plotting",
    "posterior",
    "pretrained",
    "pytree",
    "quantize",
    "runs",
    "sample",
    "samplers",
    "schedules",
    "score",
    "training",
    "transition",
    "variational_bound",
]


def __dir__():
    return __all__
