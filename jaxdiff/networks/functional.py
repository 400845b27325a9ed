"""A Flax module as a pure function and its parameters.

A module is split once: `Network` keeps its structure, which is static and hashable, and `params` its arrays,
a plain nested dict. The module is put together again only inside the call, so `jax.jit`, `grad`, `jvp` and
`vmap` apply as to any function, and two networks of the same structure share one compiled program.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Network:
    """A module `(x, c_noise, cond) -> out` without its parameters; equal to any other of its structure."""

    graphdef: nnx.GraphDef

    def __call__(self, params: dict, x: jax.Array, c_noise, cond=None) -> jax.Array:
        """Return out [batch, *event] for x [batch, *event] of about unit variance.

        c_noise: log(σ/α)/4, a scalar or [batch]. cond: integer labels, a scalar or [batch]; None for no
        label. Raises ValueError for a c_noise of another shape, and what the module raises.
        """
        c_noise = jnp.asarray(c_noise, x.dtype)
        if c_noise.shape not in ((), x.shape[:1]):
            raise ValueError(f"c_noise has shape {c_noise.shape}; expected a scalar or {x.shape[:1]}, one an example")
        module = nnx.merge(self.graphdef, params)
        return module(x, jnp.broadcast_to(c_noise, x.shape[:1]), cond)


def initialize(key: jax.Array, make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Network, dict]:
    """Return (network, params) of the module that `make(rngs)` builds, its parameters drawn from `key`.

    network, params = initialize(jax.random.key(0), lambda rngs: UNet(1, rngs=rngs))
    out = network(params, x, c_noise, cond)
    """
    once = {"xla_backend_optimization_level": 0}  # compiling is all the time it takes
    graphdef, state = jax.jit(lambda key: nnx.split(make(nnx.Rngs(key))), compiler_options=once)(key)
    return Network(graphdef), nnx.to_pure_dict(state)
