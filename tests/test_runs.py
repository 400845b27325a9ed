import dataclasses

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import runs


def test_flips_mirror_about_half_of_a_batch_and_nothing_else():
    for flip in (False, True):
        examples, prepare = runs._preparation(runs.Config(flip=flip))
        batch = {name: array[:64] for name, array in examples.items()}
        x0 = np.asarray(jd.quantize(prepare(jax.random.key(0), batch)[0], 17))
        same = (x0 == batch["image"]).all((1, 2, 3))
        mirrored = (x0[:, :, ::-1] == batch["image"]).all((1, 2, 3))
        assert (same | mirrored).all()
        assert 16 < mirrored.sum() < 48 if flip else same.all()


def test_images_are_read_once():
    config = runs.Config()
    data = runs.load_images(config, "test")
    assert runs.load_images(config, "test") is data
    assert not data.image.flags.writeable


def test_published_files_may_be_given(monkeypatch):
    given = []
    data = jd.data.Images(np.zeros((2, 28, 28, 1), np.uint8), np.zeros(2, np.int32), 256, 10)
    monkeypatch.setitem(runs.IMAGES, "fashion_mnist", lambda split, folder: given.append((split, folder)) or data)
    config = runs.Config(data="fashion_mnist", image_folder="/where/they/are")
    config.check()
    runs.load_images(config, "test")
    assert given == [("test", "/where/they/are")]


def test_what_a_run_cannot_use_is_refused_before_anything_is_written(tmp_path):
    config = runs.Config(data="two_moons", hidden=(4,), steps=2, batch_size=8)
    denoiser, _ = runs.train(config, tmp_path, progress=False, pictures=0)
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match="steps = 1, but the run in .* has 2 already"):
        runs.train(dataclasses.replace(config, steps=1), tmp_path, progress=False, pictures=0)
    assert (tmp_path / "config.json").read_text() == written
    with pytest.raises(ValueError, match="budget = 3: for images"):
        runs.likelihood(config, denoiser, tmp_path, "test", 2, 0, False, budget=3)
