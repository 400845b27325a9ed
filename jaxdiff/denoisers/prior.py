"""Whether the prior that samples start from is the law of noised data at t = 1."""

from jaxdiff.denoisers.denoiser import DenoiserLike, innermost


def warn_uncovered(denoiser: DenoiserLike) -> None:
    """Warn where x at t = 1 is far from the prior, as far as the denoiser, or the one it wraps, says its data_std."""
    data_std = getattr(innermost(denoiser), "data_std", None)
    if data_std is not None:
        denoiser.process.warn_uncovered(data_std)
