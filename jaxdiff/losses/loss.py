"""What a loss is."""

from typing import Protocol

import jax


class Loss(Protocol):
    """A loss: one of `jaxdiff.losses`, or a frozen dataclass of your own under `@jaxdiff.pytree`.

    One that trains more than a denoiser says what by an attribute `learns`: "variance" (`learned_variance`), "process"
    (`WithProcess`) or "bridge" (`Bridge`). One that drops conditions has `rates(cond)`, {names of the parts dropped by
    one draw: its rate}; one whose data are not its denoiser's process's has `check(denoiser, x0, cond)`, which raises.
    One that takes `weight=`, of the form of x0, pays for what is 1 in it, and holds what is 0 as given
    (`jaxdiff.losses.counted`); a loss that takes none is called without, and refused where there is one.
    """

    def __call__(self, denoiser, key, x0, cond=None, /) -> jax.Array:
        """One number for each example of x0 [batch, *event]."""
        ...
