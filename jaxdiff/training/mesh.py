"""Where a run lies: one mesh of devices with two axes, whose shape alone says how the training is shared out.

    (8, 1)    data parallel: every device has all weights and an eighth of the batch
    (1, 8)    FSDP (Zhao et al. 2023; ZeRO, Rajbhandari et al. 2020): every device keeps an eighth of weights, moments
              and average, and an eighth of the batch
    (2, 4)    both: two copies, each in four pieces

The batch is split over both axes always. An array of the state is split over "model" along its longest axis which that
divides, and whole on every device where there is none or the array is small. The step gathers the weights before it
uses them and leaves of the gradient what belongs to each device; on "data" one sum of gradients is all that moves.
Noise is drawn as for one device (threefry is partitionable), so the numbers are those of one device but for the order
of sums.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiff.arrays import check_instance, check_whole, native, said

SMALL = 1024  # values: below, the message costs more than the memory


def make_mesh(model: int = 1, devices: list | None = None) -> Mesh:
    """A mesh (data, model) of all devices, or of `devices`; `model` of them share one copy of the weights.

    Raises ValueError where `model` does not divide their number.
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


def check_mesh(mesh: Mesh | None) -> Mesh:
    """`mesh`, by default that of all devices, with axes that XLA sees to; an error for one without these two axes.

    `jax.make_mesh` gives axes that the program would have to see to (`AxisType.Explicit`).
    """
    if mesh is None:
        return make_mesh()
    check_instance("mesh", mesh, Mesh, "a mesh, such as jaxdiff.training.make_mesh()")
    if set(mesh.axis_names) != {"data", "model"}:
        raise ValueError(
            f'mesh has the axes {mesh.axis_names}; expected "data" and "model": make it by jaxdiff.training.make_mesh'
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * 2)


def on_mesh(mesh: Mesh) -> Callable[[Callable], Callable]:
    """Makes a function that is traced with `mesh` for the current one, whatever `jax.set_mesh` says outside of it."""

    def wrap(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*arguments):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(*arguments)

        return wrapped

    return wrap


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    check_instance("mesh", mesh, Mesh, "a mesh, such as jaxdiff.training.make_mesh()")
    return NamedSharding(mesh, P(mesh.axis_names))


def state_sharding(mesh: Mesh, tree) -> Any:
    """The sharding of every array of a state, by its shape alone: weights, moments and average lie together."""
    pieces = mesh.shape["model"]

    def sharding(leaf) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % pieces == 0]
        if pieces == 1 or leaf.size < SMALL or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*[None] * longest, "model"))

    return jax.tree.map(sharding, tree)


def place(tree, sharding) -> Any:
    """A copy of `tree`, the same in every process, as arrays of `sharding`: one for all leaves, or one for each."""

    def put(leaf, sharding):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        leaf = np.array(native(leaf))
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, sharding), tree)
    return jax.tree.map(put, tree, sharding)


def place_batch(mesh: Mesh, rows: dict) -> dict:
    """A batch over the devices, of the rows that this process has read.

    Raises ValueError for a batch that the devices do not divide.
    """
    for name, array in rows.items():
        if len(array) % (mesh.size // jax.process_count()):
            raise ValueError(
                f"{name} has {len(array) * jax.process_count()} examples a batch for {mesh.size} devices; give a batch "
                f"size that is a multiple of {mesh.size}"
            )
    put = lambda array: jax.make_array_from_process_local_data(batch_sharding(mesh), native(array))
    return jax.tree.map(put, rows)
