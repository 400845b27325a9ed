"""A Flax module as a pure function and its parameters.

A module is split once: `Network` keeps its structure, which is static and hashable, and `params` its arrays,
a plain nested dict. The module is put together again only inside the call, so `jax.jit`, `grad`, `jvp` and
`vmap` apply as to any function, and two networks of the same structure share one compiled program. What
changes how a network is computed wraps it and gives a network (`Cast`), or is said where its module is built
(`UNet(remat=True)`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import wadler_lindig
from flax import nnx

from jaxdiff.arrays import check_function, check_instance, check_key, check_room, readable, said
from jaxdiff.denoisers import check_cond_of, no_label_of, takes_key_of


@readable
@dataclasses.dataclass(frozen=True)
class Network:
    """A module without its parameters; equal to any other of its structure."""

    graphdef: nnx.GraphDef

    def __post_init__(self):
        check_instance("graphdef", self.graphdef, nnx.GraphDef, "the structure of a module; `initialize` makes both")

    def __pdoc__(self, **kwargs) -> wadler_lindig.AbstractDoc:
        """Network(UNet): what is shown on a screen in place of the whole structure."""
        module: Any = self.graphdef.nodes[0]
        return wadler_lindig.TextDoc(f"Network({module.type.__name__})")

    def check_cond(self, params: dict, cond) -> None:
        """Raise for a `cond` that the module does not take, by its own `check_cond(cond)`."""
        check_cond_of(self._module(params), cond)

    def no_label(self, params: dict) -> int | None:
        """The label by which the module means none, by its own `no_label()`; None where it has no such label."""
        return no_label_of(self._module(params))

    def takes_key(self, params: dict) -> bool:
        """Whether the module has dropout, by its own `takes_key()`; its call then takes a key an example at the end."""
        return takes_key_of(self._module(params))

    def __call__(self, params: dict, *inputs):
        """What the module makes of `inputs`: for a denoiser's x, c_noise and cond, as `jaxdiff.networks.UNet` says."""
        return self._module(params)(*inputs)

    def features(self, params: dict, *inputs) -> jax.Array:
        """The input of the module's last layer for `inputs`, by the module's `features(*inputs)`."""
        return self._module(params).features(*inputs)

    def _module(self, params) -> Any:
        try:
            return nnx.merge(self.graphdef, params)
        except ValueError as error:
            raise ValueError(f"params = {said(params)} are not those of this network: {error}") from None


@dataclasses.dataclass(frozen=True)
class Cast:
    """`network` computed in `dtype`, such as jnp.bfloat16, over weights that stay as they are.

    Weights and the numbers in x, an array or a tree of them, are cast on the way in, and what comes out is cast to the
    dtype that these had; of tokens alone it stays as it is. The noise level is not cast: bfloat16 has eight bits, too
    few for it.
    """

    network: Callable[..., jax.Array]
    dtype: Any

    def __post_init__(self):
        check_function("network", self.network, "a function (params, x, c_noise, cond) -> out")
        try:
            floating = self.dtype is not None and jnp.issubdtype(jnp.dtype(self.dtype), jnp.floating)
        except TypeError:
            floating = False
        if not floating:
            raise TypeError(f"dtype = {said(self.dtype)}; expected a floating dtype, such as jnp.bfloat16")

    @property
    def uncast(self) -> Callable[..., jax.Array]:
        """The network in full precision."""
        return self.network

    def check_cond(self, params, cond) -> None:
        """Raise for a `cond` that the network does not take."""
        check_cond_of(self.network, params, cond)

    def no_label(self, params) -> int | None:
        """The network's label for none, or None."""
        return no_label_of(self.network, params)

    def takes_key(self, params) -> bool:
        """Whether the network takes the keys of its dropout."""
        return takes_key_of(self.network, params)

    def __call__(self, params, x: Any, *inputs) -> Any:
        """`network(params, x, *inputs)`, in the dtype of x."""
        floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
        to = lambda dtype, tree: jax.tree.map(lambda leaf: leaf.astype(dtype) if floating(leaf) else leaf, tree)
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(x) if floating(leaf)}
        with jax.numpy_dtype_promotion("standard"):  # its layers meet both types
            out = self.network(to(self.dtype, params), to(self.dtype, x), *inputs)
        return to(max(dtypes, key=lambda dtype: dtype.itemsize), out) if dtypes else out


def computed_twice(block: nnx.Module) -> Callable[..., Any]:
    """`block`, of which a gradient keeps the inputs alone and computes the rest again."""
    graphdef, params = nnx.split(block)
    again = jax.checkpoint(lambda params, *inputs: nnx.merge(graphdef, params)(*inputs))
    return lambda *inputs: again(params, *inputs)


def initialize(key: jax.Array, make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Network, dict]:
    """Return (network, params) of the module that `make(rngs)` builds, its parameters drawn from `key`.

    network, params = initialize(jax.random.key(0), lambda rngs: UNet(1, rngs=rngs))
    out = network(params, x, c_noise, cond)

    Raises TypeError for an untyped key or a `make` that makes no module, ValueError for more parameters than
    memory holds.
    """
    check_key(key)
    check_function("make", make, "a function of nnx.Rngs that builds a module, such as lambda rngs: MLP(2, rngs=rngs)")

    def split(key):
        module = make(nnx.Rngs(key))
        check_instance("make(rngs)", module, nnx.Module, "a module of flax.nnx")
        return nnx.split(module)

    once = {"xla_backend_optimization_level": 0}  # compiling is all the time it takes
    traced = jax.jit(split, compiler_options=once).trace(key)
    check_room("the parameters", sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(traced.out_info)))
    graphdef, state = traced.lower().compile()(key)
    return Network(graphdef), nnx.to_pure_dict(state)
