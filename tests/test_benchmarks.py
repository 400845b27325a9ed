import importlib.util
import json
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
    spec = importlib.util.spec_from_file_location("speed", PATH)
    sys.modules["speed"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["speed"]


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


@pytest.mark.slow
def test_the_command_prints_one_line_of_json():
    sizes = ["--size", "4", "--channels", "4", "--attention", "--batch", "2", "--steps", "3", "--repetitions", "2"]
    run = subprocess.run([sys.executable, PATH, *sizes, "--json"], capture_output=True, check=True, text=True)
    figures = json.loads(run.stdout)
    assert all(figures[name]["rate"] > 0 for name in ("training", "sampling", "likelihood"))
    assert figures["import_jaxdiff_seconds"] < 0.8


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
