"""How much of a run's time its pictures of samples take, and where that is said."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdiff import runs
from jaxdiff.runs.budget import Budget


def line(seconds, examples_per_second=64.0):
    return {"seconds": seconds, "examples_per_second": examples_per_second}


def drawn(budget, takes, minutes, monkeypatch):
    """Pictures over so many minutes of lines, one a second, each of which takes so many seconds."""
    clock = [0.0]
    monkeypatch.setattr("jaxdiff.runs.budget.time.perf_counter", lambda: clock[0])
    budget.began, count = 0.0, 0
    for second in range(1, 60 * minutes + 1):
        clock[0] += 1.0
        if budget.allows(line(second)):
            with budget.drawing():
                clock[0] += takes
            count += 1
            assert budget.spent <= budget.share * (second + budget.spent)
    return count


@pytest.mark.parametrize("takes", [0.5, 5.0, 20.0])
def test_pictures_never_take_more_than_their_share_once_one_is_known(takes, monkeypatch):
    """The first is expected to take 1 s, as all did before the first line, and 3,200 evaluations at 3 x 64 a second."""
    minutes = 100
    count = drawn(Budget(0.02, 3200, 0.0, 0.0), min(takes, 17.0), minutes, monkeypatch)
    assert 0 < count <= 0.02 / 0.98 * 60 * minutes / min(takes, 17.0)


def test_none_are_drawn_for_a_share_of_0_and_none_in_a_run_too_short_for_one(monkeypatch):
    assert drawn(Budget(0.0, 3200, 0.0, 0.0), 0.0, 100, monkeypatch) == 0
    assert drawn(Budget(0.02, 3200, 0.0, 0.0), 1.0, 10, monkeypatch) == 0
    assert drawn(Budget(0.02, 3200, 0.0, spent=1000.0), 1.0, 100, monkeypatch) == 0, "what went into them before counts"


def test_a_model_that_saw_labels_alone_is_pictured_by_its_classes_in_turn():
    np.testing.assert_array_equal(runs.Pictures((8, 8, 1), 0.5, 17, 3).in_turn(None, 5), [0, 1, 2, 0, 1])


@pytest.mark.slow
def test_what_pictures_take_is_in_every_line_and_in_the_summary(tmp_path):
    config = runs.Config(data="two_moons", network="mlp(hidden=(8,))", steps=6, batch_size=16)
    for folder, pictures in ((tmp_path / "all", 1.0), (tmp_path / "none", 0.0)):
        runs.train(config, folder, progress=False, log_every=2, pictures=pictures)
        summary = runs.read_summary(folder)
        lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        spent = [line["picture_seconds"] for line in lines]
        assert len(spent) == 3
        assert spent == sorted(spent)
        assert summary["picture_seconds"] >= spent[-1]
        assert (summary["picture_seconds"] > 0) is bool(pictures)
        assert (folder / "samples.png").exists() is bool(pictures)
        assert (folder / "training.png").exists()


def train_and_press(folder, *arguments):
    """The command line's training, Ctrl-C pressed once it has begun: exit code and errors."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from jaxdiff import cli; cli.main()"
    toy = [
        "--data",
        "two_moons",
        "--network",
        "mlp(hidden=(8,))",
        "--batch-size",
        "16",
        "--steps",
        "1000000",
        "--log-every",
        "5",
    ]
    command = [sys.executable, "-c", code, "train", str(folder), *toy, "--json", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 90
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_says_what_is_saved_and_exits_with_130(tmp_path):
    code, err = train_and_press(tmp_path)
    assert code == 130, err
    (step,) = (int(name) for name in os.listdir(tmp_path / "checkpoints"))
    assert f"jaxdiff: interrupted; saved at step {step}; the same command goes on from there" in err
    assert "Traceback" not in err


def test_ctrl_c_before_the_first_step_says_so_too(tmp_path, monkeypatch, capsys):
    from test_cli import jaxdiff

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxdiff.training.loop.train", stop)
    toy = ["--data", "two_moons", "--network", "mlp(hidden=(8,))", "--batch-size", "16"]
    code, _, err = jaxdiff(monkeypatch, capsys, "train", tmp_path, *toy)
    assert code == 130
    assert "jaxdiff: interrupted; nothing is lost; the same command goes on" in err


@pytest.mark.slow
def test_a_second_ctrl_c_ends_no_notebook(tmp_path):
    """IPython's shell runs the cell: both presses come within a step, and control is given back once it is saved."""
    pytest.importorskip("IPython")
    cell = f"""
import signal, sys
sys.path.insert(0, "tests/training")
import run
from jaxdiff.training import train
signal.signal(signal.SIGINT, signal.default_int_handler)
class Pressed(run.Points):
    def __getitem__(self, step):
        if step == 7:
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
            import time; time.sleep(0.3)
        return super().__getitem__(step)
try:
    train(run.KEY, {str(tmp_path)!r}, run.denoiser(), run.LOSS, Pressed(), steps=10, optimizer=run.OPTIMIZER)
except KeyboardInterrupt as stop:
    print("given back:", stop)
"""
    code = f"from IPython.core.interactiveshell import InteractiveShell as Shell; Shell.instance().run_cell({cell!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "given back: interrupted; saved at step 8; the same command goes on from there" in done.stdout, done
