"""Denoisers known in closed form: the reference for networks, samplers and likelihoods."""

from jaxdiff.denoisers.exact.categories import Markov, Table
from jaxdiff.denoisers.exact.empirical import Empirical
from jaxdiff.denoisers.exact.mixture import Gaussian, Mixture, check_covariances

__all__ = ["Empirical", "Gaussian", "Markov", "Mixture", "Table", "check_covariances"]


def __dir__():
    return __all__
