"""A Flax module as a pure function and its parameters.

A module is split once: `Network` keeps its structure, which is static and hashable, and `params` its arrays, a plain
nested dict. The module is rebuilt only inside the call, so that `jax.jit`, `grad`, `jvp` and `vmap` apply as to any
function, and two networks of the same structure share one compiled program. A change of how a network is computed is
either a wrapper that gives a network (`Cast`) or an argument of its module (`UNet(remat=True)`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import wadler_lindig
from flax import nnx

from jaxdiff.arrays import check_function, check_instance, check_key, check_room, is_concrete, readable, said
from jaxdiff.denoisers import check_cond_of, no_label_of, takes_key_of


@readable
@dataclasses.dataclass(frozen=True)
class Network:
    """A Flax module without its parameters: a pure function `network(params, *inputs)`.

    It is equal to any other network of the same structure. `initialize` makes it.

    Args:
        graphdef: the structure of the module.

    Raises:
        TypeError: if `graphdef` is not an `nnx.GraphDef`.
        ValueError: when called, if the parameters are those of another network.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.MLP(2, hidden=(4,), rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> network
        Network(MLP)
        >>> jax.eval_shape(network, params, jnp.zeros((3, 2)), jnp.zeros(3)).shape
        (3, 2)
    """

    graphdef: nnx.GraphDef

    def __post_init__(self):
        check_instance("graphdef", self.graphdef, nnx.GraphDef, "the structure of a module; `initialize` makes both")

    def __pdoc__(self, **kwargs) -> wadler_lindig.AbstractDoc:
        """What is shown on a screen in place of the whole structure: Network(UNet)."""
        module: Any = self.graphdef.nodes[0]
        return wadler_lindig.TextDoc(f"Network({module.type.__name__})")

    def check_cond(self, params: dict, cond) -> None:
        """Raise for a `cond` that the module does not accept, by its own `check_cond(cond)`."""
        check_cond_of(self._module(params), cond)

    def no_label(self, params: dict) -> int | None:
        """The label by which the module means "no label", by its own `no_label()`; None if it has none."""
        return no_label_of(self._module(params))

    def takes_key(self, params: dict) -> bool:
        """Whether the module has dropout, by its own `takes_key()`; a call may then end with one key per example."""
        return takes_key_of(self._module(params))

    def __call__(self, params: dict, *inputs):
        """The output of the module for `inputs`: x, c_noise and cond in a denoiser, as in `jaxdiff.networks.UNet`."""
        known = any(map(is_concrete, jax.tree.leaves(inputs)))
        return self._module(params)(*inputs) if known else _traced_once(self, params, inputs)

    def features(self, params: dict, *inputs) -> jax.Array:
        """The input of the module's last layer for `inputs`, by the module's `features(*inputs)`."""
        return self._module(params).features(*inputs)

    def _module(self, params) -> Any:
        try:
            return nnx.merge(self.graphdef, params)
        except ValueError as error:
            raise ValueError(f"params = {said(params)} are not those of this network: {error}") from None


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _traced_once(network: Network, params: dict, inputs: tuple):
    """The output for traced inputs, of which a solver under a derivative asks twenty times in one program.

    Known inputs are not handed over by `jit`, which would hide them from the module's checks.
    """
    return network._module(params)(*inputs)


@dataclasses.dataclass(frozen=True)
class Cast:
    """A network computed in another dtype, such as jnp.bfloat16, with parameters in their own dtype.

    Parameters and the floating values of x, an array or a tree, are cast to `dtype`; the output is cast back to the
    dtype of x. If x holds only integers (categories) the output keeps `dtype`. The noise level is not cast: bfloat16
    has eight bits, too few for it.

    Args:
        network: a network `(params, x, c_noise, cond) -> out`.
        dtype: a floating dtype.

    Raises:
        TypeError: if `network` is not a function, or `dtype` is not a floating dtype.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> def network(params, x, c_noise, cond):
        ...     print(x.dtype)
        ...     return params["scale"] * x
        >>> cast = jd.networks.Cast(network, jnp.bfloat16)
        >>> cast({"scale": jnp.ones(())}, jnp.ones((4, 2)), jnp.zeros(4), None).dtype.name
        bfloat16
        'float32'
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
        """Raise for a `cond` that the network does not accept."""
        check_cond_of(self.network, params, cond)

    def no_label(self, params) -> int | None:
        """The network's label for "no label", or None."""
        return no_label_of(self.network, params)

    def takes_key(self, params) -> bool:
        """Whether the network has dropout and takes keys for it."""
        return takes_key_of(self.network, params)

    def __call__(self, params, x: Any, *inputs) -> Any:
        """`network(params, x, *inputs)`, in the dtype of x."""
        floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
        to = lambda dtype, tree: jax.tree.map(lambda leaf: leaf.astype(dtype) if floating(leaf) else leaf, tree)
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(x) if floating(leaf)}
        with jax.numpy_dtype_promotion("standard"):  # layers mix both dtypes
            out = self.network(to(self.dtype, params), to(self.dtype, x), *inputs)
        return to(max(dtypes, key=lambda dtype: dtype.itemsize), out) if dtypes else out


def computed_twice(block: nnx.Module) -> Callable[..., Any]:
    """`block`, whose gradient stores only its inputs and recomputes the rest."""
    graphdef, params = nnx.split(block)
    again = jax.checkpoint(lambda params, *inputs: nnx.merge(graphdef, params)(*inputs))
    return lambda *inputs: again(params, *inputs)


def initialize(key: jax.Array, make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Network, dict]:
    """Initialise a Flax module as a network and its parameters.

    Args:
        key: a typed key, such as `jax.random.key(0)`.
        make: a function of `nnx.Rngs` that builds the module.

    Returns:
        The pair (network, params).

    Raises:
        TypeError: if the key is not a typed key, or `make` does not return a module.
        ValueError: if the parameters do not fit in memory.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> make = lambda rngs: jd.networks.MLP(2, hidden=(4,), rngs=rngs)
        >>> network, params = jd.networks.initialize(jax.random.key(0), make)
        >>> denoiser = jd.Denoiser(network, params, jd.VP())
        >>> params["out"]["kernel"].shape
        (4, 2)
    """
    traced = _traced(key, make)
    graphdef, state = traced.lower().compile()(key)
    return Network(graphdef), nnx.to_pure_dict(state)


def shapes(key: jax.Array, make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Network, dict]:
    """`initialize` without drawing the parameters: each is a `jax.ShapeDtypeStruct`."""
    graphdef, state = _traced(key, make).out_info
    return Network(graphdef), nnx.to_pure_dict(state)


def _traced(key, make):
    """The function from a key to the module's definition and its parameters, traced and not yet compiled."""
    check_key(key)
    check_function("make", make, "a function of nnx.Rngs that builds a module, such as lambda rngs: MLP(2, rngs=rngs)")

    def split(key):
        module = make(nnx.Rngs(key))
        check_instance("make(rngs)", module, nnx.Module, "a module of flax.nnx")
        return nnx.split(module)

    once = {"xla_backend_optimization_level": 0}  # it runs once, so that compiling takes all the time
    traced = jax.jit(split, compiler_options=once).trace(key)
    check_room("the parameters", sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(traced.out_info)))
    return traced
