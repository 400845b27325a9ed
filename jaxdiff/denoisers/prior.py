"""Whether the prior that samples start from is the law of noised data at t = 1."""

import warnings

import jax
import numpy as np

from jaxdiff.arrays import is_concrete
from jaxdiff.denoisers.denoiser import DenoiserLike, innermost

_SHARE = 0.25


def warn_uncovered(denoiser: DenoiserLike) -> None:
    """Warn where α(1) data_std is above a quarter of the prior's standard deviation, as far as these are known.

    x_1 = α x_0 + σ ε then has a wider law than the prior N(0, prior_std²) that samples and likelihoods take for it: at
    a quarter its standard deviation is 3 % larger, at 1 41 %.
    """
    process = denoiser.process
    data_std = getattr(innermost(denoiser), "data_std", None)
    if data_std is None or not all(map(is_concrete, [data_std, *jax.tree.leaves(process)])):
        return
    with jax.ensure_compile_time_eval():
        left, prior_std = float(process.marginal(1.0)[0]), float(process.prior_std)
    spread = float(np.max(np.asarray(data_std)))
    if left * spread > _SHARE * prior_std:
        warnings.warn(
            f"{type(process).__name__} does not cover data of data_std = {spread:.4g}: alpha(1) data_std = "
            f"{left * spread:.3g} beside a prior of standard deviation {prior_std:.3g}, so that samples come out "
            "narrower than the data. Divide the data by its standard deviation, or give the process more noise "
            "(beta_max, sigma_max)",
            UserWarning,
            stacklevel=3,
        )
