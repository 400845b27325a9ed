"""SIGTERM in training and in the first compilation: saved within a step, an exit code of its own, and on it goes."""

import signal
import time

import numpy as np
import pytest
import run
from test_checkpoints import digest, finish, fresh, logged, reference, start, steps_in, wait_for_step

from jaxdiff.training import Checkpoints, Preempted, train


def test_sigterm_saves_within_a_step_and_the_run_goes_on_bit_for_bit(tmp_path):
    process = start(tmp_path, steps=40, delay=0.15)
    wait_for_step(tmp_path, 10, process)
    time.sleep(0.4)  # into the interval from 10 to 15
    process.send_signal(signal.SIGTERM)
    told = time.time()
    code, _, err = finish(process)
    assert code == 75
    assert "stopped by SIGTERM; saved at step" in err
    assert time.time() - told < 3
    at = steps_in(tmp_path)[-1]
    assert 10 < at < 16
    assert logged(tmp_path)[-1]["step"] == at // 5 * 5

    code, _, err = finish(start(tmp_path, steps=40))
    assert code == 0, err
    digests, losses = reference(40)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert digest(checkpoints.restore(fresh())) == digests[40]
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    assert [line["loss"] for line in lines] == [float(np.mean(losses[k - 5 : k])) for k in range(5, 41, 5)]


def test_sigterm_while_compiling_ends_at_once(tmp_path):
    process = start(tmp_path, slow=True)
    assert process.stdout.readline() == "compiling\n"
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    told = time.time()
    code, out, err = finish(process)
    assert time.time() - told < 2
    assert code == 75
    assert "stopped by SIGTERM; nothing is lost" in err
    assert "finished" not in out
    assert steps_in(tmp_path) == []


def test_the_last_step_counts_too(tmp_path):
    """A signal during the last step is not lost: the run is saved, and ends as preempted."""

    class Last(run.Points):
        def __getitem__(self, step):
            if step == 9:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(0.5)
            return super().__getitem__(step)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted) as stopped:
        train(run.KEY, tmp_path, run.denoiser(), run.LOSS, Last(), steps=10, optimizer=run.OPTIMIZER, progress=False)
    assert (stopped.value.step, stopped.value.code) == (10, 75)
    assert signal.getsignal(signal.SIGTERM) is before
    assert steps_in(tmp_path) == [10]
