"""What a loss is."""

from typing import Protocol

import jax


class Loss(Protocol):
    """A loss: one of `jaxdiff.losses`, or a frozen dataclass of your own under `@jaxdiff.pytree`.

    One that trains more than a denoiser says what by an attribute `learns`: "variance" (`learned_variance`), "process"
    (`WithProcess`) or "bridge" (`Bridge`).
    """

    def __call__(self, denoiser, key, x0, cond=None, /) -> jax.Array:
        """One number for each example of x0 [batch, *event]."""
        ...
