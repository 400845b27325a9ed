"""A mean over examples and how sure it is."""

import math
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean and its standard error; NaN where there are too few values: none for the one, one for the other."""

    mean: float
    standard_error: float


def mean_of(values: np.ndarray) -> Mean:
    """The mean of `values` [n], a value that is not finite included."""
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    return Mean(mean, float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan)


def finite(values: np.ndarray) -> np.ndarray:
    """Those of `values` that are: the others are solves that did not converge, or were never made."""
    return values[np.isfinite(values)]
