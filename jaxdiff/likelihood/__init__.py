"""How probable an example is, and how sure we are."""

from jaxdiff.likelihood.bits_per_dim import BitsPerDim, bits_per_dim
from jaxdiff.likelihood.dequantization import dequantize, quantize
from jaxdiff.likelihood.log_likelihood import Likelihood, log_likelihood

__all__ = ["BitsPerDim", "Likelihood", "bits_per_dim", "dequantize", "log_likelihood", "quantize"]
