"""What every sampler is made of, and the keys of its samples."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import example_keys as example_keys
from jaxdiff.arrays import is_concrete, native
from jaxdiff.denoisers import DenoiserLike, check_cond_of
from jaxdiff.processes import Process
from jaxdiff.processes.grids import Angle


class Sampler(abc.ABC):
    """One step from t to s < t; a frozen dataclass registered as a pytree, its numbers leaves."""

    adaptive = False
    """Whether it chooses its own steps between two times."""

    grid = Angle()
    """The grid it runs on unless given another."""

    reversible = False
    """Whether its step, drawing no noise and looking at nothing but x, runs from data to noise too: s > t."""

    def init(self, denoiser: DenoiserLike, x: jax.Array, steps: int) -> Any:
        """What it carries from step to step."""
        return ()

    def check_start(self, process: Process, t) -> None:  # noqa: B027
        """Raise ValueError where it cannot start at the concrete `t`."""

    @abc.abstractmethod
    def step(self, keys, denoiser: DenoiserLike, x: jax.Array, t, s, state: Any, cond) -> tuple[jax.Array, Any]:
        """x [n, *event] at the scalar s < t from x at t, with one key a sample, and what is carried on."""


def check_cond(denoiser: DenoiserLike, cond, n: int) -> Any:
    """`cond` with leaves [n, ...], scalars repeated, held to be what the denoiser takes (see `DenoiserLike`).

    Raises TypeError for a leaf that holds no numbers, ValueError for one of another length, or (concrete) with a NaN.
    """

    def check(leaf):
        leaf = native(leaf)
        if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
            raise TypeError(f"cond has dtype {leaf.dtype}; expected arrays of numbers, such as integer labels")
        if leaf.ndim and leaf.shape[0] != n:
            raise ValueError(f"cond has shape {leaf.shape}; expected one entry each for {n} examples, or a scalar")
        if is_concrete(leaf) and ((values := np.asarray(leaf)) != values).any():
            raise ValueError("cond holds a NaN; remove or repair that example")
        return leaf

    cond = jax.tree.map(check, cond, is_leaf=lambda c: isinstance(c, list))
    check_cond_of(denoiser, cond)
    every = lambda leaf: jnp.asarray(leaf) if leaf.ndim else jnp.broadcast_to(leaf, (n,))
    return jax.tree.map(every, cond)


def normal(keys, x: jax.Array) -> jax.Array:
    """Standard normal noise of the shape and dtype of x [n, *event], one key an example."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def same_dtype(tree, like):
    """`tree` with the dtypes of `like`: float64 weights do not turn a float32 state into another type on the way."""
    return jax.tree.map(lambda leaf, other: jnp.asarray(leaf).astype(other.dtype), tree, like)
