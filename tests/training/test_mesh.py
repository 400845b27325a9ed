"""A step on eight simulated devices: what it moves, read off the compiled program, and that its numbers stay."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff.arrays.mesh import training_mesh
from jaxdiff.training import make_mesh

HERE = Path(__file__).parent


def devices(n):
    """An environment with n simulated devices that compiles fast."""
    older = int(importlib.metadata.version("jax").split(".")[1]) < 11
    flags = f"--xla_force_host_platform_device_count={n} --xla_backend_optimization_level=0"
    flags += " --xla_cpu_parallel_codegen_split_count=1"
    return os.environ | {"XLA_FLAGS": flags + " --xla_cpu_use_fusion_emitters=false" * older, "JAX_ENABLE_X64": "0"}


def found_on_eight_devices(folder, *proofs):
    """What eight_devices.py found in these proofs."""
    command = [sys.executable, HERE / "eight_devices.py", folder, *proofs]
    done = subprocess.run(command, capture_output=True, text=True, env=devices(8), cwd=HERE.parents[1])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_on_eight_devices(tmp_path):
    found = found_on_eight_devices(tmp_path, "of_a_layer", "moves")
    moves_what_it_has_to(found["of_a_layer"])
    numbers = found["moves"]
    assert numbers["one after another"] < 2e-6  # a restart on another mesh changes nothing but the order of sums
    assert numbers["moved"] > 0.02
    assert numbers["odd"] == "x has 20 examples a batch for 8 devices; give a batch size that is a multiple of 8"


@pytest.mark.slow
def test_networks_teachers_and_trees_on_eight_devices(tmp_path):
    """A U-Net, every mesh, a loss with a teacher, tokens and products: in one process, which compiles for a minute."""
    found = found_on_eight_devices(tmp_path, "of_a_unet", "numbers", "distilled", "trees")
    numbers = found["numbers"]
    for shape in ("data", "both"):
        assert numbers[shape] < 2e-6  # but for the order of sums
    assert numbers["given explicit axes"] < 2e-6  # under another current mesh
    moves_what_it_has_to(found["of_a_unet"])
    teacher = found["distilled"]
    assert teacher["pieces"]["as the state"]
    np.testing.assert_allclose(teacher["pieces"]["loss"], teacher["one"]["loss"], rtol=1e-5)
    for kind in ("tokens", "product"):
        tree = found["trees"][kind]
        moves_one_sum_of_gradients_and_nothing_else(tree, tree["parameters"])
        assert tree["apart"] < 2e-6 < 0.005 < tree["went"]


def moves_what_it_has_to(programs):
    moves_one_sum_of_gradients_and_nothing_else(programs["data"], programs["parameters"])
    assert programs["data"]["parts"] == 1  # one vector
    both = programs["both"]
    gathers_each_weight_once_and_sums_each_gradient_once(both, programs["parameters"])
    keeps_a_piece_of_the_state(both["bytes"], programs["data"]["bytes"], programs["split_bytes"], pieces=4)
    assert both["parts"] == both["arrays"]
    for shape in ("data", "both"):
        given = programs["batch_bytes"] + programs[shape]["numbers"]  # the batch, and the numbers of model and loss
        assert programs[shape]["bytes"] - programs[shape]["aliased"] == given  # the state is donated
        assert abs(programs[shape]["loss"] - programs["one"]["loss"]) < 1e-6


def moves_one_sum_of_gradients_and_nothing_else(program, parameters):
    assert program["moved"] == {"all-reduce": [1, parameters + 1]}  # and the loss


def gathers_each_weight_once_and_sums_each_gradient_once(program, parameters):
    moved = program["moved"]
    assert moved.pop("all-gather") == [program["arrays_split"], program["split"]]
    summed = sum(values for _, values in moved.values())
    assert moved.keys() <= {"all-reduce", "reduce-scatter"}
    assert 0 < summed - parameters <= 1 + 3 * program["arrays_split"]  # the loss, and three norms of split arrays


def keeps_a_piece_of_the_state(held, whole, split, pieces):
    assert held == whole - split + split // pieces


def test_a_mesh_of_other_axes_is_refused():
    with pytest.raises(ValueError, match=r"mesh has the axes \('data',\); expected .*: make it with .*make_mesh"):
        training_mesh(jax.make_mesh((1,), ("data",)))
    with pytest.raises(TypeError, match="mesh = 2; expected a mesh"):
        training_mesh(2)


def test_a_mesh_needs_a_divisor():
    with pytest.raises(ValueError, match="model = 3 does not divide 1 devices"):
        make_mesh(3, devices=[object()])
