r"""Euler-Maruyama on the reverse SDE.

dx = (f x - g² score) dt + g dw, run from t down to s (Anderson 1982; Song et al. 2021, eq. 6); with score = -ε/σ and
h = t - s,

    x_s = x - h (f x + g²/σ ε) + g √h z.

Of weak order 1 in h. Unlike the other samplers it steps in t itself, so it is the coarsest near the ends.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.processes import forward_sde
from jaxdiff.samplers.sampler import Sampler, normal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """Euler-Maruyama on the reverse SDE (Song et al. 2021, eq. 6 and appendix D)."""

    def check_start(self, process, t) -> None:
        """Raise ValueError where the SDE is singular at `t`: α = 0."""
        if process.marginal(t)[0] == 0:
            raise ValueError(
                f"the SDE of {type(process).__name__} is singular at t = {float(t)}, where alpha = 0; "
                "start below, for example t_start=0.999, or use Ancestral, whose step is finite there"
            )

    def step(self, keys, denoiser, x, t, s, state, cond):
        """One Euler-Maruyama step."""
        f, g = forward_sde(denoiser.process, t)
        _, sigma = denoiser.process.marginal(t)
        h = t - s
        drift = f * x + g**2 / sigma * denoiser(x, t, cond).noise
        return x - h * drift + g * jnp.sqrt(h) * normal(keys, x), state
