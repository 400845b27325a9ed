"""Sampling and likelihood on eight devices, between two processes, and killed and called again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxdiff as jd
from jaxdiff import cli, runs

ROOT = Path(__file__).parent.parent
LEVELS, IMAGES = 16, np.random.default_rng(0).integers(0, 16, (160, 3))
LOOSE = jd.samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3)
SETTINGS = {"levels": LEVELS, "batch_size": 4, "budget": 0, "flow": LOOSE}
ENDED = -signal.SIGKILL


def with_devices(n):
    """The environment of a process of n simulated devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    return os.environ | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={n}"}


def on_eight_devices(*arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/eight_devices.py", *arguments]
    done = subprocess.run(command, env=with_devices(8), cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr


def test_on_eight_devices():
    on_eight_devices()


@pytest.mark.slow
def test_on_eight_devices_slow():
    on_eight_devices("-m", "slow")


def denoiser():
    return jd.exact.Gaussian(jd.VP(), np.zeros(3), np.diag([0.1, 0.2, 0.4]))


def estimate(record=None, images=IMAGES, mesh=None):
    """What is killed: 40 batches of likelihoods."""
    return jd.bits_per_dim(jax.random.key(0), denoiser(), images, **SETTINGS, record=record, mesh=mesh).per_example


def draw(n, keep=None, mesh=None):
    return jd.samplers.draw(jax.random.key(1), denoiser(), (n, 3), 4, steps=3, keep=keep, mesh=mesh)


CALL = [sys.executable, "-c", "import sys; sys.path.insert(0, 'tests'); import test_mesh_evaluation as t; "]
ESTIMATE = [*CALL[:2], CALL[2] + "t.estimate(sys.argv[1])"]


def as_one_of_two(rank, address, folder):
    """Go on with what is in `folder`, and leave there what this process got."""
    jax.distributed.initialize(address, 2, int(rank))
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
    folder = Path(folder)
    per_example, x = estimate(folder / "record.npz", IMAGES[:21], mesh), draw(13, folder / "kept", mesh)
    bound = jd.continuous_bound(jax.random.key(0), denoiser(), IMAGES[:5], 8, LEVELS, mesh=mesh).per_example
    np.savez(folder / f"{rank}.npz", per_example=per_example, x=x, bound=bound)


@pytest.mark.slow
def test_two_processes_of_two_devices_go_on_together(tmp_path):
    record = tmp_path / "record.npz"
    alone, x = estimate(record, IMAGES[:21]), draw(13)
    with np.load(record) as file:
        begun = {name: file[name] if name == "settings" else file[name][:8] for name in file.files}
    np.savez(record, **begun)
    draw(4, tmp_path / "kept")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = lambda rank: [*CALL[:2], CALL[2] + "t.as_one_of_two(*sys.argv[1:])", str(rank), address, str(tmp_path)]
    started = [subprocess.Popen(command(rank), cwd=ROOT, env=with_devices(2)) for rank in range(2)]
    assert [process.wait(timeout=280) for process in started] == [0, 0]

    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_allclose(first["per_example"], alone, rtol=1e-5)
    np.testing.assert_array_equal(first["per_example"][begun["example"]], begun["bits_per_dim"])
    np.testing.assert_array_equal(np.sort(np.load(record)["example"]), np.arange(21))
    np.testing.assert_allclose(first["x"], x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(first["x"][:4], x[:4])
    bound = jd.continuous_bound(jax.random.key(0), denoiser(), IMAGES[:5], 8, LEVELS).per_example
    np.testing.assert_allclose(first["bound"], bound, rtol=1e-5)


def kill_after(command, there, seconds):
    """Run until `there()`, and then so many seconds more; whether it had to be killed."""
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, cwd=ROOT, stdout=nowhere, stderr=nowhere)
    while not there() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    return process.wait() == ENDED


def killed_likelihoods(tmp_path, waits):
    record = tmp_path / "likelihood.npz"
    rows = lambda: np.load(record)["example"] if record.exists() else np.empty(0, int)
    written = lambda: record.stat().st_mtime_ns if record.exists() else 0
    before, kills = rows(), 0
    for seconds in waits:
        last = written()
        kills += kill_after([*ESTIMATE, str(record)], lambda: written() > last, seconds)
        np.testing.assert_array_equal(rows()[: len(before)], before, err_msg="what was there stays")
        before = rows()
    assert kills
    per_example = estimate(record)
    np.testing.assert_array_equal(np.sort(rows()), np.arange(len(IMAGES)), err_msg="none twice, none missing")
    np.testing.assert_array_equal(per_example, estimate())


def untrained_run(folder, **settings):
    """A model as an export leaves it, its weights as they were drawn."""
    config = runs.Config(**settings)
    known = runs.learned(config, runs.read(config.data, "train"))
    run = runs.Run(config, known, runs.build(config, known))
    runs.export(run, folder)
    return run


def killed_samples(tmp_path, waits):
    run = untrained_run(folder := tmp_path / "run", data="two_moons", network="mlp(hidden=(16,))")
    command = [sys.executable, "-m", "jaxdiff.cli", "sample", str(folder), "--json", "--steps", "4"]
    command += ["--n", "160", "--batch-size", "2"]
    kept = lambda: {path: path.stat().st_mtime_ns for path in (folder / "samples.partial").glob("*/*.npz")}
    before, kills = kept(), 0
    for seconds in waits:
        kills += kill_after(command, lambda: len(kept()) > len(before), seconds)
        if (folder / "samples.npy").exists():
            break
        after = kept()
        assert after == after | before, "what was there stays"
        before = after
        index = np.concatenate([np.load(path)["index"] for path in after])
        assert len(set(index)) == len(index)
    assert kills
    cli.sample(folder, 160, cli.Drawing(steps=4, batch_size=2), json_=True)
    samples = runs.draw(run, 160, steps=4, batch_size=2)
    np.testing.assert_array_equal(np.load(folder / "samples.npy"), samples)
    assert not (folder / "samples.partial").exists()
    np.testing.assert_allclose(samples[:100], runs.draw(run, 100, steps=4), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_likelihood_goes_on(tmp_path):
    killed_likelihoods(tmp_path, (0.0,))


@pytest.mark.slow
def test_killed_sampling_goes_on(tmp_path):
    killed_samples(tmp_path, (0.0,))


@pytest.mark.slow
@pytest.mark.parametrize("what", [killed_likelihoods, killed_samples])
def test_killed_many_times(tmp_path, what):
    what(tmp_path, np.random.default_rng(0).exponential(0.05, 15))


def test_kept_batches_that_are_torn_or_of_other_settings_do_not_count(tmp_path):
    draw = lambda seed=0, n=6, **more: jd.samplers.draw(
        jax.random.key(seed), denoiser(), (n, 3), **{"batch_size": 2, "steps": 3, "keep": tmp_path, **more}
    )
    whole = draw(keep=None)
    files = lambda: sorted(tmp_path.glob("*/*.npz"))
    np.testing.assert_array_equal(draw(), whole)
    assert [path.name for path in files()] == ["0.npz", "2.npz", "4.npz"]
    content = [path.read_bytes() for path in files()]
    flipped = bytearray(content[1])
    flipped[flipped.index(np.load(files()[1])["x"].tobytes())] ^= 1
    for damaged in (content[1][:-7], b"", bytes(flipped)):
        files()[1].write_bytes(damaged)
        np.testing.assert_array_equal(draw(), whole)
        assert [path.read_bytes() for path in files()] == content

    (tmp_path / "thesis").mkdir()
    other = draw(seed=1)
    assert np.abs(other - whole).min() > 0
    assert len(files()) == 3, "those of the other seed are gone"
    assert (tmp_path / "thesis").exists()
    seen = {files()[0].parent}
    for more in ({"steps": 4}, {"sampler": jd.samplers.DPMSolverPP(order=3)}, {"grid": jd.grids.Angle()}):
        draw(**more)
        assert len(files()) == 3
        seen.add(files()[0].parent)
    assert len(seen) == 4
    path = draw(trajectory=True, batch_size=4)
    assert path.shape == (4, 6, 3)
    np.testing.assert_array_equal(draw(trajectory=True, batch_size=3), path)
    with pytest.raises(ValueError, match="batch_size = 0"):
        draw(batch_size=0)
