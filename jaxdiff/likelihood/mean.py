"""A mean over examples with its standard error."""

import math
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean and its standard error; NaN for too few values: none for the mean, fewer than two for the error."""

    mean: float
    standard_error: float


def mean_of(values: np.ndarray, counted: np.ndarray | None = None) -> Mean:
    """The mean of `values` [n], including values that are not finite.

    With `counted` [n] each value is itself a mean over so many: the mean over all of these is a ratio of sums, and the
    standard error is that of the ratio, to first order.
    """
    if counted is not None:
        return ratio_of(values * counted, counted)
    n = len(values)
    return Mean(
        float(values.mean()) if n else math.nan, float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    )


def ratio_of(totals: np.ndarray, counted: np.ndarray) -> Mean:
    """Σ totals / Σ counted over examples [n], some of which may count nothing; the standard error is to first order."""
    n = len(totals)
    ratio = float(totals.sum() / counted.sum()) if n else math.nan
    error = (totals - ratio * counted).std(ddof=1) / (counted.mean() * math.sqrt(n)) if n > 1 else math.nan
    return Mean(ratio, float(error))


def finite(values: np.ndarray) -> np.ndarray:
    """The finite ones of `values`; the others are solves that did not converge or were not made."""
    return values[np.isfinite(values)]
