"""Labels that enter training, the share of them that is dropped, and guidance by what was learned so."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.arrays import is_concrete
from jaxdiff.config import Config
from jaxdiff.denoisers import no_label_of
from jaxdiff.networks import MLP, Cast, UNet, initialize
from jaxdiff.runs import Pictures
from jaxdiff.training import prepare_as_given, saved_steps, train
from jaxdiff.training.labels import Watch, share_dropped

KEY = jax.random.key(0)
CLASSES = 4


@functools.cache
def denoiser(classes=CLASSES):
    network, params = initialize(KEY, lambda rngs: MLP(2, hidden=(4,), classes=classes, rngs=rngs))
    return jd.Denoiser(network, params, jd.VP())


def batch(labels, step=0):
    x = 0.5 * np.random.default_rng(step).standard_normal((len(labels), 2)).astype(np.float32)
    return {"x": x, "label": np.asarray(labels)}


def dropping(rate, loss=jd.losses.Denoising()):
    """A loss that drops labels at `rate`; at None itself."""
    return loss if rate is None else jd.losses.ConditionDropout(loss, rate=rate)


def go(folder, model, batches, rate=None, **changes):
    settings = {"steps": 2, "optimizer": optax.adam(1e-2), "progress": False}
    return train(KEY, folder, model, dropping(rate), batches, **settings | changes)


GOOD = [batch([0, 1, 2, 3] * 2, step) for step in range(2)]


def drops(key, batch):
    return batch["x"], jnp.where(jax.random.bernoulli(key, 0.5, batch["label"].shape), CLASSES, batch["label"])


# Dropping


@dataclasses.dataclass(frozen=True)
class Table:
    """Says the mean of x that it learned for a label."""

    def __call__(self, params, x, c_noise, cond):
        cond = jnp.full(len(x), 2) if cond is None else cond
        return params["mean"][cond][:, None] * jnp.ones_like(x)

    def no_label(self, params):
        return 2


def test_with_dropping_the_mean_over_all_classes_is_learned_and_without_it_is_not(tmp_path):
    """Least squares has the conditional mean for its solution: of a class with its label, of all without."""
    loss = lambda model, key, x0, cond: jnp.square(model.network(model.params, x0, 0, cond) - x0).mean(1)
    batches = [{"x": np.float32([[-1.0], [1.0], [1.0], [1.0]] * 16), "label": np.array([0, 1, 1, 1] * 16)}] * 400
    model = jd.Denoiser(Table(), {"mean": jnp.zeros(3)}, jd.VP())
    for share, wanted in ((None, [-1.0, 1.0, 0.0]), (0.5, [-1.0, 1.0, 0.5])):
        settings = {"steps": 400, "optimizer": optax.adam(0.05), "progress": False}
        trained = train(KEY, tmp_path / str(share), model, dropping(share, loss), batches, **settings)
        # sgd's noise in the last entry: 32 of 64 examples a step, averaged over some 60 steps
        np.testing.assert_allclose(trained.params["mean"], wanted, atol=0.05)


def test_the_share_is_recorded_and_guidance_without_it_warns(tmp_path):
    without = go(tmp_path / "a", denoiser(), GOOD)
    assert without.condition_dropout == 0.0
    for guide in (jd.guidance.ClassifierFree, jd.guidance.ClassifierFreePP):
        for model in (without, jd.OnProcess(without, jd.Flow())):
            with pytest.warns(
                UserWarning, match=r"never dropped in training .*Train by jaxdiff\.losses\.Cond"
            ) as caught:
                guide(model, 0.5)
            assert len(caught) == 1
            assert caught[0].filename == __file__
    dropped = go(tmp_path / "b", denoiser(), GOOD, 0.1)
    assert dropped.condition_dropout == 0.1
    jax.jit(lambda guided: guided.scale)(jd.guidance.ClassifierFree(dropped, 3.0))
    jd.guidance.ClassifierFree(denoiser(), 3.0)  # not known
    sealed = json.loads((tmp_path / "b" / "checkpoints" / "2" / "manifest.json").read_text())
    assert sealed["content"]["identity"]["condition_dropout"] == 0.1
    with pytest.raises(ValueError, match=r"another condition_dropout: 0\.1, now 0\.0; loss: ConditionDropout\("):
        go(tmp_path / "b", denoiser(), GOOD)
    assert go(tmp_path / "b", denoiser(), None, 0.1).condition_dropout == 0.1


@pytest.mark.slow
def test_without_labels_nothing_is_recorded_and_where_prepare_drops_it_is_not_known(tmp_path):
    plain = [{"x": batch["x"]} for batch in GOOD]
    assert go(tmp_path / "a", denoiser(0), plain).condition_dropout is None
    assert go(tmp_path / "b", denoiser(), plain).condition_dropout is None
    assert go(tmp_path / "c", denoiser(), GOOD, prepare=drops).condition_dropout is None


def test_networks_say_their_label_for_none():
    unet = initialize(KEY, lambda rngs: UNet(1, (4,), 1, (), classes=3, rngs=rngs))
    assert [no_label_of(Cast(unet[0], jnp.bfloat16), unet[1]), no_label_of(*unet)] == [3, 3]
    assert denoiser().no_label() == CLASSES
    assert denoiser(0).no_label() is None
    energy = dataclasses.replace(
        denoiser(), network=jd.denoisers.Gradient(jd.denoisers.InnerProduct(denoiser().network))
    )
    assert energy.no_label() == CLASSES
    assert jd.Denoiser(lambda p, x, c, cond: x, None, jd.VP()).no_label() is None


# What may enter


ONES = r"has the label 4, which means no label to a network of 4 classes.*must be 0 to 3.*subtract 1"


@pytest.mark.parametrize("share", [None, 0.1])
@pytest.mark.parametrize("prepare", [prepare_as_given, lambda key, batch: (batch["x"], batch["label"])])
def test_labels_that_count_from_one_are_refused(tmp_path, share, prepare):
    with pytest.raises(ValueError, match=rf"example 3 of batches\[0\] {ONES}"):
        go(tmp_path, denoiser(), [batch([1, 2, 3, 4] * 2)] * 2, share, prepare=prepare)


def plain(key, batch):
    return batch["x"], batch["label"]


OUT_OF_RANGE = {4: ONES, 5: "label 5 is out of range", -1: "label -1 is out of"}
LATER = [(label, prepare) for label in OUT_OF_RANGE for prepare in (prepare_as_given, plain, drops)]
QUICK = LATER[0], LATER[4], LATER[8]  # each label and each way once


@pytest.mark.parametrize(
    ("label", "prepare"), [pytest.param(*row, marks=() if row in QUICK else pytest.mark.slow) for row in LATER]
)
def test_a_label_out_of_range_in_a_later_batch_is_refused_there(tmp_path, label, prepare):
    with pytest.raises(ValueError, match=rf"example 7 of batches\[1\].*{OUT_OF_RANGE[label]}"):
        go(tmp_path, denoiser(), [GOOD[0], batch([0, 1, 2, 3, 0, 1, 2, label])], prepare=prepare)
    assert saved_steps(tmp_path) == []


@pytest.mark.slow
def test_labels_that_prepare_drops_are_no_error_in_any_batch(tmp_path):
    """Under two keys one of 800 labels is dropped twice at a rate of a half for certain (but for 1e-99)."""
    batches = [batch([0, 1, 2, 3] * 50, step) for step in range(4)]
    assert go(tmp_path, denoiser(), batches, prepare=drops, steps=4).condition_dropout is None


@dataclasses.dataclass(frozen=True)
class TwoClasses:
    """Takes labels 0 and 1, and has none for no label."""

    def __call__(self, params, x, c_noise, cond):
        return params["mean"][cond][:, None] * jnp.ones_like(x)

    def check_cond(self, params, cond):
        if is_concrete(cond) and np.asarray(cond).max() > 1:
            raise ValueError("two classes only")


@pytest.mark.parametrize("prepare", [prepare_as_given, plain])
def test_what_a_network_of_ones_own_says_of_its_labels_holds_in_every_batch(tmp_path, prepare):
    model = jd.Denoiser(TwoClasses(), {"mean": jnp.zeros(2)}, jd.VP())
    with pytest.raises(ValueError, match=r"batches\[1\]: two classes only"):
        go(tmp_path, model, [batch([0, 1] * 4), batch([0, 2] * 4)], prepare=prepare)


@pytest.mark.parametrize(
    ("prepare", "looks"), [(prepare_as_given, "_check_cond"), (lambda key, batch: (batch["x"], None), "_look")]
)
def test_batches_without_a_condition_are_looked_at_once(tmp_path, monkeypatch, prepare, looks):
    found, look = [], getattr(Watch, looks)
    monkeypatch.setattr(Watch, looks, lambda *given: found.append(given) or look(*given))
    go(tmp_path, denoiser(0), [{"x": batch["x"]} for batch in GOOD], prepare=prepare)
    assert len(found) == 1


@dataclasses.dataclass(frozen=True)
class Told:
    """Takes a label, 4 for none, and a vector."""

    def __call__(self, params, x, c_noise, cond):
        return params["mean"][cond["label"]][:, None] * x + cond["vector"]

    def no_label(self, params):
        return CLASSES


TOLD = jd.Denoiser(Told(), {"mean": jnp.zeros(CLASSES + 1)}, jd.VP())


def with_vector(batch):
    return batch | {"vector": np.ones_like(batch["x"])}


def parts(key, batch):
    return batch["x"], {"label": batch["label"], "vector": batch["vector"]}


def drops_a_part(key, batch):
    return batch["x"], {"label": drops(key, batch)[1], "vector": batch["vector"]}


@pytest.mark.parametrize("prepare", [prepare_as_given, parts])
def test_a_label_beside_other_parts_is_looked_at_in_every_batch(tmp_path, prepare):
    wrong = with_vector(batch([0, 1, 2, 3, 0, 1, 2, 4]))
    for batches, where in (([wrong] * 2, 0), ([with_vector(GOOD[0]), wrong], 1)):
        with pytest.raises(ValueError, match=rf"example 7 of batches\[{where}\] {ONES}"):
            go(tmp_path / str(where), TOLD, batches, prepare=prepare)


def test_the_share_without_any_condition_is_known_where_nothing_else_drops():
    null = {"label": CLASSES, "vector": np.zeros(2)}
    loss = lambda null=None, rate=0.1: jd.losses.ConditionDropout(jd.losses.Denoising(), null, rate)
    given = with_vector(GOOD[0])
    share = lambda loss, prepare: share_dropped(prepare, KEY, given, prepare(KEY, given)[1], loss, CLASSES)
    assert share(loss(null, 0.2), prepare_as_given) == 0.2
    assert share(loss(null, {"label": 0.2, "vector": 0.5}), parts) == 0.1
    assert share(loss(rate={"label": 0.2}), prepare_as_given) == 0.0
    assert share(jd.losses.Denoising(), parts) == 0.0
    assert share(loss({"vector": np.zeros(2)}, {"vector": 0.2}), drops_a_part) is None
    with pytest.raises(ValueError, match="ConditionDropout drops labels, and so does prepare"):
        share(loss(rate={"label": 0.2}), drops_a_part)


REFUSED = [
    ({"prepare": drops}, "and so does prepare"),
    ({"model": denoiser(0)}, "the network has no label that means none"),
    ({"batches": [{"x": b["x"]} for b in GOOD]}, "cond = None leaves ConditionDropout nothing to drop"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_dropping_that_cannot_be_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path, **{"model": denoiser(), "batches": GOOD, "rate": 0.1} | given)


def test_a_config_drops_a_tenth_where_it_is_conditional():
    pictures = Pictures((8, 8, 1), 0.5, 17, 10)
    given = {"condition": ("label",)}
    assert [pictures.dropout(Config(**each)) for each in ({}, given, given | {"dropout": 0})] == [None, 0.1, 0.0]
    for wrong in ({"dropout": 0.1}, given | {"dropout": 1.0}):
        with pytest.raises(ValueError, match="dropout"):
            Config(**wrong)
