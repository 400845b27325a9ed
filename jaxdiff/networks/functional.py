"""A Flax module as a pure function and its parameters.

A module is split once: `Network` keeps its structure, which is static and hashable, and `params` its arrays,
a plain nested dict. The module is put together again only inside the call, so `jax.jit`, `grad`, `jvp` and
`vmap` apply as to any function, and two networks of the same structure share one compiled program.
"""

import dataclasses
from collections.abc import Callable

import jax
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Network:
    """A module without its parameters; equal to any other of its structure."""

    graphdef: nnx.GraphDef

    def __call__(self, params: dict, *inputs):
        """What the module makes of `inputs`: for a denoiser's x, c_noise and cond, as `jaxdiff.networks.UNet` says."""
        return nnx.merge(self.graphdef, params)(*inputs)


def initialize(key: jax.Array, make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Network, dict]:
    """Return (network, params) of the module that `make(rngs)` builds, its parameters drawn from `key`.

    network, params = initialize(jax.random.key(0), lambda rngs: UNet(1, rngs=rngs))
    out = network(params, x, c_noise, cond)
    """
    once = {"xla_backend_optimization_level": 0}  # compiling is all the time it takes
    graphdef, state = jax.jit(lambda key: nnx.split(make(nnx.Rngs(key))), compiler_options=once)(key)
    return Network(graphdef), nnx.to_pure_dict(state)
