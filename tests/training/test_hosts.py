"""Two and four real processes on this machine: the same numbers, and failures that all of them tell."""

import json
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import run
from test_checkpoints import HERE, fresh, logged, steps_in, wait_for_step
from test_mesh import devices

from jaxdiff.training import Checkpoints, connect, hosts


def together(folders, devices_each=1, **settings):
    """Start one process for each folder, all connected; settings that are lists hold one for each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    started = []
    for index, folder in enumerate(folders):
        own = {k: v[index] if isinstance(v, list) else v for k, v in settings.items()}
        own = {k: v for k, v in own.items() if v is not None}
        own |= {"coordinator": coordinator, "processes": len(folders), "process": index}
        command = [sys.executable, HERE / "run.py", folder, json.dumps(own)]
        started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=devices(devices_each),
                cwd=HERE.parents[1],
            )
        )
    return started


def ends(processes, timeout=60):
    """The exit codes and error outputs of all, which must end in time."""
    deadline = time.time() + timeout
    try:
        found = [process.communicate(timeout=max(deadline - time.time(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], [err for _, err in found]


def newest(folder):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.restore(fresh())


def distance(a, b):
    return max(float(np.abs(a.params[name] - b.params[name]).max()) for name in a.params)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run.main(folder, steps=40)
    return newest(folder)


@pytest.mark.slow
def test_two_processes_train_as_one_and_hand_over_to_four_and_to_one(tmp_path, alone):
    codes, errors = ends(together([tmp_path] * 2, 2, steps=20, model=2))
    assert codes == [0, 0], errors
    codes, errors = ends(together([tmp_path] * 4, 1, steps=30, model=[2] * 4))
    assert codes == [0] * 4, errors
    run.main(tmp_path, steps=40)
    assert distance(newest(tmp_path), alone) < 2e-6
    assert distance(alone, fresh()) > 0.02
    assert [line["step"] for line in logged(tmp_path)] == list(range(5, 41, 5))


def test_sigterm_to_one_of_two_stops_both_after_the_same_step(tmp_path, alone):
    processes = together([tmp_path] * 2, steps=40, delay=0.1)
    wait_for_step(tmp_path, 10, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = ends(processes)
    assert codes == [75, 75], errors
    at = steps_in(tmp_path)[-1]
    assert 10 <= at < 40
    assert all(f"saved at step {at}" in err for err in errors)
    run.main(tmp_path, steps=40)
    assert distance(newest(tmp_path), alone) < 2e-6


slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"seed": [0, 1], "identity": [{"config": "a"}, {"config": "b"}]},
            "started with different settings: config, key; start all with the same command",
        ),
        slow({"comes_not": [None, True]}, "process 1 ended: the data of this host are missing"),
        slow({"throws_at": [None, 7]}, "process 1 ended: the disk of this host is gone"),
    ],
)
def test_a_host_that_is_different_or_throws_is_told_by_all(tmp_path, settings, message):
    codes, errors = ends(together([tmp_path] * 2, **settings), timeout=45)
    assert codes == [1, 1], errors
    assert message in errors[0]
    assert message.split(": ")[-1] in errors[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "code", "cause"),
    [
        ({"exits_at": [None, 7]}, 3, "process 1 ended: left by sys.exit(3) before the others"),
        ({"interrupted_at": [7, None]}, 130, "process 0 ended: interrupted (Ctrl-C)"),
    ],
)
def test_whatever_ends_one_host_ends_all_and_each_log_says_so(tmp_path, settings, code, cause):
    codes, errors = ends(together([tmp_path] * 2, **settings), timeout=45)
    assert codes == [code, code], errors
    assert all(cause in err for err in errors), errors


@pytest.mark.slow
def test_ctrl_c_to_one_of_two_saves_and_stops_both_after_the_same_step(tmp_path):
    processes = together([tmp_path] * 2, steps=10**6, log_every=5, checkpoint_every=10, pressed=[None, [20, 0.0]])
    codes, errors = ends(processes)
    assert codes == [75, -signal.SIGINT], errors
    at = steps_in(tmp_path)[-1]
    assert at >= 20
    assert all(f"saved at step {at}" in err for err in errors), errors


@pytest.mark.slow
def test_folders_that_are_not_shared_are_told_by_all(tmp_path):
    codes, errors = ends(together([tmp_path / "a", tmp_path / "b"]), timeout=45)
    assert codes == [1, 1], errors
    assert all("process 1 does not see what process 0 writes" in err for err in errors)


LEFT = "left by sys.exit, or by the end of its program, before the others"
GONE = "ended without a word: killed, or its machine is gone"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"leaves": [None, "3"]}, f"process 1 ended: {LEFT}"),
        ({"dies_at": [7, None]}, f"process 0 ended: {GONE}"),
        ({"leaves": ["3", None]}, f"process 0 ended: {LEFT}"),
        ({"leaves": [None, "0"]}, f"process 1 ended: {LEFT}"),
        ({"leaves": [None, "error"]}, "process 1 ended: the data of this host are missing"),
        ({"leaves": ["error", None]}, "process 0 ended: the data of this host are missing"),
        ({"leaves": [None, "Ctrl-C"]}, "process 1 ended: interrupted (Ctrl-C)"),
        ({"leaves": [None, "kill"]}, f"process 1 ended: {GONE}"),
        ({"leaves": ["kill", None]}, f"process 0 ended: {GONE}"),
        ({"leaves": [None, "abort"]}, f"process 1 ended: {GONE}"),
        ({"goes_by": [None, True]}, f"process 1 ended: {LEFT}"),
        ({"goes_by": [True, None]}, f"process 0 ended: {LEFT}"),
        ({"dies_at": [None, 7]}, f"process 1 ended: {GONE}"),
        ({"dies_at": [None, None, 7]}, f"process 2 ended: {GONE}"),
        ({"leaves": [None, "3", None]}, f"process 1 ended: {LEFT}"),
    ],
    ids=str,
)
def test_one_that_leaves_at_any_moment_is_told_by_all_that_are_left(tmp_path, settings, cause):
    (who,) = settings.values()
    (at,) = (index for index, how in enumerate(who) if how is not None)
    codes, errors = ends(together([tmp_path] * len(who), **settings), timeout=45)
    left = [index for index in range(len(who)) if index != at]
    assert all(codes[index] != 0 for index in left), codes
    assert all(cause in errors[index] for index in left), errors


@pytest.mark.slow
def test_a_host_that_does_not_come_is_told_after_a_minute(tmp_path):
    first, second = together([tmp_path] * 2)
    second.kill()
    second.communicate()
    codes, errors = ends([first], timeout=90)
    assert codes[0] != 0
    assert "the processes have not found each other within 60 s; start all of them" in errors[0]


@pytest.mark.parametrize(("tasks", "seen"), [("4", "all"), ("32", "0")])
def test_the_only_slurm_task_of_a_node_sees_all_of_its_gpus(tasks, seen, monkeypatch):
    """JAX shows a task only the GPU of its number on the node; four nodes here, with one or eight tasks each."""
    own, set_ = "jax_cuda_visible_devices", {}
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "4")
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    monkeypatch.setattr(jax.config, "update", set_.__setitem__)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *address, **settings: jax.config.update(own, "0"))
    monkeypatch.setattr(hosts, "_listen", lambda: None)
    connect(None, None, None)
    assert set_[own] == seen
