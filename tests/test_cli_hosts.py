"""The command line on several processes, on a cluster's word, and under SIGTERM and bad input."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from test_cli import jaxdiff
from test_mesh_evaluation import untrained_run

TOY = ["--data", "two_moons", "--network", "mlp(hidden=(16,))"]
TOY += ["--steps", "20", "--batch-size", "32", "--log-every", "10"]


@pytest.fixture
def run_here(monkeypatch, capsys):
    """A command in this process: its exit code, output and error text."""
    return lambda *arguments: jaxdiff(monkeypatch, capsys, *arguments)


def start(*arguments, **env):
    command = [sys.executable, "-m", "jaxdiff.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env | {"JAX_PLATFORMS": "cpu"},
    )


def finish(*processes, timeout=120):
    found = [process.communicate(timeout=timeout) for process in processes]
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, found)]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def two(*arguments, own=((), ())):
    """The same command as two processes, and what each of them has of its `own`."""
    coordinator = f"localhost:{free_port()}"
    hosts = lambda i: ["--coordinator", coordinator, "--processes", 2, "--process-id", i, *own[i]]
    return finish(*(start(*arguments, "--json", *hosts(i)) for i in range(2)))


@pytest.mark.slow
def test_two_processes_train_and_sample_as_one(tmp_path, run_here):
    """They train by SLURM's own variables, as srun sets them on two tasks of one node, and sample by ours."""
    slurm = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    train = ["train", tmp_path / "two", *TOY, "--cluster", "--json"]
    tasks = [start(*train, **slurm, SLURM_PROCID=str(i), SLURM_LOCALID="0") for i in range(2)]
    for index, (code, _, err) in enumerate(finish(*tasks)):
        assert code == 0, (index, err)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["steps"] == 20
    alone = lambda *arguments: [run_here(*arguments, "--json")]
    ((code, _, err),) = alone("train", tmp_path / "one", *TOY, "--pictures", "0")
    assert code == 0, err
    for name in ("two", "one"):
        metrics = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in metrics] == [10, 20]
    drawn = []
    for name, run in (("two", two), ("one", alone)):
        for code, _, err in run("sample", tmp_path / name, "--n", "21", "--steps", "4"):
            assert code == 0, err
        drawn.append(np.load(tmp_path / name / "samples.npy", allow_pickle=False))
    assert drawn[0].shape == (21, 2)
    np.testing.assert_allclose(*drawn, rtol=1e-4, atol=1e-4)
    assert not (tmp_path / "two" / "samples.partial").exists()
    for code, _, err in two("sample", tmp_path / "two", own=(["--seed", "1"], ["--seed", "2"])):
        assert code == 1
        assert "started with different settings: arguments; start all with the same command" in err


def likelihood_stopped_by_sigterm(tmp_path, run_here, started, told, tolerance):
    """Start it by `started(arguments)`, stop the process `told`, and go on by `run_here(*arguments)`."""
    run = tmp_path / "run"
    untrained_run(run, data="digits", network="unet((4,), 1)")
    score = ["likelihood", run, "--limit", "447", "--budget", "0", "--json"]
    score += ["--flow", f"probability_flow(rtol={tolerance}, atol={tolerance})"]
    processes = started(score)
    deadline = time.time() + 90
    while not (records := list(run.glob("likelihood_*.npz"))):
        assert processes[0].poll() is None, processes[0].communicate()
        assert time.time() < deadline
        time.sleep(0.01)
    processes[told].send_signal(signal.SIGTERM)
    for code, out, err in finish(*processes):
        assert code == 75, err
        assert "bits_per_dim" not in out
        assert "stopped by SIGTERM; what is done is kept; the same command goes on" in err
    rows = lambda: np.load(records[0], allow_pickle=False)
    values = dict(zip(rows()["example"].tolist(), rows()["bits_per_dim"].tolist()))
    assert 0 < len(values) < 447
    code, _, err = run_here(*score)
    assert code == 0, err
    assert sorted(rows()["example"].tolist()) == list(range(447))
    after = dict(zip(rows()["example"].tolist(), rows()["bits_per_dim"].tolist()))
    assert {i: after[i] for i in values} == values


@pytest.mark.slow
def test_sigterm_in_a_likelihood_keeps_what_is_done_and_it_goes_on(tmp_path, run_here):
    likelihood_stopped_by_sigterm(tmp_path, run_here, lambda score: [start(*score)], told=0, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_sigterm_to_one_of_two_in_a_likelihood_stops_both(tmp_path, run_here, told):
    coordinator = f"localhost:{free_port()}"
    hosts = lambda i: ["--coordinator", coordinator, "--processes", 2, "--process-id", i]
    both = lambda score: [start(*score, *hosts(i)) for i in range(2)]
    # at 1e-6 the end is more than two seconds away
    likelihood_stopped_by_sigterm(tmp_path, run_here, both, told, tolerance=1e-6)


def folder(path, **settings):
    """The words for a folder of pictures of 8 x 8."""
    more = "".join(f", {name}={value!r}" for name, value in settings.items())
    return f"folder({str(path)!r}, size=8{more})"


def test_a_folder_of_pictures_trains_and_a_corrupt_one_is_named(tmp_path, run_here):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "pictures" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    small = ["--steps", 4, "--batch-size", 8, "--network", "mlp((4,))", "--pictures", 0, "--json"]
    command = lambda **more: ["train", tmp_path / "run", "--data", folder(tmp_path / "pictures", **more), *small]
    code, out, err = run_here(*command())
    assert (code, out) == (1, "")
    assert "torn.png" in err
    assert len(err.strip().splitlines()) == 1
    code, _, err = run_here(*command(on_corrupt="skip"))
    assert code == 0, err
    assert "left out torn.png" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "localhost:1"], "several processes need --coordinator, --processes and --process-id"),
        (["--model-devices", "3"], "model = 3 does not divide 1 devices"),
        (["--accumulate", "5"], "batch_size = 32 on 1 devices, accumulate = 5; expected a multiple of 5"),
        (["--data", "folder('/nowhere')"], "/nowhere"),
        (["--data", "None"], "data = None; expected what to learn from"),
        (["--seed", "-1"], "seed = -1; expected"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line_before_any_work(tmp_path, arguments, message, run_here):
    code, out, err = run_here("train", tmp_path / "run", *TOY, *arguments, "--json")
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_flag_that_does_not_exist_is_told_with_the_nearest(tmp_path, run_here):
    code, _, err = run_here("train", tmp_path / "run", "--stepz", "3")
    assert code == 2
    assert "--stepz" in err
    assert "--steps" in err
    assert "Traceback" not in err
