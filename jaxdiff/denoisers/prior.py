"""Whether the prior that samples start from is the law of noised data at t = 1."""

from jaxdiff.denoisers.denoiser import DenoiserLike


def warn_uncovered(denoiser: DenoiserLike) -> None:
    """Warn where x at t = 1 is far from the prior, as far as the denoiser, or the one it wraps, says its data_std."""
    process = denoiser.process
    while not hasattr(denoiser, "data_std") and hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser  # pyright: ignore[reportAttributeAccessIssue]
    data_std = getattr(denoiser, "data_std", None)
    if data_std is not None:
        process.warn_uncovered(data_std)
