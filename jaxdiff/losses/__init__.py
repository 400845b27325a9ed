"""How a denoiser is trained: `loss(denoiser, key, x0, cond=None) -> [batch]`."""

from jaxdiff.losses import times as times
from jaxdiff.losses import weightings as weightings
from jaxdiff.losses.denoising import Denoising

__all__ = ["Denoising", "times", "weightings"]
