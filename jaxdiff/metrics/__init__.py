"""How far samples are from data."""

from jaxdiff.metrics.frechet import frechet_distance
from jaxdiff.metrics.wasserstein import wasserstein

__all__ = ["frechet_distance", "wasserstein"]
