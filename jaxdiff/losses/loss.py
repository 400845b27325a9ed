"""The interface of a loss."""

from typing import Protocol

import jax


class Loss(Protocol):
    """The interface of a loss: a callable pytree `(denoiser, key, x0, cond)` that returns one number per example.

    To define a loss, write `__call__` in a frozen dataclass under `@jaxdiff.pytree`. Optional members:

    - `learns`: what it trains if not a plain denoiser: "variance" (`learned_variance`), "process" (`WithProcess`) or
      "bridge" (`Bridge`).
    - `rates(cond)`, for a loss that drops conditions: {names of the parts that are dropped together: probability}.
    - `check(denoiser, x0, cond)`, for a loss whose x0 is not data of the denoiser's process: raises for invalid x0.
    - an argument `weight=None` of `__call__`, of the structure of x0: 1 where a value counts, 0 where it is given
      (`jaxdiff.losses.counted`). A loss without it cannot be called with a weight.

    Examples:
        >>> import dataclasses
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jd.pytree
        ... @dataclasses.dataclass(frozen=True)
        ... class AtOneTime:
        ...     t: float
        ...
        ...     def __call__(self, denoiser, key, x0, cond=None):
        ...         x, _ = jd.perturb(key, denoiser.process, x0, self.t)
        ...         return jnp.mean((denoiser(x, self.t, cond).data - x0) ** 2, axis=-1)
        >>> denoiser = jd.Denoiser(lambda params, x, c_noise, cond: params * x, jnp.ones(()), jd.VP())
        >>> AtOneTime(0.5)(denoiser, jax.random.key(0), jnp.ones((4, 2))).shape
        (4,)
    """

    def __call__(self, denoiser, key, x0, cond=None, /) -> jax.Array:
        """One number per example of x0 [n, *event], shape [n]."""
        ...
