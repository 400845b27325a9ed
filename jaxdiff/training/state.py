"""Everything a training run is, in one pytree: save it, and the run continues from there bit for bit.

The step is the data position and, folded into the key, the randomness, so nothing else has to be remembered.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import check_key, native, pytree, said
from jaxdiff.arrays.mesh import place, state_sharding, training_mesh
from jaxdiff.denoisers.denoiser import check_params


@pytree
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A run after `step` updates.

    `finite` turns false at the first step whose loss, gradient or update was not finite; from then on nothing
    changes, so `step` is the index of that step and the rest is the last finite state.
    """

    step: jax.Array  # int32: updates done, and the index of the next batch
    params: Any
    opt_state: Any
    ema: Any  # the exponential moving average of params; that of half precision in float32, or it would stand still
    key: jax.Array  # typed; constant: step k uses fold_in(key, k)
    finite: jax.Array  # bool

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
        state = cls._new(key, params, optimizer)
        return place(state, state_sharding(training_mesh(mesh), state))

    @classmethod
    def like(cls, params, optimizer: optax.GradientTransformation) -> "TrainState":
        """The shapes and types of such a state, as `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(lambda: cls._new(jax.random.key(0), params, optimizer))

    @classmethod
    def _new(cls, key, params, optimizer) -> "TrainState":
        params = jax.tree.map(lambda leaf: jnp.asarray(native(leaf)), params)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=jax.tree.map(jnp.asarray, optimizer.init(params)),
            ema=jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype.itemsize < 4 else leaf, params),
            key=key,
            finite=jnp.array(True),
        )

    @property
    def averaged(self) -> Any:
        """The averaged weights, in the types of the weights."""
        return jax.tree.map(lambda mean, leaf: mean.astype(leaf.dtype), self.ema, self.params)


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
