"""How probable an example is, and how sure we are."""

from jaxdiff.likelihood.bits_per_dim import BitsPerDim, bits_per_dim
from jaxdiff.likelihood.budget import ErrorBudget
from jaxdiff.likelihood.dequantization import DequantizationLoss, Uniform, Variational, dequantize, quantize
from jaxdiff.likelihood.log_likelihood import Likelihood, log_likelihood
from jaxdiff.likelihood.variational_bound import VariationalBound, continuous_bound, variational_bound

__all__ = [
    "BitsPerDim",
    "DequantizationLoss",
    "ErrorBudget",
    "Likelihood",
    "Uniform",
    "Variational",
    "VariationalBound",
    "bits_per_dim",
    "continuous_bound",
    "dequantize",
    "log_likelihood",
    "quantize",
    "variational_bound",
]
