"""A step on eight simulated devices: what it moves, read off the compiled program, and that its numbers stay."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdiff.training import make_mesh

HERE = Path(__file__).parent


def devices(n):
    """An environment with n simulated devices that compiles fast."""
    older = int(importlib.metadata.version("jax").split(".")[1]) < 11
    flags = f"--xla_force_host_platform_device_count={n} --xla_backend_optimization_level=0"
    return os.environ | {"XLA_FLAGS": flags + " --xla_cpu_use_fusion_emitters=false" * older, "JAX_ENABLE_X64": "0"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    command = [sys.executable, HERE / "eight_devices.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=devices(8), cwd=HERE.parents[1])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_data_parallel_moves_one_sum_of_gradients_and_nothing_else(found):
    program = found["collectives"]["data"]
    assert program["moved"] == {"all-reduce": [1, found["collectives"]["parameters"] + 1]}  # and the loss


@pytest.mark.parametrize("shape", ["model", "both"])
def test_fsdp_gathers_each_weight_once_and_sums_each_gradient_once(found, shape):
    program, parameters = found["collectives"][shape], found["collectives"]["parameters"]
    moved = program["moved"]
    assert moved.pop("all-gather") == [program["arrays_split"], program["split"]]
    summed = sum(values for _, values in moved.values())
    assert moved.keys() <= {"all-reduce", "reduce-scatter"}
    assert 0 < summed - parameters <= 1 + 3 * program["arrays_split"]  # the loss, and three norms of split arrays


def test_fsdp_keeps_a_piece_of_the_state_on_each_device(found):
    whole, split = found["collectives"]["data"]["bytes"], found["collectives"]["split_bytes"]
    for shape, pieces in (("model", 8), ("both", 4)):
        assert found["collectives"][shape]["bytes"] == whole - split + split // pieces


def test_the_state_is_updated_where_it_lies(found):
    for shape in ("data", "model", "both"):
        program = found["collectives"][shape]
        assert program["bytes"] - program["aliased"] == found["collectives"]["batch_bytes"]


def test_numbers_are_those_of_one_device(found):
    """But for the order of sums; a restart on another mesh changes nothing more."""
    numbers = found["numbers"]
    assert numbers["moved"] > 0.02
    for shape in ("data", "model", "both"):
        assert numbers[shape] < 2e-6
        assert numbers[f"{shape} moves"] < 2e-6
        assert abs(found["collectives"][shape]["loss"] - found["collectives"]["one"]["loss"]) < 1e-6


def test_a_batch_that_the_devices_do_not_divide_is_refused(found):
    assert found["numbers"]["odd"] == (
        "x has 20 examples a batch for 8 devices; give a batch size that is a multiple of 8"
    )


def test_a_mesh_needs_a_divisor():
    with pytest.raises(ValueError, match="model = 3 does not divide 1 devices"):
        make_mesh(3, devices=[object()])
