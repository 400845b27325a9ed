"""Checkpoints that are damaged, killed while they are written, or have no room; each is really done."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import run
from conftest import few

from jaxdiff.arrays import atomic_write
from jaxdiff.training import Checkpoints, TrainState, load_params, make_step, read_metrics, train

HERE = Path(__file__).parent


def fresh():
    return TrainState.create(run.KEY, run.denoiser().params, run.OPTIMIZER)


def digest(state):
    state = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if leaf.dtype == run.KEY.dtype else leaf, state)
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))).hexdigest()


def reference(steps):
    """The digest of the state after each step of an uninterrupted run, and the loss of each step."""
    step, state = make_step(run.denoiser(), run.LOSS, run.OPTIMIZER), fresh()
    digests, losses = [digest(state)], []
    for k in range(steps):
        state, metrics = step(state, run.Points()[k])
        digests.append(digest(state))
        losses.append(float(metrics["loss"]))
    return digests, losses


def start(folder, **settings):
    command = [sys.executable, HERE / "run.py", folder, json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE.parents[1])


def finish(process, timeout=120):
    """(exit code, output, error output) of a process, within `timeout` seconds."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def steps_in(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def logged(folder):
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def wait_for_step(folder, step, process):
    deadline = time.time() + 60
    while not (lines := logged(folder)) or lines[-1]["step"] < step:
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.002)


# Damage


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("saved")
    run.main(folder, steps=20)
    return folder


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def remove(path, rng):
    path.unlink()


def link(path, rng):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def add(path, rng):
    path.with_name("d" * 32).write_bytes(b"mine")


DAMAGES = {damage.__name__: damage for damage in (flip, truncate, remove, link, add)}


@pytest.mark.parametrize("damage", few(DAMAGES, "flip"))
def test_damage_is_found_and_the_step_before_taken(saved, tmp_path, damage):
    """At ten random places for each kind."""
    digests, _ = reference(10)
    rng = random.Random(damage.__name__)
    for place in range(10):
        folder = tmp_path / str(place)
        shutil.copytree(saved, folder)
        newest = folder / "checkpoints" / "20"
        path = rng.choice(sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size))
        damage(path, rng)
        named = {add: "d" * 32, link: ""}.get(damage, path.name)
        with pytest.warns(UserWarning, match=f"{named}.*skipping step 20"):
            params = load_params(folder, run.denoiser().params)
        with pytest.warns(UserWarning, match="skipping step 20"), Checkpoints(folder / "checkpoints") as checkpoints:
            state = checkpoints.restore(fresh())
        assert digest(state) == digests[10]
        assert digest(params) == digest(state.ema)
        assert sorted(os.listdir(folder / "checkpoints")) == ["10", "20.damaged"]


def test_a_run_never_begins_anew_over_damaged_checkpoints(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for step in ("10", "20"):
        (tmp_path / "checkpoints" / step / "manifest.json").unlink()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for use in (lambda: run.main(tmp_path, steps=30), lambda: load_params(tmp_path, run.denoiser().params)):
        refused = pytest.raises(ValueError, match=r"no undamaged checkpoint \(of steps 20, 10\)")
        with pytest.warns(UserWarning, match="manifest.json is missing"), refused:
            use()
    assert steps_in(tmp_path) == [10, 20]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def other_kinds_of_damage():
    """(what is done to the folder of a step, what the warning says)."""

    def manifest(content):
        return lambda step: (step / "manifest.json").write_bytes(content)

    def instead(make, name="manifest.json"):
        def damage(step):
            (path := next(step.rglob(name))).unlink()
            make(path)

        return damage

    def file(step):
        shutil.rmtree(step)
        step.write_bytes(b"")

    def away(step):
        step.rename(step.with_name("elsewhere"))
        step.symlink_to(step.with_name("elsewhere"))

    yield instead(Path.mkdir), "manifest.json is a folder; expected a file"
    yield instead(os.mkfifo), "manifest.json is a pipe, a socket or a device; a checkpoint holds plain files only"
    yield instead(os.mkfifo, "_METADATA"), "_METADATA is a pipe"
    yield file, "20 is a file; expected a checkpoint folder"
    yield away, "20 is a symbolic link; expected a checkpoint folder"
    yield manifest(b""), "manifest.json is damaged"
    yield manifest(b"[" * 100_000), "manifest.json is damaged"
    yield manifest(b'{"content":' * 100_000), "manifest.json is damaged"
    yield manifest(b"[]"), "manifest.json holds a list"
    yield manifest(b'{"content": {"step": 20, "files": []}, "sha256": "a"}'), "manifest.json is damaged"
    yield manifest(b'{"content": {"files": {}}, "sha256": "a"}'), "manifest.json is damaged"
    yield manifest(b'{"content": {"step": 20, "files": {}}, "sha256": "a"}'), "its SHA-256 differs"


@pytest.mark.parametrize(("damage", "message"), other_kinds_of_damage())
def test_damage_of_another_kind_is_found_and_nothing_is_waited_for(saved, tmp_path, damage, message):
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    damage(tmp_path / "checkpoints" / "20")
    with (
        pytest.warns(UserWarning, match=f"{message}.*skipping step 20"),
        Checkpoints(tmp_path / "checkpoints") as found,
    ):
        assert found.latest == 10


def test_a_step_under_the_name_of_another_is_named_and_left(saved, tmp_path):
    """Else a run asked for 30 steps would be done at once, with the weights of 10."""
    digests, _ = reference(30)
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "checkpoints" / "10", tmp_path / "checkpoints" / "30")
    with pytest.warns(UserWarning, match="30 holds step 10; rename it to 10.*skipping step 30"):
        run.main(tmp_path, steps=30)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["20", "30", "30.damaged"]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert digest(checkpoints.restore(fresh())) == digests[30]


@pytest.mark.parametrize("name", ["007", "0x20", "\u0661\u0660", "9" * 30, "20 ", "-20"])
def test_a_folder_whose_name_is_no_step_is_none(saved, tmp_path, name):
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(tmp_path / "checkpoints" / "10", tmp_path / "checkpoints" / name)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest == 20


def lose_all(folder):
    shutil.rmtree(folder / "checkpoints")


def lose_each(folder):
    for path in (folder / "checkpoints").iterdir():
        shutil.rmtree(path)


def set_aside(folder):
    for path in (folder / "checkpoints").iterdir():
        path.rename(path.with_name(f"backup-{path.name}"))


def only_damaged(folder):
    lose_each(folder)
    (folder / "checkpoints" / "20.damaged").mkdir()
    (folder / "metrics.jsonl").unlink()


@pytest.mark.parametrize("lose", [lose_all, lose_each, set_aside, only_damaged])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew_without_a_word(saved, tmp_path, lose):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    lose(tmp_path)
    trace = "20.damaged" if lose is only_damaged else "metrics.jsonl, whose last line is step 20"
    with pytest.raises(ValueError, match=f"are gone, but there is .*{trace}.*: restore the checkpoints"):
        run.main(tmp_path, steps=30)
    assert steps_in(tmp_path) == []
    for path in (tmp_path / "metrics.jsonl", *(tmp_path / "checkpoints").glob("*.damaged")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    run.main(tmp_path, steps=10)
    assert steps_in(tmp_path) == [10]


@pytest.mark.slow
def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(tmp_path):
    process = start(tmp_path, steps=10**6, delay=0.01, checkpoint_every=10**6)
    wait_for_step(tmp_path, 10, process)
    process.kill()
    process.communicate()
    run.main(tmp_path, steps=10)
    assert [line["step"] for line in logged(tmp_path)] == [5, 10]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "metrics.jsonl", "lock"}


# Links in a run that somebody handed over


def test_training_writes_and_deletes_nothing_through_a_link(saved, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    (outside / "0").mkdir(parents=True)
    for name in ("lock", "metrics.jsonl", "thesis", "0/thesis"):
        (outside / name).write_bytes((saved / name).read_bytes() if (saved / name).exists() else b"mine")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    shutil.copytree(saved, folder)

    def replaced(name, link=os.symlink):
        path = folder / name
        if path.exists():
            path.rename(tmp_path / "aside")
        link(outside / name if (outside / name).exists() else outside, path)

    def put_back(name):
        (folder / name).unlink()
        if (tmp_path / "aside").exists():
            (tmp_path / "aside").rename(folder / name)

    for name, message in (
        ("lock", "lock is a link, a folder or a pipe; expected a file"),
        ("checkpoints", "checkpoints is a symbolic link"),
        ("checkpoints/30.draft", "30.draft is a symbolic link"),
        ("checkpoints/0.old", "0.old is a symbolic link"),
    ):
        replaced(name)
        with pytest.raises(ValueError, match=message):
            run.main(folder, steps=30)
        put_back(name)
    replaced("lock", os.link)
    replaced("failure.json")
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    run.main(folder, steps=30)
    assert not (folder / "metrics.jsonl").is_symlink()
    assert logged(folder)[-1]["step"] == 30
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


def test_drafts_of_killed_writers_are_swept_and_nothing_else(saved, tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(saved, folder)
    outside.write_bytes(b"mine")
    name = lambda digit, of="summary.json": folder / f".{of}.{str(digit) * 8}.tmp"
    for dead in (name(0), name(1, ".checkpoints.unsaved")):
        dead.write_bytes(b"{")
    kept = [name(2), name(3), name(4), folder / ".summary.json.tmp", folder / "summary.json.00000000.tmp"]
    kept[0].symlink_to(outside)
    kept[1].mkdir()
    os.mkfifo(kept[2])
    for path in kept[3:]:
        path.write_bytes(b"{")
    with atomic_write(folder / "summary.json") as file:  # as `sample` may in another process
        file.write(b"{}")
        run.main(folder, steps=20)
    assert (folder / "summary.json").read_bytes() == b"{}"
    assert not any(path.exists() for path in (name(0), name(1, ".checkpoints.unsaved")))
    assert all(os.path.lexists(path) for path in kept)
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("line", "message"),
    [("[]", "line 2: expected numbers"), ('{"loss": 1}', "line 2"), ("{" * 100_000, "line 2 is not JSON")],
)
def test_a_damaged_line_of_the_metrics_is_named_before_anything_is_compiled(
    saved, tmp_path, line, message, monkeypatch
):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]))
    monkeypatch.setattr("jaxdiff.training.loop.make_step", lambda *_: pytest.fail("it compiles"))
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, {message}"):
        run.main(tmp_path, steps=30)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is a folder; expected a file"):
        run.main(tmp_path, steps=30)


def test_a_run_in_the_home_folder_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run.main("~/runs/a", steps=10)
    assert os.listdir(tmp_path) == ["runs"]
    load_params("~/runs/a", run.denoiser().params)
    assert read_metrics("~/runs/a/metrics.jsonl")
    with pytest.raises(TypeError, match="folder = 3; expected a path"):
        run.main(3)


# Another run


def test_what_a_run_is_made_of_is_held_to(saved, tmp_path):
    class Other(run.Points):
        def __getitem__(self, step):
            return {"x": super().__getitem__(step)["x"][::-1]}

    def go_on(steps=30, key=run.KEY, batches=None, **settings):
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(saved, tmp_path)
        return train(
            key,
            tmp_path,
            run.denoiser(),
            run.LOSS,
            batches or run.Points(),
            **{"steps": steps, "optimizer": run.OPTIMIZER, "progress": False} | settings,
        )

    for changed, message in (
        ({"key": jax.random.key(7)}, r"another key: \[0, 0\], now \[0, 7\].* by name: allow key"),
        ({"batches": Other()}, r"another first_batch: \w+, now \w+\..* allow first_batch"),
        ({"batches": run.Points(slice(0, 8))}, r"another batch: .*24, 64.*, now .*8, 64.* allow batch first_batch"),
        ({"identity": {"config": "b"}}, "another config: None, now b"),
    ):
        with pytest.raises(ValueError, match=message):
            go_on(**changed)
        assert steps_in(tmp_path) == [10, 20]
    go_on(batches=Other(), allow=("first_batch",))
    assert steps_in(tmp_path) == [20, 30]

    manifest = tmp_path / "checkpoints" / "30" / "manifest.json"
    sealed = json.loads(manifest.read_text())
    assert sealed["content"]["data"] == {"next_index": 30}
    assert {"jax", "jaxlib", "flax", "optax", "jaxdiff"} <= sealed["content"]["identity"].keys()


def test_another_version_of_a_library_is_another_run(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    version = run.jax.__version__
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9" if name == "jax" else _version(name))
    from importlib.metadata import distribution

    _version = lambda name: distribution(name).version
    with pytest.raises(ValueError, match=rf"another jax: {version}, now 9\.9.* allow jax"):
        run.main(tmp_path, steps=30)
    run.main(tmp_path, steps=30, allow=["jax"])
    assert steps_in(tmp_path) == [20, 30]


def test_a_folder_in_use_is_refused(tmp_path):
    process = start(tmp_path, steps=10_000, delay=0.01)
    try:
        wait_for_step(tmp_path, 5, process)
        with pytest.raises(ValueError, match=rf"is in use by process {process.pid} of "):
            run.main(tmp_path)
    finally:
        process.kill()
        process.communicate()


# No room


def test_a_disk_that_is_full_is_said_within_an_interval_and_costs_nothing(tmp_path):
    """The system allows no file of more than 10,000 bytes: the weights (16,384) do not fit, the metrics do."""
    digests, _ = reference(20)
    run.main(tmp_path, steps=10)
    code, _, err = finish(start(tmp_path, steps=10_000, delay=0.01, bytes_a_file=10_000))
    assert code == 1
    assert "OSError: the checkpoint of step 20 could not be written" in err
    assert "File too large" in err
    assert logged(tmp_path)[-1]["step"] <= 30  # saved in the background at 20, told at the next log or the one after
    assert os.listdir(tmp_path / "checkpoints") == ["10"]
    run.main(tmp_path, steps=20)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert digest(checkpoints.restore(fresh())) == digests[20]


def test_room_is_looked_for_before_anything_is_written(tmp_path, monkeypatch):
    run.main(tmp_path, steps=10)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=50_000))
    with pytest.raises(OSError, match=r"step 20 could not be .* needs 66,\d+ bytes, but 50,000 are free"):
        run.main(tmp_path, steps=20)
    assert steps_in(tmp_path) == [10]


# kill -9


def soak(folder, kills, seed):
    """Kill a run that saves at every step; each time the newest step is whole, and that of the uninterrupted run."""
    rng = random.Random(seed)
    digests, losses = reference(100)
    for kill in range(kills):
        before = max(steps_in(folder), default=0) if (folder / "checkpoints").exists() else 0
        seen = logged(folder)[-1]["step"] if logged(folder) else 0
        process = start(folder, steps=10**6, log_every=1, checkpoint_every=1)
        if kill % 4 == 3:
            time.sleep(rng.uniform(0.0, 5.0))  # anywhere, mostly in the start
        else:
            wait_for_step(folder, seen + 1, process)
            time.sleep(rng.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not (folder / "checkpoints").exists():
            continue
        newest = max(steps_in(folder), default=0)
        told = logged(folder)[-1]["step"] if logged(folder) else 0
        assert newest >= max(before, told - 2), "a step that was saved is gone"
        with Checkpoints(folder / "checkpoints") as checkpoints:
            left = {path.name for path in (folder / "checkpoints").iterdir()}
            assert left == {str(step) for step in steps_in(folder)}, "something was left behind"
            assert (checkpoints.latest or 0) == newest
            if newest:
                while len(digests) <= newest:
                    digests, losses = reference(2 * len(digests))
                assert digest(checkpoints.restore(fresh())) == digests[newest]
    for number, line in enumerate(logged(folder), 1):
        assert line["step"] == number
        assert line["loss"] == losses[number - 1]
    return newest


@pytest.mark.slow
def test_kill_soak(tmp_path):
    assert soak(tmp_path, 3, seed=0) > 1


@pytest.mark.slow
def test_kill_soak_of_a_hundred(tmp_path):
    assert soak(tmp_path, 100, seed=1) > 50
