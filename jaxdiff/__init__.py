"""Functional diffusion models in JAX, for numbers and for categories. Import it as `import jaxdiff as jd`.

    process      how data becomes noise            jd.VP(), jd.Flow(), jd.Absorbing(27), jd.processes
    denoiser     a network that predicts x_0       jd.Denoiser(network, params, process), jd.exact, jd.guidance
    loss         how the denoiser is trained       jd.losses.Denoising(), jd.training.train
    sampler      how noise becomes data            jd.sample(key, denoiser, shape), jd.samplers
    likelihood   the probability of an example     jd.log_likelihood, jd.variational_bound, jd.likelihood

Every sampler and likelihood takes every denoiser of a suitable process:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxdiff as jd
    >>> denoiser = jd.exact.Gaussian(jd.VP(), jnp.zeros(2), jnp.eye(2))
    >>> jd.sample(jax.random.key(0), denoiser, (4, 2), steps=5).shape
    (4, 2)
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
