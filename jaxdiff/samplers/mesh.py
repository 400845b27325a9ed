"""Examples on a device mesh: their axis is split over all mesh axes, and all else is replicated.

No example needs another, so each device works on its own share without a word to the others (`by_device`). Left to XLA
an adaptive solver would ask all of them before every step whether one of them still has to go on, and what it cannot
split, LAPACK's QR among it, it would gather. Several processes (`jax.distributed`) call alike with the same values, and
each of them gets the whole result.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiff.arrays import check_instance


def check_mesh(mesh) -> None:
    """Raise TypeError for what is neither a mesh nor None."""
    if mesh is not None:
        check_instance("mesh", mesh, Mesh, "a jax.sharding.Mesh, such as jaxdiff.training.make_mesh()")


def filled(size: int, mesh: Mesh | None) -> int:
    """`size` rounded up to a multiple of the number of devices; None: as it is."""
    return size if mesh is None else -(-size // mesh.size) * mesh.size


def spread(tree: Any, mesh: Mesh | None) -> Any:
    """`tree` with leaves [n, ...] split between the devices of `mesh`, n a multiple of their number; None: as it is."""
    return tree if mesh is None else _put(tree, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def copied(tree: Any, mesh: Mesh | None) -> Any:
    """`tree` on every device of `mesh`; None: as it is."""
    return tree if mesh is None else _put(tree, NamedSharding(mesh, PartitionSpec()))


def _put(tree, sharding):
    def put(leaf):
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
            return jax.device_put(leaf, sharding)
        # device_put would first ask all processes whether they have the same, for each leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        held = np.asarray(jnp.asarray(leaf))
        return jax.make_array_from_callback(held.shape, sharding, held.__getitem__)

    return jax.tree.map(put, tree)


def fetched(tree: Any) -> Any:
    """`tree` as NumPy arrays; what other processes hold of it comes from there."""

    def fetch(leaf):
        if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
            return np.asarray(leaf)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetch, tree)


def writes(mesh: Mesh | None) -> bool:
    """Whether this process is the one that reads and writes files for all of `mesh`."""
    return mesh is None or not mesh.is_multi_process or jax.process_index() == 0


def agreed(read: Callable[[], bytes], mesh: Mesh | None) -> bytes:
    """What the first process reads, on every process of `mesh`."""
    if mesh is None or not mesh.is_multi_process:
        return read()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    content = np.frombuffer(read() if jax.process_index() == 0 else b"", np.uint8)
    size = int(broadcast_one_to_all(np.array(content.size)))
    return np.asarray(broadcast_one_to_all(np.resize(content, size))).tobytes()


def split_of(denoiser: Any, *examples: Any) -> NamedSharding | None:
    """How the first axis of these examples lies on a mesh; None where it does on none, or where anything is traced.

    Under a transformation XLA splits the work: diffrax's reverse mode does not go through `by_device`.
    """
    leaves = jax.tree.leaves(examples)
    if not any(isinstance(leaf, Tracer) for leaf in [*leaves, *jax.tree.leaves(denoiser)]):
        for sharding in (getattr(leaf, "sharding", None) for leaf in leaves):
            if isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0] is not None:
                return NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    return None


def _automatic(function: Callable, axis: int, shared, *examples):
    """`function(shared, *examples)`, split by XLA; under explicit mesh axes too, where types hold the shardings."""
    for leaf in jax.tree.leaves(examples):
        sharding = jax.typeof(leaf).sharding
        if AxisType.Explicit in sharding.mesh.axis_types:
            lies = NamedSharding(sharding.mesh, PartitionSpec(*[None] * axis, *sharding.spec[:1]))
            return jax.sharding.auto_axes(function, out_sharding=lies)(shared, *examples)
    return function(shared, *examples)


def by_device(function: Callable, split: NamedSharding | None, axis: int = 0) -> Callable:
    """`function(shared, *examples)` of examples with leaves [n, ...], each device of `split` with its own.

    `shared` is replicated. Every traced value must be passed in it or in `examples`, to be typed for the mesh.
    `axis` is that of examples in the results.
    """
    if split is None:
        return functools.partial(_automatic, function, axis)
    results = PartitionSpec(*[None] * axis, *split.spec)

    def run(shared, *examples):
        lie = (PartitionSpec(), *[split.spec] * len(examples))
        own = jax.shard_map(function, mesh=split.mesh, in_specs=lie, out_specs=results, check_vma=False)
        return own(shared, *examples)

    return run
