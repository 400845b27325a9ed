"""The whole state of a training run in one pytree: a run continues from a saved state bit for bit.

The step is the position in the data and, folded into the key, determines the randomness; nothing else is needed.

Weights, moments and average are held as vectors (`flat`), which concatenate the arrays that the optimiser treats alike.
If the mesh shards the weights ("model" above 1), each array stays separate.
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
    """The state of a run after `step` updates. Make one with `TrainState.create`.

    Attributes:
        step: int32; the number of updates done, which is the index of the next batch.
        weights: the trained weights as vectors; `params` is the tree.
        moments: the optimiser's state as vectors; `opt_state` is the tree.
        mean: the exponential moving average (EMA) of the weights as vectors; `ema` is the tree. Its type is at least
            float32: in half precision it would not move.
        key: one typed key, constant; step k uses fold_in(key, k).
        finite: bool; false from the first step whose loss, gradient or update is not finite. From then on nothing
            changes: `step` is the index of that step, and the rest is the last finite state.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxdiff.training import TrainState
        >>> state = TrainState.create(jax.random.key(0), {"w": jnp.ones((3, 2))}, optax.adam(1e-3))
        >>> int(state.step), state.params["w"].shape, bool(state.finite)
        (0, (3, 2), True)
    """

    step: jax.Array
    weights: Flat
    moments: Flat
    mean: Flat
    key: jax.Array
    finite: jax.Array

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
        """The exponential moving average of `params`, at least in float32."""
        return self.mean.tree()

    @classmethod
    def create(
        cls, key: jax.Array, params, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh | None = None
    ) -> "TrainState":
        """The state before the first update.

        Args:
            key: one typed key.
            params: the weights, a pytree of floating arrays. They are copied, because a step donates its state.
            optimizer: an optax optimiser.
            mesh: the devices; None means `make_mesh()`, data parallel over all of them.

        Raises:
            TypeError: if the key is not typed, or a parameter is not floating.
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
        """The shapes and types of the state that `create` makes, as `jax.ShapeDtypeStruct`."""
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
    """Raise TypeError if `optimizer` is not an optax gradient transformation."""
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(f"optimizer = {said(optimizer)}; expected one of optax, such as optax.adam(1e-3)")


def check_trainable(key, params) -> None:
    """Raise if `key` is not one typed key, or if there are no parameters or some are not floating."""
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
