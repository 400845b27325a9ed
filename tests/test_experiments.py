"""The experiments' paths on data that is not there: TFDS's mock data, and images made up."""

import dataclasses
import functools
import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.data import builders, images


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments")
    return importlib.import_module


def test_cifar10(experiment, tmp_path, monkeypatch):
    cifar10 = experiment("cifar10")
    monkeypatch.setattr(builders.Cifar10, "SPLITS", dict.fromkeys(("train", "validation", "test"), range(8)))
    monkeypatch.setattr(images, "_read", lambda builder, split: list(builder.as_data_source(split)))
    monkeypatch.setitem(runs.IMAGES, "cifar10", functools.partial(jd.data.load_cifar10, data_dir=tmp_path))
    tiny = dataclasses.replace(cifar10.CONFIG, channels=(4,), blocks=1, attention=(), steps=3, batch_size=4)
    with tfds.testing.mock_data(num_examples=8):
        summary = cifar10.run(tiny, tmp_path / "run", limit=2, budget=0, rtol=0.1, atol=0.1)
    assert summary["examples"] == 2
    assert 1.0 < summary["bits_per_dim"] < 20.0
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"samples.png", "denoising.png", "training.png"}


def stripes(n, seed):
    """Images whose class is how many rows are bright."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, n).astype(np.int32)
    bright = np.arange(28)[None] < 2 * label[:, None] + 3
    image = 50 + 150 * bright[..., None, None] + rng.integers(0, 50, (n, 28, 28, 1))
    return jd.data.Images(image.astype(np.uint8), label, 256, 10)


def test_the_classifier_learns_and_is_trained_once(experiment, tmp_path, monkeypatch):
    module = experiment("fashion_mnist_classifier")
    monkeypatch.setattr(jd.data, "load_fashion_mnist", lambda split: stripes(320, 0))
    monkeypatch.setattr(module, "BATCH", 32)
    classifier, held_out = module.load(tmp_path), stripes(100, 1)
    assert module.accuracy(classifier, held_out) > 0.5
    monkeypatch.setattr(module, "train", None)
    features, logits = module.load(tmp_path)(held_out.image, batch_size=64)
    assert features.shape == (100, module.FEATURES)
    np.testing.assert_allclose(logits, classifier(held_out.image)[1], rtol=1e-4, atol=1e-4)


def test_the_fid_and_its_floor_are_against_the_test_images(experiment):
    pixels = lambda images: (images[:, 0, :3, 0].astype(np.float32), None)
    train, test = stripes(300, 0).image, stripes(200, 1).image
    distances = experiment("fashion_mnist").distances
    assert distances(pixels, test, test, test) == pytest.approx((0, 0), abs=1e-6)
    shifted, floor = distances(pixels, train[:150] + np.uint8(1), train, test)
    assert shifted != floor
    assert distances(pixels, train[:150], train, test)[1] == floor
