"""A mean over examples and how sure it is."""

import math
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean and its standard error; NaN where there are too few values: none for the one, one for the other."""

    mean: float
    standard_error: float


def mean_of(values: np.ndarray, counted: np.ndarray | None = None) -> Mean:
    """The mean of `values` [n], a value that is not finite included.

    With `counted` [n] each is itself a mean over so many values: the mean over all of these is a ratio of sums, and its
    standard error that of the ratio, to first order.
    """
    if counted is not None:
        return ratio_of(values * counted, counted)
    n = len(values)
    return Mean(
        float(values.mean()) if n else math.nan, float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    )


def ratio_of(totals: np.ndarray, counted: np.ndarray) -> Mean:
    """Σ totals / Σ counted over examples [n], of some of which nothing may count; its error to first order."""
    n = len(totals)
    ratio = float(totals.sum() / counted.sum()) if n else math.nan
    error = (totals - ratio * counted).std(ddof=1) / (counted.mean() * math.sqrt(n)) if n > 1 else math.nan
    return Mean(ratio, float(error))


def finite(values: np.ndarray) -> np.ndarray:
    """Those of `values` that are: the others are solves that did not converge, or were never made."""
    return values[np.isfinite(values)]
