"""SIGTERM and Ctrl-C in training: saved within a step, an exit code of its own, and on it goes; and a second Ctrl-C."""

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

    run.main(tmp_path, steps=40)
    digests, losses = reference(40)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert digest(checkpoints.restore(fresh())) == digests[40]
    lines = logged(tmp_path)
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    assert [line["loss"] for line in lines] == [float(np.mean(losses[k - 5 : k])) for k in range(5, 41, 5)]


@pytest.mark.slow
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


def pressed(folder, *seconds, delay=0.001):
    """Press Ctrl-C so many seconds after the checkpoint of step 20 is begun: code, errors, seconds since the last."""
    process = start(folder, steps=10**6, delay=delay, pressed=[20, *seconds])
    code, out, err = finish(process, timeout=60)
    return code, err, time.time() - float(out.split()[-1])


def saves_and_ends(folder, seconds):
    code, err, took = pressed(folder, seconds)
    assert code == -signal.SIGINT, err
    assert took < 10
    at = steps_in(folder)[-1]
    assert at >= 20
    assert f"KeyboardInterrupt: interrupted; saved at step {at}; the same command goes on from there" in err


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [0, 4, 12])
def test_ctrl_c_within_a_checkpoint_saves_and_ends(tmp_path, milliseconds):
    saves_and_ends(tmp_path, milliseconds / 1000)


@pytest.mark.slow
def test_ctrl_c_at_any_moment_around_a_checkpoint_saves_and_ends(tmp_path):
    for number, seconds in enumerate(np.linspace(0.0, 0.06, 61)):
        saves_and_ends(tmp_path / str(number), seconds)


@pytest.mark.slow
def test_a_run_stopped_by_ctrl_c_goes_on_bit_for_bit_and_a_second_ctrl_c_ends_at_once(tmp_path):
    code, err, took = pressed(tmp_path, 0.0, 0.03, delay=0.1)  # two signals at once would be one
    assert (code, took < 2) == (130, True), err
    assert "interrupted twice; ended at once" in err
    code, _, err = finish(start(tmp_path, steps=40))
    assert code == 0, err
    digests, _ = reference(40)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert digest(checkpoints.restore(fresh())) == digests[40]


def test_ctrl_c_gives_control_back_once_the_run_is_saved(tmp_path):
    """As in a notebook: KeyboardInterrupt is raised between two steps, and the handler is what it was."""

    class Pressed(run.Points):
        def __getitem__(self, step):
            if step == 7:
                signal.raise_signal(signal.SIGINT)
            return super().__getitem__(step)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="interrupted; saved at step 8") as stopped:
            train(run.KEY, tmp_path, run.denoiser(), run.LOSS, Pressed(), steps=10, optimizer=run.OPTIMIZER)
        assert stopped.value.step == 8
        assert steps_in(tmp_path) == [8]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_save_of_ones_own_is_put_off_until_it_is_under_way(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Checkpoints(tmp_path) as checkpoints:
            real = checkpoints._checkpointer.save

            def save(*args, **settings):
                signal.raise_signal(signal.SIGINT)
                real(*args, **settings)

            monkeypatch.setattr(checkpoints._checkpointer, "save", save)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(fresh())
        assert [path.name for path in tmp_path.iterdir()] == ["0"]
    finally:
        signal.signal(signal.SIGINT, before)
