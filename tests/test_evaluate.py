"""Samples of runs beside real examples: what they are compared by, and what the floor is of."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from test_mesh_evaluation import untrained_run

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.runs import Rows, features

CHEAP = {"steps": 2, "progress": False}


class Small(nnx.Module):
    """In the place of `jaxdiff.networks.Classifier`, which takes ten seconds to compile."""

    def __init__(self, channels_in, classes, channels, blocks, *, rngs):
        self.first = nnx.Linear(64 * channels_in, 16, rngs=rngs)
        self.out = nnx.Linear(16, classes, rngs=rngs)

    def features(self, x, c_noise):
        return nnx.silu(self.first(x.reshape(len(x), -1)))

    def __call__(self, x, c_noise):
        return self.out(self.features(x, c_noise))


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The folder of an untrained run, whose classifier is small and trained for three steps."""
    monkeypatch.setattr(jd.networks, "Classifier", Small)
    monkeypatch.setattr(features, "STEPS", 3)
    untrained_run(tmp_path / "run", data="digits", network="mlp((8,))")
    return tmp_path / "run"


@pytest.mark.slow
def test_a_classifier_is_trained_once_named_and_the_same_for_all_runs_of_the_data(digits, tmp_path, monkeypatch):
    train = jd.data.load_digits("train")
    of_classifier = lambda folder: features.of_classifier(
        folder, train, {"image": train.image, "label": train.label}, (8, 8, 1), False
    )
    first = of_classifier(tmp_path)
    (kept,) = tmp_path.glob("classifier_*")
    report = runs.evaluate(runs.load(digits), digits, 20, **CHEAP)
    (again,) = digits.glob("classifier_*")
    assert (again.name, again.read_bytes()) == (kept.name, kept.read_bytes())
    assert report["features"]["name"] == first.name
    assert report["features"]["number"] == 16

    monkeypatch.setattr("jaxdiff.training.loop.train", None)
    compare = of_classifier(digits)
    held_out = jd.data.load_digits("test")
    chosen = np.random.default_rng(0).permutation(len(held_out))[:20]
    x = (2 * held_out.image[chosen].astype(np.float32) + 1) / 17 - 1
    right = np.mean(np.argmax(compare.classifier.logits(x, 0.0), 1) == held_out.label[chosen])
    assert report["features"]["accuracy"] == pytest.approx(right)
    found = compare(held_out.image[chosen])
    assert np.mean(compare(train.image) ** 2) == pytest.approx(1, rel=0.2)
    last = compare.classifier.params["out"]
    logits = compare.scale * found @ last["kernel"] + last["bias"]  # the last layer reads them
    np.testing.assert_allclose(logits, compare.classifier.logits(x, 0.0), rtol=1e-4, atol=1e-5)


def test_halves_of_one_set_have_no_kernel_distance():
    """In the kernel distance, which has no bias; the same digits a little brighter are."""
    parts = [jd.data.load_digits(split) for split in ("train", "validation", "test")]
    image = np.concatenate([part.image for part in parts])
    pixels = features.centres(image, 17).reshape(len(image), -1)
    one, other = np.split(pixels[np.random.default_rng(1).permutation(len(image))[:1600]], 2)
    for fake, apart in ((other, False), (other + np.float32(0.2), True)):
        found = jd.metrics.kernel_distance(fake, one)
        assert (abs(found.value) > 4 * found.standard_error) == apart


def test_points_are_compared_by_their_columns_and_in_their_units(tmp_path, monkeypatch):
    monkeypatch.setitem(runs.evaluate.__globals__, "REFERENCE", 60)
    run = untrained_run(tmp_path / "run", data="two_moons", network="mlp((8,))")
    report = runs.evaluate(run, tmp_path / "run", 40, seed=3, **CHEAP)
    assert report["features"] == {"name": "the standardised columns", "number": 2}
    metrics = report["metrics"]
    drawn = runs.draw(run, 40, steps=2, seed=3, batch_size=256)
    real = runs.read(run.config.data, "train").values[np.random.default_rng(0).permutation(20_000)[:60]]
    assert metrics["wasserstein"]["value"] == pytest.approx(jd.metrics.wasserstein(drawn, real[:40]), rel=1e-5)
    assert metrics["wasserstein"]["standard_error"] is None
    sliced = jd.metrics.sliced_wasserstein(jax.random.key(3), drawn, real)
    found = metrics["sliced_wasserstein"]
    assert (found["value"], found["standard_error"]) == pytest.approx(tuple(sliced), rel=1e-5)
    assert abs(metrics["kernel_distance"]["floor"]) < 4 * metrics["kernel_distance"]["floor_standard_error"]
    with pytest.raises(ValueError, match="features = 'pixels' are for pictures; rows are compared by their columns"):
        runs.evaluate(run, tmp_path / "run", 40, "pixels", **CHEAP)


def test_rows_of_a_conditional_table_are_whole_again():
    columns = jd.data.Columns(("a", "b", "c"), (1.0, -2.0, 5.0), (2.0, 0.5, 3.0), ("b",))
    known = Rows((2,), 1.0, columns, (0.0,) * 3, tuple(map(tuple, np.eye(3))), ".csv")
    rows = np.random.default_rng(0).normal(size=(5, 3))
    x, cond = columns.standardised(rows)
    np.testing.assert_allclose(known.whole(x, cond), rows, atol=1e-6)
    compare, _ = known.features(None, None, None, (rows, cond), False)
    np.testing.assert_allclose(compare(rows), np.concatenate([x, cond], 1))
    np.testing.assert_array_equal(known.as_given(runs.Config(), cond, 7), cond[[0, 1, 2, 3, 4, 0, 1]])
    with pytest.raises(ValueError, match="condition = b=1, but no rows of the data have just these values"):
        known.real(None, runs.Config(), ["b=1"], 3)


def test_labels_have_the_proportions_of_the_real_ones_and_may_be_chosen():
    known = runs.Pictures((8, 8, 1), 0.6, 17, 10)
    config = runs.Config(condition=("label",))
    source = jd.data.load_digits("test")
    images, labels = known.real(source, config, ["3", "5"], 50)
    assert images.shape == (50, 8, 8, 1)
    assert {*labels} == {3, 5}
    given = known.as_given(config, np.array([5, 3, 3, 5, 5]), 10)
    np.testing.assert_array_equal(np.bincount(given)[[3, 5]], [4, 6])
    assert known.as_given(runs.Config(), labels, 10) is None
    shape = dataclasses.replace(known, event=(4, 4, 1))
    with pytest.raises(ValueError, match=r"the pictures are \(8, 8, 1\) with 17 levels; expected \(4, 4, 1\)"):
        shape.real(source, config, (), 5)


def test_pictures_without_labels_are_compared_by_pixels_and_it_is_said(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    source = jd.data.Images(images, np.zeros(12, np.int32), 256, 1)
    known = runs.Pictures((4, 4, 3), 0.6, 256, 1)
    compare, about = known.features(None, tmp_path, source, (images, source.label), False)
    assert about == {"name": "pixels, as the pictures have no labels for a classifier"}
    np.testing.assert_allclose(compare(images), (2.0 * images.reshape(12, 48) + 1) / 256 - 1, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="features = 'classifier', but the pictures are of one class"):
        known.features("classifier", tmp_path, source, (images, source.label), False)
    inception = jd.pretrained.InceptionFeatures({}, "inception 0123abcd")
    assert known.features(inception, tmp_path, source, (images, source.label), False) == (
        inception,
        {"name": "inception 0123abcd"},
    )
    with pytest.raises(ValueError, match="the pictures have 17 levels; features of a function expect 256"):
        dataclasses.replace(known, levels=17).features(inception, tmp_path, source, (images, None), False)


def test_what_cannot_be_compared_is_refused_before_samples_are_drawn(digits, monkeypatch):
    monkeypatch.setitem(runs.evaluate.__globals__, "draw", None)
    run = runs.load(digits)
    for given, message in (
        ({"features": lambda images: images}, r"the pictures have 17 levels; features of a function expect"),
        ({"features": "colours"}, 'features = \'colours\'; expected "classifier" or "pixels"'),
        ({"split": "train"}, 'split = \'train\'; expected "validation" or "test"'),
        ({"condition": ["3"]}, "condition = 3, but the run was trained without one"),
    ):
        with pytest.raises(ValueError, match=message):
            runs.evaluate(run, digits, 20, **given, **CHEAP)
    gone = dataclasses.replace(run, config=dataclasses.replace(run.config, data="folder('gone', size=8)"))
    with pytest.raises(ValueError, match="the data of the run cannot be read .*; name others by --data"):
        runs.evaluate(gone, digits, 20, **CHEAP)
    scripted = dataclasses.replace(run, config=dataclasses.replace(run.config, data=None))
    with pytest.raises(ValueError, match="data = None: the data were given by a script; name a data set"):
        runs.evaluate(scripted, digits, 20, **CHEAP)
    assert not (digits / "evaluation.json").exists()
