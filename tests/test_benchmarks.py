import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

PATH = Path(__file__).parents[1] / "benchmarks" / "speed.py"


@pytest.fixture(scope="module")
def speed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PATH.parent)
        yield importlib.import_module("speed")
    del sys.modules["speed"], sys.modules["against"]


@pytest.fixture(scope="module")
def reading():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PATH.parent)
        patch.setattr(importlib.import_module("reading"), "SECONDS", 0.02)
        yield sys.modules["reading"]
    del sys.modules["reading"]


def test_a_set_is_made_once_and_what_reading_it_costs_is_all_measured(reading, tmp_path):
    assert reading.make(tmp_path / "set", 16, 300) > 0
    assert reading.make(tmp_path / "set", 16, 300) == 0
    pictures = jd.data.ImageFolder(tmp_path / "set", 16).load(progress=False).image
    assert len(np.unique(pictures, axis=0)) == reading.DISTINCT
    found = reading.measure(tmp_path / "set", 16, batch=4)
    assert found.keys() == {"list", "spread", "batch", "a second", "one thread"}
    assert all(value > 0 for value in found.values())


def test_a_process_that_fails_is_named_and_what_it_took_is_its_own(reading):
    with pytest.raises(RuntimeError, match="raise SystemExit.* ended with 3"):
        reading.run(["-c", "raise SystemExit(3)"])
    words = "import time; held = bytearray(2**26); time.sleep(0.1); print('done')"
    out, costs = reading.run(["-c", words], lambda: True)
    assert out == "done\n"
    assert costs["memory"] > 64  # and at least what this process has had
    assert 0 < costs["first step"] < costs["end"]
    assert costs["end"] >= 0.1


def test_an_overhead_is_the_ratio_of_the_time_for_the_same_work(speed, monkeypatch):
    now = 0.0
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)

    def side(seconds, work):
        seconds = iter(seconds)

        def run():
            nonlocal now
            now += next(seconds)
            return work

        return run

    # The first call compiles for 5 s and 3 s; the third turn is one of a machine three times slower.
    row = speed.compare(side([7, 2, 2, 6], 4), side([4, 1, 1, 3], 1), repetitions=3)
    assert (row.rate, row.bare_rate) == (2.0, 1.0)
    assert (row.overhead, row.overhead_quartiles) == (-50.0, (-50.0, -50.0))
    assert (row.compile_seconds, row.bare_compile_seconds) == (5.0, 3.0)


def test_the_bare_loop_draws_the_same_samples(speed):
    network = lambda params, x, c_noise, cond: jnp.tanh(x * params) * jnp.cos(jnp.asarray(c_noise)).reshape(-1, 1, 1, 1)
    denoiser = jd.Denoiser(network, jnp.array(0.7), jd.Flow(), "velocity")
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    ours = jd.sample(jax.random.key(1), denoiser, x.shape, jd.samplers.DDIM(), 7, x_start=x)
    np.testing.assert_allclose(speed.bare_ddim(denoiser, 7)(denoiser.params, x), ours, rtol=1e-4, atol=1e-5)


def test_two_checkouts_take_turns_and_a_slow_moment_of_the_machine_counts_for_both(speed):
    order, seconds = [], iter([2.0, 1.0, 6.0, 3.0, 2.0, 1.0])

    def side(name):
        def run():
            order.append(name)
            return next(seconds)

        return run

    turns = speed.against.in_turns([side("here"), side("there")], 3)
    assert order == ["there", "here", "here", "there", "there", "here"]
    np.testing.assert_array_equal(turns, [[1, 2], [6, 3], [1, 2]])
    assert speed.against.overhead(*turns.T) == (-50.0, (-50.0, 25.0))  # of -50, 100 and -50 %


@pytest.mark.slow
def test_a_checkout_whose_ddim_step_evaluates_twice_costs_twice_there_and_the_same_elsewhere(speed, tmp_path):
    shutil.copytree(speed.against.HERE / "jaxdiff", tmp_path / "jaxdiff")
    with (tmp_path / "jaxdiff" / "__init__.py").open("a") as file:
        print("_step = samplers.DDIM.step", file=file)
        print("samplers.DDIM.step = lambda self, keys, denoiser, x, *rest: _step(", file=file)
        print("    self, keys, denoiser, _step(self, keys, denoiser, x, *rest)[0], *rest)", file=file)
    figures = speed.against.measure(tmp_path, {name: speed.QUICK[name] for name in speed.SIZES}, "MLP, D", 2)
    rows = figures["programs"]
    assert rows.keys() == {"MLP, DPM-Solver++ step", "MLP, DDIM step"}
    for cost in ("flops", "bytes", "temp"):
        here, there = rows["MLP, DPM-Solver++ step"][cost]
        assert here == there > 0, cost
    here, there = rows["MLP, DDIM step"]["flops"]
    assert 1.9 < there / here < 2.1
    assert "More FLOPs here: none." in speed.against.table(figures)


def test_a_folder_that_is_no_checkout_is_named(speed, tmp_path):
    with pytest.raises(ValueError, match="no jaxdiff/__init__.py; expected a checkout"):
        speed.against.Checkout(tmp_path)


def test_a_checkout_whose_process_ends_is_named(speed, tmp_path):
    (tmp_path / "jaxdiff").mkdir()
    (tmp_path / "jaxdiff" / "__init__.py").write_text("raise SystemExit")
    with speed.against.Checkout(tmp_path) as side, pytest.raises(RuntimeError, match=f"of {tmp_path} ended"):
        side.start({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": "MLP"}, "settings of --against"),
        ({"quick": True}, "settings of --against"),
        ({"against": Path("."), "quick": True, "size": 16}, "leave it out, or --size"),
    ],
)
def test_a_setting_that_would_not_be_used_is_refused(speed, settings, message):
    with pytest.raises(ValueError, match=message):
        speed.Settings(**settings)


@pytest.mark.slow
def test_every_program_of_a_checkout_costs_what_it_costs_in_the_same_checkout(speed):
    run = subprocess.run(
        [sys.executable, PATH, "--against", speed.against.HERE, "--quick", "--json"],
        capture_output=True,
        check=True,
        text=True,
    )
    rows = json.loads(run.stdout)["programs"]
    assert len(rows) == 14
    for name, row in rows.items():
        assert min(row["seconds"]) > 0, name
        for cost in ("flops", "bytes", "temp"):
            assert row[cost][0] == row[cost][1] > 0, (name, cost)


@pytest.mark.slow
def test_the_command_prints_one_line_of_json():
    sizes = ["--size", "4", "--channels", "4", "--attention", "--batch", "2", "--steps", "3", "--repetitions", "2"]
    run = subprocess.run([sys.executable, PATH, *sizes, "--json"], capture_output=True, check=True, text=True)
    figures = json.loads(run.stdout)
    assert all(figures[name]["rate"] > 0 for name in ("training", "sampling", "likelihood"))
    assert figures["import_jaxdiff_seconds"] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("train", [[], ["--train"]])
def test_reading_is_measured_by_processes_of_their_own(train):
    words = [sys.executable, PATH.with_name("reading.py"), "--sets", "16:20", "16:40", "--batch", "4", "--json", *train]
    figures = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    assert figures.keys() == {"16:20", "16:40"}
    for row in figures.values():
        assert row["memory"] > 100
        assert 0 < row["first step"] < row["end"] if train else row["a second"] > 0


@pytest.mark.slow
def test_the_peers_likelihoods_are_ours():
    """score_sde's and flow_matching's codes on the same weights and probe tend to our number with the tolerance."""
    pytest.importorskip("torchdiffeq")
    sizes = ["--channels", "8", "16", "--batch", "2", "--training-steps", "50", "--repetitions", "1"]
    run = subprocess.run(
        [sys.executable, PATH.parent / "likelihood.py", *sizes, "--json"], capture_output=True, check=True, text=True
    )
    for name, rows in json.loads(run.stdout).items():
        assert rows["0.0001"]["error"] < 5e-3, name
