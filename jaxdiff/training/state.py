"""Everything a training run is, in one pytree: save it, and the run continues from there bit for bit.

The step is the data position and, folded into the key, the randomness, so nothing else has to be remembered.

Weights, moments and average lie in vectors (`flat`): the arrays that the optimiser treats alike, end to end. Where the
mesh shares the weights out ("model" above 1) each array lies by itself.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import check_key, native, pytree, said
from jaxdiff.arrays.mesh import place, state_sharding, training_mesh
from jaxdiff.denoisers.denoiser import check_params
from jaxdiff.training.alike import alike
from jaxdiff.training.flat import Flat, flat, form_of_params, form_of_state


@pytree
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A run after `step` updates.

    `finite` turns false at the first step whose loss, gradient or update was not finite; from then on nothing
    changes, so `step` is the index of that step and the rest is the last finite state.
    """

    step: jax.Array  # int32: updates done, and the index of the next batch
    weights: Flat
    moments: Flat  # the optimiser's state
    mean: Flat  # the exponential moving average of weights; that of half precision in float32, or it would stand still
    key: jax.Array  # typed; constant: step k uses fold_in(key, k)
    finite: jax.Array  # bool

    @property
    def params(self) -> Any:
        """The weights as the network takes them."""
        return self.weights.tree()

    @property
    def opt_state(self) -> Any:
        """The optimiser's state as optax has it."""
        return self.moments.tree()

    @property
    def ema(self) -> Any:
        """The exponential moving average of `params`, in float32 where they have less."""
        return self.mean.tree()

    @classmethod
    def create(
        cls, key: jax.Array, params, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh | None = None
    ) -> "TrainState":
        """The state before the first update, on `mesh` (by default all devices, data parallel).

        It owns copies, for a step donates its state. Raises TypeError for a key that is not typed and for parameters
        that are not floating.
        """
        check_trainable(key, params)
        check_optimizer(optimizer)
        mesh = training_mesh(mesh)
        state = cls._new(key, params, optimizer, mesh)
        return place(state, state_sharding(mesh, state))

    @classmethod
    def like(
        cls, params, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh | None = None
    ) -> "TrainState":
        """The shapes and types of such a state, as `jax.ShapeDtypeStruct`."""
        mesh = training_mesh(mesh)
        return jax.eval_shape(lambda: cls._new(jax.random.key(0), params, optimizer, mesh))

    @classmethod
    def _new(cls, key, params, optimizer, mesh) -> "TrainState":
        params = jax.tree.map(lambda leaf: jnp.asarray(native(leaf)), params)
        moments = jax.tree.map(jnp.asarray, optimizer.init(params))
        shapes, kept = jax.eval_shape(lambda *trees: trees, params, moments)
        groups = alike(optimizer, shapes) if mesh.shape["model"] == 1 else tuple(range(len(jax.tree.leaves(params))))
        weights = flat(params, form_of_params(shapes, groups))
        return cls(
            step=jnp.zeros((), jnp.int32),
            weights=weights,
            moments=flat(moments, form_of_state(kept, shapes, groups)),
            mean=jax.tree.map(lambda part: part.astype(jnp.float32) if part.dtype.itemsize < 4 else part, weights),
            key=key,
            finite=jnp.array(True),
        )

    @property
    def averaged(self) -> Any:
        """The averaged weights, in the types of the weights."""
        return jax.tree.map(lambda mean, part: mean.astype(part.dtype), self.mean, self.weights).tree()


def check_optimizer(optimizer) -> None:
    """Raise TypeError for what is no transformation of optax."""
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(f"optimizer = {said(optimizer)}; expected one of optax, such as optax.adam(1e-3)")


def check_trainable(key, params) -> None:
    """Raise for a key that is not one typed key, and for parameters that are not floating or none at all."""
    if check_key(key).ndim:
        raise ValueError(f"key has shape {key.shape}; expected one key")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"params = {said(params)} hold no arrays; expected the weights that are trained")
    check_params(params)
    for path, leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(native(leaf)), jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise TypeError(
                f"parameter {name} has dtype {jnp.result_type(native(leaf))}; expected a floating array. "
                "Keep counters and keys out of the trained parameters"
            )
