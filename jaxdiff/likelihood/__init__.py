"""Likelihoods of data under a model, with their standard errors."""

from jaxdiff.likelihood.argmax import Argmax
from jaxdiff.likelihood.bits_per_dim import BitsPerDim, bits_per_dim
from jaxdiff.likelihood.budget import ErrorBudget
from jaxdiff.likelihood.chain import Chain, chain
from jaxdiff.likelihood.class_posterior import ClassPosterior, class_posterior
from jaxdiff.likelihood.dequantization import DequantizationLoss, Uniform, Variational, dequantize, quantize
from jaxdiff.likelihood.evidence import Evidence, log_evidence
from jaxdiff.likelihood.log_likelihood import Likelihood, log_likelihood
from jaxdiff.likelihood.trace import Exact, Hutchinson, HutchPP, Trace, XTrace
from jaxdiff.likelihood.variational_bound import VariationalBound, continuous_bound, variational_bound

__all__ = [
    "Argmax",
    "BitsPerDim",
    "Chain",
    "ClassPosterior",
    "DequantizationLoss",
    "ErrorBudget",
    "Evidence",
    "Exact",
    "HutchPP",
    "Hutchinson",
    "Likelihood",
    "Trace",
    "Uniform",
    "Variational",
    "VariationalBound",
    "XTrace",
    "bits_per_dim",
    "chain",
    "class_posterior",
    "continuous_bound",
    "dequantize",
    "log_evidence",
    "log_likelihood",
    "quantize",
    "variational_bound",
]


def __dir__():
    return __all__
