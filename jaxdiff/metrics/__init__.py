"""Distances between samples and data."""

from jaxdiff.metrics.distance import Distance
from jaxdiff.metrics.frechet import frechet_distance
from jaxdiff.metrics.kernel import kernel_distance
from jaxdiff.metrics.neighbours import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from jaxdiff.metrics.retrieval import Retrieval, retrieval
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.metrics.wasserstein import network_simplex, wasserstein

__all__ = [
    "DensityCoverage",
    "Distance",
    "PrecisionRecall",
    "Retrieval",
    "density_coverage",
    "frechet_distance",
    "kernel_distance",
    "network_simplex",
    "precision_recall",
    "retrieval",
    "sliced_wasserstein",
    "wasserstein",
]


def __dir__():
    return __all__
