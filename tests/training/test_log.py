"""Speeds, and what TensorBoard and Weights & Biases keep of a run; neither needs a network here."""

import dataclasses
import itertools
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from jaxdiff.training import speed as speeds
from jaxdiff.training import tensorboard, wandb
from jaxdiff.training.speed import PEAK_FLOPS, Speed, Waiting, peak_flops

LINES = [{"step": step, "loss": 1.0 / step, "seconds": 0.1 * step} for step in (5, 10, 15)]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "samples.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    return path


def events(folder):
    """{tag: {step: value}} of all that TensorBoard's files hold."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value
    return found


def test_tensorboard_has_every_number_and_the_pictures(tmp_path, picture):
    with tensorboard(tmp_path) as write:
        for line in LINES:
            write(line, picture if line["step"] == 10 else None)
    found = events(tmp_path)
    assert found.keys() == {"loss", "seconds", "samples"}
    for line in LINES:
        for name in ("loss", "seconds"):
            np.testing.assert_allclose(found[name][line["step"]].simple_value, line[name], rtol=1e-6)
    assert (found["samples"][10].image.height, found["samples"][10].image.width) == (4, 4)


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_a_run_without_a_network(tmp_path, picture, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb(tmp_path, "tests", {"steps": 15}) as write:
        for line in LINES:
            write(line, picture if line["step"] == 10 else None)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list((run / "files" / "media" / "images").glob("samples_*.png"))
    (kept,) = run.glob("run-*.wandb")
    until = time.monotonic() + 60  # wandb's own process may write the last of it after it has said that all is written
    while kept.stat().st_size <= 100 and time.monotonic() < until:
        time.sleep(0.1)
    assert kept.stat().st_size > 100


@pytest.mark.parametrize(("writer", "package"), [(tensorboard, "tensorboardX"), (wandb, "wandb")])
def test_what_is_not_installed_is_said(writer, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"tensorboardX": "tensorboard"}.get(package, package)
    with pytest.raises(ImportError, match=rf"{package} is not installed; pip install 'jaxdiff\[{extra}\]'"):
        writer(tmp_path, *(("p", {}) if writer is wandb else ())).__enter__()


def test_speed_counts_steps_examples_and_the_share_of_the_peak():
    compiled = types.SimpleNamespace(cost_analysis=lambda: {"flops": 1e12})
    device = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    mesh = types.SimpleNamespace(devices=np.array([[device]]))
    found = Speed(compiled, mesh, examples=64)(steps=10, seconds=2.0)
    assert found == {"steps_per_second": 5.0, "examples_per_second": 320.0, "flop_utilization": 5e12 / 989e12}
    unknown = types.SimpleNamespace(devices=np.array([[types.SimpleNamespace(device_kind="cpu")]]))
    assert "flop_utilization" not in Speed(compiled, unknown, examples=64)(10, 2.0)
    assert "flop_utilization" not in dataclasses.replace(
        Speed(compiled, mesh, 64), compiled=types.SimpleNamespace(cost_analysis=lambda: None)
    )(10, 2.0)
    assert peak_flops("TPU v5 lite") == 197e12 != PEAK_FLOPS["TPU v5"]
    assert peak_flops("TPU v5p chip") == 459e12


class Clock:
    """Seconds that pass only where something is waited for."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def until(self, then):
        self.now = max(self.now, then)


class Step:
    """A result of a step that is computed at `done`."""

    def __init__(self, clock, done):
        self.clock, self.done = clock, done

    def is_ready(self):
        return self.clock.now >= self.done

    def block_until_ready(self):
        self.clock.until(self.done)


def read_ahead(clock, seconds):
    """Batches that another thread reads, one after another, whatever else goes on."""
    for step in itertools.count(1):
        clock.until(step * seconds)
        yield {}


def read_when_asked(clock, seconds):
    for _ in itertools.count():
        clock.now += seconds
        yield {}


def trained(clock, waiting, batches, compute, steps=50):
    """An interval of the loop: each step waits for the last but one; the metrics of the interval."""
    began, done, results = clock.now, clock.now, []
    for _ in range(steps):
        waiting.next(batches, results[-1] if results else None)
        done = max(done, clock.now) + compute
        results.append(Step(clock, done))
        waiting.measure(results[-1])
        if len(results) > 1:
            results[-2].block_until_ready()
    results[-1].block_until_ready()
    return waiting(clock.now - began)["waiting"]


@pytest.mark.parametrize("batches", [read_ahead, read_when_asked])
@pytest.mark.parametrize(("reading", "compute"), [(9.0, 10.0), (12.0, 10.0), (3.0, 2.0), (0.001, 1.0), (20.0, 11.0)])
def test_waiting_is_what_of_reading_is_left_when_a_step_is_done(monkeypatch, batches, reading, compute):
    """Both go on at once, so that a step takes the longer of the two, of which what reading has more is waiting."""
    clock = Clock()
    monkeypatch.setattr(speeds, "time", clock)
    share = trained(clock, Waiting(), batches(clock, reading), compute)
    longer = max(reading, compute)
    assert abs(share - (longer - compute) / longer) < 2 * reading / (50 * longer)  # of the first two batches of 50
    most = 0.0 if reading < compute else min(reading, compute)  # that measuring a step costs
    assert clock.now - reading - compute - 49 * longer < most + 1e-6


def test_waiting_for_most_of_the_time_is_said_once(monkeypatch):
    clock, waiting = Clock(), Waiting()
    monkeypatch.setattr(speeds, "time", clock)
    assert trained(clock, waiting, read_ahead(clock, 0.009), 0.001, steps=10) > 0.5  # of a tenth of a second
    batches = read_when_asked(clock, 0.9)
    with pytest.warns(UserWarning, match=r"waits for its data: \d+% of the last 9\.?\d* s. Make reading"):
        trained(clock, waiting, batches, 0.1, steps=10)
    trained(clock, waiting, batches, 0.1, steps=10)
