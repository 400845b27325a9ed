import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tables import COUPLINGS, GRIDS, GUIDANCE, KINDS, LOSSES, PROCESSES, TIMES, TRACES, WEIGHTINGS, kinds

import jaxdiff as jd
from jaxdiff.processes import pytree


@pytree
@dataclasses.dataclass(frozen=True)
class Pair:
    first: float
    second: dict
    name: str = dataclasses.field(default="a", metadata={"static": True})


@pytree
@dataclasses.dataclass(frozen=True)
class Other:
    first: float
    second: dict
    name: str = dataclasses.field(default="a", metadata={"static": True})


def test_numbers_are_leaves_and_static_fields_structure():
    pair = Pair(1.0, {"x": 2.0, "y": 3.0})
    paths, structure = jax.tree_util.tree_flatten_with_path(pair)
    assert [(jax.tree_util.keystr(path), leaf) for path, leaf in paths] == [
        (".first", 1.0),
        (".second['x']", 2.0),
        (".second['y']", 3.0),
    ]
    assert structure.unflatten([4.0, 5.0, 6.0]) == Pair(4.0, {"x": 5.0, "y": 6.0})
    assert jax.tree.structure(dataclasses.replace(pair, first=0.0)) == structure
    assert jax.tree.structure(dataclasses.replace(pair, name="b")) != structure
    assert jax.jit(lambda p: dataclasses.replace(p, first=p.first + 1))(pair).first == 2.0


def test_structures_know_their_class():
    """Equal structures share a compiled program."""
    assert jax.tree.structure(Pair(1.0, {})) != jax.tree.structure(Other(1.0, {}))
    model = jd.exact.Gaussian(jd.VP(), np.zeros(1), np.eye(1))
    made = {name: guide(denoiser=model) for name, guide in kinds(GUIDANCE).items()}
    losses = {name: row.loss for name, row in kinds(LOSSES).items()}
    processes = {name: process for name, process in PROCESSES.items() if name != "OU"}  # OU is a VP
    samplers = {name: sampler for name, sampler in KINDS.items() if name != "AnnealedLangevin"}  # a PredictorCorrector
    for alike in (processes, samplers, TRACES, made, GRIDS, losses, WEIGHTINGS, TIMES, kinds(COUPLINGS)):
        for one, other in itertools.combinations(alike.values(), 2):
            assert jax.tree.structure(one) != jax.tree.structure(other), (one, other)


def test_other_libraries_rebuild_them_around_what_is_no_number():
    """Equinox with None where a leaf is no array, optax with masks, `vmap` with axes, `tree.map` with floats."""
    process = jax.tree.map(jnp.asarray, jd.VP())
    log_snr = lambda process: process.log_snr(0.3)
    ours = jax.grad(log_snr)(process)
    assert eqx.filter_grad(log_snr)(process) == ours
    arrays, rest = eqx.partition(process, eqx.is_array)
    assert jax.tree.leaves(rest) == []
    assert eqx.combine(arrays, rest) == process

    mask = jax.tree.structure(process).unflatten([False, True])
    optimizer = optax.chain(optax.masked(optax.set_to_zero(), mask), optax.sgd(1.0))
    updates, _ = optimizer.update(ours, optimizer.init(process))
    assert (updates.beta_min, updates.beta_max) == (-ours.beta_min, 0.0)

    rates = jnp.asarray([10.0, 20.0, 30.0])
    axes = jax.tree.structure(process).unflatten([None, 0])
    mapped = jax.vmap(log_snr, in_axes=(axes,))(dataclasses.replace(process, beta_max=rates))
    np.testing.assert_allclose(mapped, [jd.VP(0.1, float(rate)).log_snr(0.3) for rate in rates], rtol=1e-5)
    assert {type(leaf) for leaf in jax.tree.leaves(jax.tree.map(float, ours))} == {float}
