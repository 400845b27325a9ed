"""Guidance wraps a denoiser and gives a denoiser, so every sampler and likelihood accepts it."""

import dataclasses

import jax

from jaxdiff.denoisers.denoiser import DenoiserLike, Prediction


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): unconditional + scale (conditional - unconditional).

    `scale` = 1 + w of the paper: 0 is the unconditional model, 1 the conditional one, above 1 guided. The
    unconditional prediction is the denoiser's own at cond = None. Costs two evaluations a step, in one batch each.
    """

    denoiser: DenoiserLike
    scale: float = 1.0

    @property
    def process(self):
        """The process of the denoiser it wraps."""
        return self.denoiser.process

    def __call__(self, x, t, cond=None) -> Prediction:
        """The guided prediction at x [batch, *event], t a scalar or [batch]."""
        guided, free = self.denoiser(x, t, cond), self.denoiser(x, t, None)
        return jax.tree.map(lambda g, f: f + self.scale * (g - f), guided, free)
