"""How far samples are from data."""

from jaxdiff.metrics.wasserstein import wasserstein

__all__ = ["wasserstein"]
