import dataclasses
import itertools

import jax
import numpy as np
from conftest import PROCESSES

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
    process = [PROCESSES[name] for name in PROCESSES if name != "OU"]  # OU is a VP
    guided = [jd.guidance.ClassifierFree(model, 1.0), jd.guidance.ClassifierFreePP(model, 1.0)]
    grids = [jd.grids.Time(), jd.grids.Angle(), jd.grids.LogSNR()]
    weightings = [jd.losses.weightings.Simple(), jd.losses.weightings.Likelihood(), jd.losses.weightings.EDM()]
    times = [jd.losses.times.Uniform(), jd.losses.times.Stratified(), jd.losses.times.Importance()]
    for alike in (process, guided, grids, weightings, times):
        for one, other in itertools.combinations(alike, 2):
            assert jax.tree.structure(one) != jax.tree.structure(other), (one, other)
