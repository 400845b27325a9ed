"""Sharding on a mesh of devices: examples over all of its axes, a training state over one of them.

Sampling, likelihoods. Examples are independent, so each device computes its own shard without communication
(`by_device`), and everything else is replicated. If XLA partitioned the work, an adaptive solver would need a
collective before every step to see whether any device has to go on, and XLA would gather what it cannot partition, such
as LAPACK's QR. Several processes (`jax.distributed`) must call with the same values, and each gets the whole result.

Training. One mesh of devices with two axes, whose shape alone determines the sharding.

    (8, 1)    data parallel: every device has all weights and an eighth of the batch
    (1, 8)    FSDP (Zhao et al. 2023; ZeRO, Rajbhandari et al. 2020): every device keeps an eighth of weights, moments
              and average, and an eighth of the batch
    (2, 4)    both: two copies, each in four pieces

The batch is always sharded over both axes. An array of the state is sharded over "model" along the longest axis that
its size divides, and replicated if there is no such axis or the array is small. The step gathers the weights before it
uses them and scatters the gradient; over "data" the only communication is one sum of gradients. Noise is drawn as on
one device (threefry is partitionable), so the numbers are those of one device up to the order of sums.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiff.arrays.checks import check_instance, check_whole, native, said

SMALL = 1024  # arrays with fewer values are replicated: communication would cost more than the memory saved


def make_mesh(model: int = 1, devices: list | None = None) -> Mesh:
    """Make a mesh of devices with the axes "data" and "model", which training shards over.

    Args:
        model: the number of devices that share one copy of the training state; 1 keeps a whole copy on each device.
        devices: the devices; None is all of them.

    Returns:
        A mesh of shape (number of devices / model, model).

    Raises:
        TypeError: if `devices` are not distinct JAX devices.
        ValueError: if `model` does not divide their number.

    Examples:
        >>> import jax
        >>> import jaxdiff as jd
        >>> mesh = jd.training.make_mesh(devices=jax.devices()[:1])
        >>> mesh.axis_names, mesh.size
        (('data', 'model'), 1)
    """
    if devices is not None:
        check_instance(
            "devices", devices, (Sequence, np.ndarray), "devices of jax.devices(), such as jax.devices()[:2]"
        )
    devices = jax.devices() if devices is None else list(devices)
    model = check_whole("model", model, least=None)
    if model < 1 or len(devices) % model:
        raise ValueError(f"model = {model} does not divide {len(devices)} devices; expected a divisor of their number")
    if not all(isinstance(device, jax.Device) for device in devices) or len(set(devices)) < max(len(devices), 1):
        raise TypeError(f"devices = {said(devices)}; expected different devices of jax.devices(), at least one")
    return jax.make_mesh((len(devices) // model, model), ("data", "model"), (AxisType.Auto,) * 2, devices=devices)


def check_mesh(mesh) -> None:
    """Raise TypeError unless `mesh` is a mesh or None."""
    if mesh is not None:
        check_instance("mesh", mesh, Mesh, "a jax.sharding.Mesh, such as jaxdiff.training.make_mesh()")


def training_mesh(mesh: Mesh | None) -> Mesh:
    """`mesh`, by default one of all devices, with automatic axes; an error unless its axes are "data" and "model".

    The axes that `jax.make_mesh` makes by default are explicit (`AxisType.Explicit`).
    """
    if mesh is None:
        return make_mesh()
    check_instance("mesh", mesh, Mesh, "a mesh, such as jaxdiff.training.make_mesh()")
    if set(mesh.axis_names) != {"data", "model"}:
        raise ValueError(
            f'mesh has the axes {mesh.axis_names}; expected "data" and "model": make it with jaxdiff.training.make_mesh'
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis split over all devices of a mesh.

    Args:
        mesh: a mesh, such as `make_mesh()`.

    Returns:
        A `jax.sharding.NamedSharding` for `jax.device_put`.

    Raises:
        TypeError: if `mesh` is not a mesh.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> mesh = jd.training.make_mesh(devices=jax.devices()[:1])
        >>> x = jax.device_put(jnp.zeros((8, 2)), jd.training.batch_sharding(mesh))
        >>> x.sharding.mesh == mesh
        True
    """
    check_instance("mesh", mesh, Mesh, "a mesh, such as jaxdiff.training.make_mesh()")
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def filled(size: int, mesh: Mesh | None) -> int:
    """`size` rounded up to a multiple of the number of devices; unchanged if `mesh` is None."""
    return size if mesh is None else -(-size // mesh.size) * mesh.size


def spread(tree: Any, mesh: Mesh | None) -> Any:
    """`tree` with leaves [n, ...] sharded over `mesh`, n a multiple of its size; unchanged if `mesh` is None."""
    return tree if mesh is None else _put(tree, batch_sharding(mesh))


def copied(tree: Any, mesh: Mesh | None) -> Any:
    """`tree` replicated on every device of `mesh`; unchanged if `mesh` is None."""
    return tree if mesh is None else _put(tree, replicated(mesh))


def _put(tree, sharding):
    def put(leaf):
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
            return jax.device_put(leaf, sharding)
        # device_put would check by a collective, leaf by leaf, that all processes have the same value
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        held = np.asarray(jnp.asarray(leaf))
        return jax.make_array_from_callback(held.shape, sharding, held.__getitem__)

    return jax.tree.map(put, tree)


def fetched(tree: Any) -> Any:
    """`tree` as whole NumPy arrays, gathered from other processes if necessary (a collective)."""

    def fetch(leaf):
        if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
            return np.asarray(leaf)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetch, tree)


def free(tree: Any) -> Any:
    """`tree` with the arrays that a mesh keeps on JAX's default device as arrays that may move, as all new ones may.

    Results lie where their arguments are kept. As arguments they would compile each function once more, for
    arguments that are kept there.
    """
    home = jnp.zeros(()).devices()
    kept = lambda leaf: isinstance(leaf, jax.Array) and leaf.committed and leaf.devices() == home
    return jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)) if kept(leaf) else leaf, tree)


def writes(mesh: Mesh | None) -> bool:
    """Whether this is the process that reads and writes files for all processes of `mesh`."""
    return mesh is None or not mesh.is_multi_process or jax.process_index() == 0


def agreed(read: Callable[[], bytes], mesh: Mesh | None) -> bytes:
    """`read()` of the first process, broadcast to every process of `mesh` (a collective)."""
    if mesh is None or not mesh.is_multi_process:
        return read()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    content = np.frombuffer(read() if jax.process_index() == 0 else b"", np.uint8)
    size = int(broadcast_one_to_all(np.array(content.size)))
    return np.asarray(broadcast_one_to_all(np.resize(content, size))).tobytes()


def split_of(denoiser: Any, *examples: Any) -> NamedSharding | None:
    """The sharding of the first axis of these examples on a mesh; None if there is none, or if anything is traced.

    Under a transformation XLA partitions the work, because diffrax's reverse mode does not work inside `by_device`.
    """
    leaves = jax.tree.leaves(examples)
    if not any(isinstance(leaf, Tracer) for leaf in [*leaves, *jax.tree.leaves(denoiser)]):
        for sharding in (getattr(leaf, "sharding", None) for leaf in leaves):
            if isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0] is not None:
                return NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    return None


def _automatic(function: Callable, axis: int, shared, *examples):
    """`function(shared, *examples)`, partitioned by XLA; also under explicit mesh axes, where types have shardings."""
    for leaf in jax.tree.leaves(examples):
        sharding = jax.typeof(leaf).sharding
        if AxisType.Explicit in sharding.mesh.axis_types:
            lies = NamedSharding(sharding.mesh, PartitionSpec(*[None] * axis, *sharding.spec[:1]))
            return jax.sharding.auto_axes(function, out_sharding=lies)(shared, *examples)
    return function(shared, *examples)


def by_device(function: Callable, split: NamedSharding | None, axis: int = 0) -> Callable:
    """`function(shared, *examples)`, run by each device of `split` on its own examples, leaves [n, ...].

    `shared` is replicated. Every traced value must be passed in `shared` or `examples`, to be typed for the mesh.
    `axis` is the axis of examples in the results.
    """
    if split is None:
        return functools.partial(_automatic, function, axis)
    results = PartitionSpec(*[None] * axis, *split.spec)

    def run(shared, *examples):
        lie = (PartitionSpec(), *[split.spec] * len(examples))
        own = jax.shard_map(function, mesh=split.mesh, in_specs=lie, out_specs=results, check_vma=False)
        return own(shared, *examples)

    return run


def on_mesh(mesh: Mesh) -> Callable[[Callable], Callable]:
    """A decorator of functions, which are then traced with `mesh` as the current mesh, whatever `jax.set_mesh` says."""

    def wrap(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*arguments):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(*arguments)

        return wrapped

    return wrap


def state_sharding(mesh: Mesh, tree) -> Any:
    """The sharding of every array of a state, by its shape alone: weights, moments and average are sharded alike."""
    pieces = mesh.shape["model"]

    def sharding(leaf) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % pieces == 0]
        if pieces == 1 or leaf.size < SMALL or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "model"))

    return jax.tree.map(sharding, tree)


def place(tree, sharding) -> Any:
    """A copy of `tree`, equal in every process, as arrays of `sharding`: one for all leaves, or a tree of them."""

    def put(leaf, sharding):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        leaf = np.array(native(leaf))
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, sharding), tree)
    return jax.tree.map(put, tree, sharding)


def sharded(tree: Any, mesh: Mesh) -> Any:
    """`tree` with its arrays sharded as those of a training state of the same shapes; Python numbers are kept."""

    def put(leaf):
        array = isinstance(leaf, np.ndarray | jax.Array)
        return _put(native(leaf), state_sharding(mesh, leaf)) if array else leaf

    return jax.tree.map(put, tree)


def place_batch(mesh: Mesh, rows: dict) -> dict:
    """A batch sharded over the devices, made of the rows that each process has read.

    Raises ValueError if the number of devices does not divide the batch size.
    """
    for name, array in rows.items():
        if len(array) % (mesh.size // jax.process_count()):
            raise ValueError(
                f"{name} has {len(array) * jax.process_count()} examples a batch for {mesh.size} devices; give a batch "
                f"size that is a multiple of {mesh.size}"
            )
    put = lambda array: jax.make_array_from_process_local_data(batch_sharding(mesh), native(array))
    return jax.tree.map(put, rows)
