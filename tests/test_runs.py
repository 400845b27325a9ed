"""A run keeps what it learned of its data, and needs them no more."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import runs


def test_flips_mirror_about_half_of_a_batch_and_nothing_else():
    data = jd.data.load_digits()
    for flip in (False, True):
        config = runs.Config(flip=flip)
        known = runs.Pictures.learned(config, data)
        batch = {name: array[:64] for name, array in known.examples(data).items()}
        x0 = np.asarray(jd.quantize(known.prepare(config)(jax.random.key(0), batch)[0], 17))
        same = (x0 == batch["image"]).all((1, 2, 3))
        mirrored = (x0[:, :, ::-1] == batch["image"]).all((1, 2, 3))
        assert (same | mirrored).all()
        assert 16 < mirrored.sum() < 48 if flip else same.all()


def test_what_a_run_cannot_use_is_refused_before_anything_is_written(tmp_path):
    config = runs.Config(data="two_moons", network="mlp(hidden=(4,))", steps=2, batch_size=8)
    run = runs.train(config, tmp_path, progress=False, pictures=0)
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match="steps = 1, but the run in .* has 2 already"):
        runs.train(dataclasses.replace(config, steps=1), tmp_path, progress=False, pictures=0)
    assert (tmp_path / "config.json").read_text() == written
    with pytest.raises(ValueError, match="budget = 3: for pictures"):
        runs.likelihood(run, tmp_path, limit=2, budget=3)


def test_a_config_is_the_same_as_text_objects_and_json(tmp_path):
    given = {
        "data": "folder('pictures', size=32)",
        "condition": ("label",),
        "network": "unet(channels=(8, 16))",
        "process": "edm(sigma_max=160)",
        "loss": "denoising(min_snr(4), log_normal)",
        "learning_rate": 1,
    }
    config = runs.Config(**given)
    assert config.process == jd.EDM(sigma_max=160.0)
    assert config.loss == jd.losses.Denoising(jd.losses.weightings.MinSNR(4.0), jd.losses.times.LogNormal())
    assert isinstance(config.learning_rate, float)
    assert dataclasses.replace(config, loss=config.loss, process=jd.EDM(sigma_max=160)) == config
    (tmp_path / "config.json").write_text(json.dumps(config.written()))
    assert runs.read_config(tmp_path) == config


def test_a_config_from_before_there_were_words_is_read(tmp_path):
    """As one was written: every setting there was, by name."""
    before = {
        **{"data": "folder", "image_folder": "it's here", "image_size": 32, "grey": True, "skip_corrupt": True},
        **{"process": "edm", "parameterization": "edm", "weighting": "edm", "times": "log_normal"},
        **{"channels": [8, 16], "blocks": 2, "attention": [], "remat": True, "dtype": "bfloat16", "hidden": [128] * 3},
        **{"conditional": True, "label_dropout": 0.2, "flip": True, "steps": 7, "batch_size": 8, "accumulate": 2},
        **{"learning_rate": 0.001, "ema_decay": 0.9, "seed": 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(before))
    assert runs.read_config(tmp_path) == runs.Config(
        data="folder(\"it's here\", size=32, channels=1, on_corrupt='skip')",
        condition=("label",),
        dropout=0.2,
        flip=True,
        network="unet(channels=(8, 16), blocks=2, attention=(), remat=True)",
        dtype="bfloat16",
        process="edm",
        parameterization="edm",
        loss="denoising(edm, log_normal)",
        steps=7,
        batch_size=8,
        learning_rate=1e-3,
        ema_decay=0.9,
        seed=3,
    )
    (tmp_path / "config.json").write_text(json.dumps({"data": "circles", "hidden": [4]}))
    assert runs.read_config(tmp_path) == runs.Config(data="circles", network="mlp(hidden=(4,))")
    (tmp_path / "config.json").write_text(json.dumps({"data": "circles", "hidden": "wide"}))
    with pytest.raises(ValueError, match=r"config.json: network = .*hidden"):
        runs.read_config(tmp_path)


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "moons"
    config = runs.Config(data="two_moons", network="mlp(hidden=(4,))", steps=2, batch_size=8)
    runs.train(config, folder, progress=False, pictures=0)
    return folder


def test_a_run_from_before_data_json_learns_of_its_data_once(moons, tmp_path, monkeypatch):
    old = shutil.copytree(moons, tmp_path / "old")
    (old / "data.json").unlink()
    assert runs.load(old).known == runs.load(moons).known
    assert (old / "data.json").read_text() == (moons / "data.json").read_text()
    (old / "data.json").unlink()
    other = dataclasses.replace(runs.read_config(old), data="circles").written()
    (old / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="has no data.json: .*have changed since: their standard deviation was"):
        runs.load(old)
    (old / "config.json").write_text(json.dumps(other | {"data": "table('gone.csv')"}))
    with pytest.raises(ValueError, match="has no data.json: .*cannot be read .*gone.csv does not exist"):
        runs.load(old)


@pytest.mark.parametrize("damage", ['{"kind": "sounds"}', '{"kind": "rows"}', "{", '{"kind": "rows", "event": "ab"}'])
def test_a_damaged_data_json_is_named(moons, tmp_path, damage):
    broken = shutil.copytree(moons, tmp_path / "broken")
    (broken / "data.json").write_text(damage)
    with pytest.raises(ValueError, match=r"data.json"):
        runs.load(broken)
