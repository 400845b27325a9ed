"""The loop against closed forms, and against itself interrupted. The model is a stand-in: a linear map."""

import dataclasses
import json
import os
import re
import shutil
import time
from typing import Any

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.networks import MLP, initialize
from jaxdiff.processes import pytree
from jaxdiff.training import (
    Checkpoints,
    Diverged,
    MetricsLog,
    TrainState,
    clipped_adam,
    load_params,
    make_step,
    read_metrics,
    speed,
    train,
)


@pytree
@dataclasses.dataclass(frozen=True)
class Linear:
    params: Any
    data_std: float = 0.5

    def __call__(self, x):
        return x @ self.params["w"] + self.params["layer"]["b"]


def denoising(denoiser, key, x0, cond=None):
    noise = jax.random.normal(key, x0.shape)
    return jnp.square(denoiser(x0 + noise) - x0).mean(1)


def inner_product(denoiser, key, x0, cond=None):
    """Its gradient in w is the mean of x0, whatever w is."""
    return x0 @ denoiser.params["w"]


class Batches:
    """x ~ N(0, 1) [8, 3] for any step, drawn from the step; `special` replaces some."""

    def __init__(self, special=()):
        self.special = dict(special)

    def __getitem__(self, step):
        x = np.random.default_rng(step).standard_normal((8, 3)).astype(np.float32)
        return {"x": self.special.get(step, x)}


KEY = jax.random.key(0)


def linear(d=3):
    return Linear({"w": 0.1 * jnp.ones((d, d)), "layer": {"b": jnp.zeros(d)}})


def vector(*w):
    return Linear({"w": jnp.array(w, jnp.float32)})


def settings(**changes):
    return {"steps": 40, "log_every": 5, "checkpoint_every": 10, "progress": False} | changes


def newest(folder, denoiser, optimizer):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.restore(TrainState.create(KEY, denoiser.params, optimizer))


def without_seconds(folder):
    timed = {"seconds", "steps_per_second", "examples_per_second", "waiting"}
    return [{k: v for k, v in r.items() if k not in timed} for r in read_metrics(folder / "metrics.jsonl")]


def same_bits(a, b):
    """Equal arrays, dtypes and structure, typed keys included."""

    def data(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    chex.assert_trees_all_equal(jax.tree.map(data, a), jax.tree.map(data, b), strict=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, denoiser) of an uninterrupted run; copy the folder before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, train(KEY, folder, linear(), denoising, Batches(), **settings())


class Killed(Exception):
    pass


def kill_at(step):
    def hook(denoiser, metrics):
        if metrics["step"] == step:
            raise Killed

    return hook


# Resuming


@pytest.mark.parametrize("killed_at", [pytest.param(20, marks=pytest.mark.slow), 25])  # at a checkpoint, and past it
def test_resume_is_bitwise(finished, tmp_path, killed_at):
    whole_folder, whole = finished
    with pytest.raises(Killed):
        train(KEY, tmp_path, linear(), denoising, Batches(), **settings(on_log=kill_at(killed_at)))
    parts = train(KEY, tmp_path, linear(), denoising, Batches(), **settings())

    states = [newest(folder, linear(), clipped_adam(40)) for folder in (whole_folder, tmp_path)]
    assert states[0].step == 40
    same_bits(*states)
    same_bits(whole.params, parts.params)
    lines = without_seconds(tmp_path)
    assert lines == without_seconds(whole_folder)
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    seconds = [r["seconds"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert (np.diff(seconds) > 0).all()


def test_the_bar_says_that_it_compiles_before_it_counts(tmp_path, capsys):
    train(KEY, tmp_path, linear(), denoising, Batches(), steps=2)
    shown = capsys.readouterr().err
    assert re.search(r"^\s*compiling:   0%.*0/2.*\r.*100%.*2/2", shown, re.DOTALL), shown
    assert "compiling" not in shown.split("\r")[-1]


@pytest.mark.slow
def test_longer_run_continues_the_shorter(tmp_path):
    optimizer = optax.adam(1e-2)
    whole = train(KEY, tmp_path / "a", linear(), denoising, Batches(), **settings(optimizer=optimizer))
    train(KEY, tmp_path / "b", linear(), denoising, Batches(), **settings(optimizer=optimizer, steps=17))
    parts = train(KEY, tmp_path / "b", linear(), denoising, Batches(), **settings(optimizer=optimizer))
    same_bits(whole.params, parts.params)
    assert [r["step"] for r in without_seconds(tmp_path / "b")] == [5, 10, 15, 17, 20, 25, 30, 35, 40]


@pytest.mark.parametrize("killed_at", [pytest.param(10, marks=pytest.mark.slow), 15])
def test_a_grain_pipeline_of_one_epoch_goes_on_through_epochs_and_restarts(tmp_path, killed_at):
    """Of five batches an epoch, each in an order of its own; it is Grain's own repeat, wherever it is interrupted."""
    examples = [{"x": row} for row in np.random.default_rng(0).standard_normal((42, 3)).astype(np.float32)]
    pipeline = grain.MapDataset.source(examples).shuffle(seed=1).batch(8, drop_remainder=True)
    whole = train(KEY, tmp_path / "whole", linear(), denoising, pipeline.repeat(), **settings(steps=20))
    folder = tmp_path / "parts"
    with pytest.raises(Killed):
        train(KEY, folder, linear(), denoising, pipeline, **settings(steps=20, on_log=kill_at(killed_at)))
    same_bits(train(KEY, folder, linear(), denoising, pipeline, **settings(steps=20)).params, whole.params)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([Batches()[0]] * 15, ValueError, r"batches\[39\] does not exist; .* has 15 batches for steps = 40"),
        ((batch for batch in [Batches()[0]]), TypeError, "a builtins.generator, which has no random access"),
        ([tuple(Batches()[0].values())] * 40, TypeError, r"batches\[0\] is a tuple; expected a dict of arrays"),
        ([Batches()[0], {"x": Batches()[1]["x"][:4]}] * 20, ValueError, r"batches\[1\] is x float32\[4, 3\]; expected"),
    ],
)
def test_batches_that_cannot_be_are_named(tmp_path, batches, error, message):
    with pytest.raises(error, match=message):
        train(KEY, tmp_path, linear(), denoising, batches, **settings())


def test_finished_run_returns_its_weights_without_training(finished):
    folder, once = finished
    log = (folder / "metrics.jsonl").read_bytes()
    twice = train(KEY, folder, linear(), denoising, None, **settings())
    same_bits(once.params, twice.params)
    assert (folder / "metrics.jsonl").read_bytes() == log


def test_save_broken_off_resumes_from_the_newest_complete(tmp_path):
    denoiser = linear()
    with pytest.raises(Killed):
        train(KEY, tmp_path, denoiser, denoising, Batches(), **settings(on_log=kill_at(25)))
    checkpoints = tmp_path / "checkpoints"
    torn = checkpoints / "25.draft"
    shutil.copytree(checkpoints / "20", torn)
    shutil.rmtree(torn / "arrays" / "state" / "d")
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "lo')
    started = []

    class Recorded(Batches):
        def __getitem__(self, step):
            started.append(step)
            return super().__getitem__(step)

    train(KEY, tmp_path, denoiser, denoising, Recorded(), **settings())
    assert sorted(started)[:2] == [0, 20]  # the first batch says whether the data are the same
    assert not torn.exists()
    assert [r["step"] for r in without_seconds(tmp_path)] == list(range(5, 41, 5))


def test_every_kind_of_optimizer_state_is_restored(tmp_path):
    noise = optax.add_noise(0.1, 0.5, jax.random.key(3))  # its state holds a key
    optimizer = optax.chain(noise, optax.inject_hyperparams(optax.adamw)(1e-2), optax.ema(0.9))
    step = make_step(linear(), denoising, optimizer)
    state, _ = step(TrainState.create(KEY, linear().params, optimizer), Batches()[0])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path) as checkpoints:
        same_bits(state, checkpoints.restore(TrainState.create(KEY, linear().params, optimizer)))


# The step


def test_ema_is_its_recursion():
    optimizer, decay = optax.sgd(0.5), 0.6
    step = make_step(vector(1.0, 2.0, 3.0), inner_product, optimizer, decay)
    state = TrainState.create(KEY, {"w": jnp.array([1.0, 2.0, 3.0])}, optimizer)
    w = ema = np.array([1.0, 2.0, 3.0])
    for k in range(30):
        batch = Batches()[k]
        state, _ = step(state, batch)
        w = w - 0.5 * batch["x"].mean(0, dtype=np.float64)
        d = min(decay, (1 + k) / (10 + k))
        ema = d * ema + (1 - d) * w
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
        np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-5)


def test_clipped_adam_is_its_closed_form():
    """Where every gradient is clipped to the same one, Adam moves each weight by the learning rate."""
    steps, rate = 20, 0.1
    optimizer = clipped_adam(steps, rate, warmup=0.25, clip=0.5)
    step = make_step(vector(0.0, 0.0), inner_product, optimizer)
    state = TrainState.create(KEY, {"w": jnp.zeros(2)}, optimizer)
    rising = rate * np.arange(1, 6) / 6
    falling = rate * (1 + np.cos(np.pi * np.arange(15) / 15)) / 2
    for k, lost in enumerate(np.cumsum([*rising, *falling])):
        gradient = 10.0 ** (k % 3) * np.array([3.0, -4.0])  # of norm 5, 50, 500: always above the clip
        state, metrics = step(state, {"x": np.tile(gradient.astype(np.float32), (8, 1))})
        np.testing.assert_allclose(metrics["grad_norm"], 5 * 10.0 ** (k % 3), rtol=1e-6)
        np.testing.assert_allclose(state.params["w"], [-lost, lost], rtol=1e-5)


def test_gradient_under_the_clip_is_left_alone():
    optimizer = optax.chain(*(optax.clip_by_global_norm(1.0), optax.sgd(1.0)))
    step = make_step(vector(0.0, 0.0), inner_product, optimizer)
    for scale, norm in ((0.1, 0.5), (10.0, 1.0)):
        state = TrainState.create(KEY, {"w": jnp.zeros(2)}, optimizer)
        state, _ = step(state, {"x": np.tile(np.float32([3 * scale, 4 * scale]), (8, 1))})
        np.testing.assert_allclose(state.params["w"], [-0.6 * norm, -0.8 * norm], rtol=1e-6)


def test_randomness_is_the_key_folded_with_the_step():
    def loss(denoiser, key, x0, cond):
        return jax.random.uniform(key) + 0 * inner_product(denoiser, key, x0)

    def prepare(key, batch):
        return batch["x"] + 0 * jax.random.uniform(key), None

    def losses_from(start, key):
        step = make_step(vector(1.0, 1.0, 1.0), loss, optax.sgd(1.0), prepare=prepare)
        state = TrainState.create(key, {"w": jnp.ones(3)}, optax.sgd(1.0))
        state = dataclasses.replace(state, step=jnp.int32(start))
        out = []
        for k in range(start, 6):
            state, metrics = step(state, Batches()[k])
            out.append(float(metrics["loss"]))
        return out

    whole = losses_from(0, KEY)
    assert len(set(whole)) == 6
    assert losses_from(3, KEY) == whole[3:]
    assert losses_from(0, jax.random.key(1)) != whole


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_is_the_whole_batch_where_there_is_no_noise(parts):
    loss = lambda denoiser, key, x0, cond: jnp.square(denoiser(x0) - cond[:, None]).mean(1)
    prepare = lambda key, batch: (batch["x"], batch["x"][:, 0] ** 2)
    results = []
    for accumulate in (1, parts):
        step = make_step(linear(), loss, optax.adam(1e-2), prepare=prepare, accumulate=accumulate)
        state = TrainState.create(KEY, linear().params, optax.adam(1e-2))
        losses = []
        for k in range(10):
            state, metrics = step(state, Batches()[k])
            losses.append((float(metrics["loss"]), float(metrics["grad_norm"])))
        results.append((losses, state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_parts_have_their_own_noise_and_every_example_is_in_one(tmp_path):
    """The gradient in w is the mean of x0 u, u drawn anew for each part; here x0 is one-hot, so that all show."""
    loss = lambda denoiser, key, x0, cond: x0 @ denoiser.params["w"] * jax.random.uniform(key)
    step = make_step(vector(*[0.0] * 8), loss, optax.sgd(8.0), accumulate=4)
    state, _ = step(TrainState.create(KEY, {"w": jnp.zeros(8)}, optax.sgd(8.0)), {"x": np.eye(8, dtype=np.float32)})
    drawn = -np.asarray(state.params["w"])
    assert (drawn > 0).all()
    np.testing.assert_array_equal(drawn[:4], drawn[4:])  # part i has examples i and i + 4
    assert len(set(drawn)) == 4


def test_a_batch_that_the_parts_do_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a batch of 8 is not a multiple of accumulate x devices = 3 x 1"):
        train(KEY, tmp_path, linear(), denoising, Batches(), **settings(accumulate=3))


def test_one_trace():
    counted = chex.assert_max_traces(denoising, n=1)
    chex.clear_trace_counter()
    optimizer = clipped_adam(100)
    model = Linear({"w": np.ones((3, 3)), "layer": {"b": jnp.asarray(0.0)}})
    step = make_step(model, counted, optimizer)
    state = TrainState.create(KEY, model.params, optimizer)
    for k in range(5):
        state, _ = step(state, Batches()[k])
    assert step._cache_size() == 1


def test_caller_keeps_its_weights_and_key():
    denoiser, key, optimizer = linear(), jax.random.key(5), optax.adam(1e-2)
    state = TrainState.create(key, denoiser.params, optimizer)
    make_step(denoiser, denoising, optimizer)(state, Batches()[0])
    assert all(part.is_deleted() for part in state.weights.parts)
    np.testing.assert_array_equal(denoiser.params["w"], np.full((3, 3), 0.1, np.float32))
    jax.random.normal(key)


def test_dtypes_stay_under_x64(x64):
    optimizer = clipped_adam(10)
    params = {"w": jnp.ones((3, 3), jnp.float32), "layer": {"b": jnp.zeros(3, jnp.bfloat16)}}
    step = make_step(Linear(params), denoising, optimizer)
    state = TrainState.create(KEY, params, optimizer)
    dtypes = jax.tree.map(lambda x: x.dtype, state)
    for k in range(2):
        state, _ = step(state, Batches()[k])
    assert jax.tree.map(lambda x: x.dtype, state) == dtypes


# Divergence

NAN = np.full((8, 3), np.nan, np.float32)
SPIKE = np.full((8, 3), 7.0, np.float32)


def broken_loss(denoiser, key, x0, cond):
    return denoising(denoiser, key, x0) + jnp.where(x0[:, 0] == 7.0, jnp.inf, 0.0)


def broken_gradient(denoiser, key, x0, cond):
    """√0 is finite, its derivative in b is not."""
    gone = jnp.where(x0[:, 0] == 7.0, 0.0, 1.0)
    return denoising(denoiser, key, x0) + jnp.sqrt(gone * (1.0 + denoiser.params["layer"]["b"][0] ** 2))


@pytest.mark.parametrize(
    ("loss", "bad", "where"),
    [
        (denoising, NAN, "example 0 of its batch, in the data"),
        (broken_loss, SPIKE, r"the loss of 8 of its 8 examples \(the first: 0\)"),
        (broken_gradient, SPIKE, r"the gradient of 1 of 2 parameter arrays \(the first: layer/b\)"),
    ],
)
def test_divergence_stops_says_where_and_keeps_the_last_good(tmp_path, loss, bad, where):
    message = rf"step 23 is not finite, first in {where}.*checkpoint at step 20 is kept.*lower the learning rate"
    with pytest.raises(Diverged, match=message) as caught:
        train(KEY, tmp_path, linear(), loss, Batches({23: bad}), **settings())
    assert caught.value.step == 23
    state = newest(tmp_path, linear(), clipped_adam(40))
    assert state.step == 20
    chex.assert_tree_all_finite((state.params, state.ema, state.opt_state))
    assert [r["step"] for r in without_seconds(tmp_path)] == [5, 10, 15, 20]


def test_repaired_data_continue_as_if_nothing_had_happened(finished, tmp_path):
    with pytest.raises(Diverged):
        train(KEY, tmp_path, linear(), denoising, Batches({23: NAN}), **settings())
    repaired = train(KEY, tmp_path, linear(), denoising, Batches(), **settings())
    same_bits(repaired.params, finished[1].params)
    assert without_seconds(tmp_path) == without_seconds(finished[0])


def test_update_that_overflows_is_divergence(tmp_path):
    with pytest.raises(
        Diverged, match=r"step 0 .* in the update of 1 of 1 parameter arrays .the first: w.*no checkpoint was saved yet"
    ):
        train(
            KEY,
            tmp_path,
            vector(0.0, 0.0, 0.0),
            inner_product,
            Batches({0: SPIKE}),
            **settings(optimizer=optax.sgd(1e38)),
        )
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest is None


def test_weights_that_are_not_finite_are_named(tmp_path):
    broken = Linear(linear().params | {"layer": {"b": jnp.array([0.0, jnp.inf, 0.0])}})
    with pytest.raises(Diverged, match=r"step 0 .* the value of 1 of 2 parameter arrays \(the first: layer/b\)"):
        train(KEY, tmp_path, broken, denoising, Batches(), **settings())


def test_state_holds_the_last_finite_weights():
    optimizer = optax.adam(1e-2)
    step = make_step(linear(), denoising, optimizer)
    states = [TrainState.create(KEY, linear().params, optimizer) for _ in range(2)]
    for k in range(6):
        states[0], _ = step(states[0], Batches({3: NAN})[k])
    for k in range(3):
        states[1], _ = step(states[1], Batches()[k])
    assert not states[0].finite
    assert states[0].step == 3
    same_bits(dataclasses.replace(states[0], finite=states[1].finite), states[1])


# Checkpoints and metrics


def test_load_params_gives_the_averaged_weights(finished):
    folder, trained = finished
    same_bits(load_params(folder, jax.eval_shape(lambda: linear().params)), trained.params)


@pytest.mark.parametrize("of", ["train", "load_params"])
def test_what_trained_weights_return_is_taken_without_compiling_again(finished, of):
    """The weights of a mesh would keep results where they are, and a function of them would need another program."""
    folder, trained = finished
    params = trained.params if of == "train" else load_params(folder, linear().params)
    function = jax.jit(lambda params, x: params["layer"]["b"] * x)
    x = function(params, jnp.ones(3))
    function(params, x)
    assert function._cache_size() == 1
    assert not any(leaf.committed for leaf in jax.tree.leaves(params))


def test_load_params_leaves_a_save_in_progress_alone(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    saving = tmp_path / "checkpoints" / "50.draft"
    saving.mkdir()
    load_params(tmp_path, linear().params)
    assert saving.exists()


def test_only_the_newest_checkpoints_are_kept(finished):
    assert sorted(os.listdir(finished[0] / "checkpoints")) == ["30", "40"]


def test_checkpoint_waits_for_a_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)  # Orbax wants absolute paths; ours may be relative
    train(
        KEY,
        tmp_path.name,
        linear(),
        denoising,
        Batches(),
        **settings(log_every=15, checkpoint_every=20, steps=44),
    )
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["30", "44"]
    assert [r["step"] for r in without_seconds(tmp_path)] == [15, 30, 44]


def test_logged_numbers_are_means_over_the_interval(tmp_path):
    seen = []
    train(
        KEY,
        tmp_path,
        vector(0.0, 0.0, 0.0),
        inner_product,
        Batches(),
        **settings(optimizer=optax.sgd(1.0), steps=12, on_log=lambda d, m: seen.append((d.params["w"].shape, m))),
    )
    gradients = [Batches()[k]["x"].mean(0, dtype=np.float64) for k in range(12)]
    w = np.cumsum([np.zeros(3), *[-g for g in gradients]], axis=0)
    losses = [g @ w[k] for k, g in enumerate(gradients)]
    norms = [np.linalg.norm(g) for g in gradients]
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert seen == [((3,), r) for r in records]
    for r, (a, b) in zip(records, [(0, 5), (5, 10), (10, 12)], strict=True):
        assert list(r) == ["step", "loss", "grad_norm", "seconds", "steps_per_second", "examples_per_second", "waiting"]
        np.testing.assert_allclose(r["examples_per_second"], 8 * r["steps_per_second"])
        np.testing.assert_allclose([r["loss"], r["grad_norm"]], [np.mean(losses[a:b]), np.mean(norms[a:b])], rtol=1e-5)


def test_slow_reading_is_in_the_metrics_and_said(tmp_path, monkeypatch):
    class Slow(Batches):
        def __getitem__(self, step):
            time.sleep(0.02)
            return super().__getitem__(step)

    monkeypatch.setattr(speed, "LONG", 0.05)
    with pytest.warns(UserWarning, match="training waits for its data"):
        train(KEY, tmp_path, linear(), denoising, Slow(), **settings(steps=10))
    assert all(0.5 < record["waiting"] <= 1 for record in read_metrics(tmp_path / "metrics.jsonl"))


def test_save_to_a_step_that_exists_is_an_error(tmp_path):
    state = TrainState.create(KEY, linear().params, optax.adam(1.0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(dataclasses.replace(state, step=jnp.int32(7)))
        for step in (7, 6):
            with pytest.raises(ValueError, match=rf"step {step} is not above step 7, the newest"):
                checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)))
        with pytest.raises(ValueError, match="not finite at step 8"):
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(8), finite=jnp.array(False)))


def test_failed_background_save_surfaces(tmp_path, monkeypatch):
    state = TrainState.create(KEY, linear().params, optax.adam(1.0))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def save():
        with monkeypatch.context() as patch, Checkpoints(tmp_path) as checkpoints:
            patch.setattr("os.rename", full)
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(7)))

    with pytest.raises(OSError, match="No space left"):
        save()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None


def test_checkpoint_errors(finished, tmp_path):
    like = linear().params
    with pytest.raises(FileNotFoundError, match="is not a run: it has no checkpoints"):
        load_params(tmp_path / "nowhere", like)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no complete checkpoint yet"):
        load_params(tmp_path / "empty", like)
    with pytest.raises(ValueError, match="keep = 0"):
        Checkpoints(tmp_path / "x", keep=0)

    shutil.copytree(finished[0], tmp_path / "run")
    with pytest.raises(ValueError, match=r"ema/layer/b has shape \(3,\) in the checkpoint and none here"):
        load_params(tmp_path / "run", {"w": like["w"]})
    with pytest.raises(ValueError, match=r"ema/w has shape \(3, 3\) in the checkpoint and \(4, 4\) here"):
        load_params(tmp_path / "run", like | {"w": jnp.ones((4, 4))})
    with pytest.raises(ValueError, match=r"state/opt_state.* in the checkpoint and .* here; use the settings"):
        train(KEY, tmp_path / "run", linear(), denoising, Batches(), **settings(optimizer=optax.sgd(1.0, 0.9)))
    with pytest.raises(ValueError, match=r"another key: \[0, 0\], now \[0, 1\].*accept .* by name: allow key"):
        train(jax.random.key(1), tmp_path / "run", linear(), denoising, Batches(), **settings())
    with pytest.raises(ValueError, match=r"steps = 30, but the run .* has 40 already"):
        train(KEY, tmp_path / "run", linear(), denoising, Batches(), **settings(steps=30))


def test_metrics_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        assert log.last == {}
        for step in (5, 10, 15):
            log.write({"step": step, "loss": 1 / step})
        with pytest.raises(ValueError, match="not JSON compliant"):
            log.write({"step": 20, "loss": float("nan")})
    with MetricsLog(path, 12) as log:
        assert log.last == {"step": 10, "loss": 0.1}
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5, 10]
    path.write_text('{"step": 5}\n{"step\n{"step": 15}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_metrics(path)


# Settings and data that cannot work


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0; expected a whole number above 0"),
        ({"steps": 2**31}, "steps = 2147483648; expected at most 2147483647"),
        ({"steps": 1.5}, r"steps = 1\.5; expected a whole number"),
        ({"log_every": -1}, "log_every = -1"),
        ({"steps": True}, "steps = True; expected a whole number"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0"),
        ({"ema_decay": 1.0}, r"ema_decay = 1\.0; expected 0 <= ema_decay < 1"),
    ],
)
def test_settings_are_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(KEY, tmp_path / "run", linear(), denoising, Batches(), **settings(**changes))
    assert not (tmp_path / "run").exists()


def test_counts_may_be_whole_numbers_of_numpy_and_jax(tmp_path):
    counts = {
        "steps": np.int64(4),
        "log_every": jnp.int32(2),
        "checkpoint_every": np.uint8(4),
        "accumulate": np.int32(1),
    }
    train(KEY, tmp_path, linear(), denoising, Batches(), **settings(**counts))
    assert [r["step"] for r in without_seconds(tmp_path)] == [2, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -1e-3}, r"learning_rate = -0\.001; expected a number above 0"),
        ({"clip": 0.0}, r"clip = 0\.0"),
        ({"warmup": 1.0}, r"warmup = 1\.0; expected a fraction"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_optimizer_settings_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        clipped_adam(**({"steps": 10} | arguments))


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, r"batches\[0\] does not exist: batches is empty"),
        ([{"x": np.zeros((0, 3), np.float32)}], ValueError, r"batches\[0\]\['x'\] has shape \(0, 3\)"),
        ([{"x": np.zeros((8, 3), np.uint8)}], TypeError, "x0 .* has dtype uint8; expected floating"),
        ([{"x": np.where(np.arange(8)[:, None] == 5, np.float32("nan"), NAN * 0 + 1)}], ValueError, "NaN"),
        ([{"image": np.zeros((8, 3), np.float32)}], KeyError, r"image.* and no \"x\"; name the data"),
    ],
)
def test_first_batch_is_checked(tmp_path, batches, error, message):
    with pytest.raises(error, match=message):
        train(KEY, tmp_path, linear(), denoising, batches, **settings())


def test_data_of_another_scale_are_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3)).astype(np.float32)
    with pytest.raises(
        ValueError, match=r"root mean square 1\d\d, but the denoiser has data_std = 0\.5; scale the data"
    ):
        train(KEY, tmp_path, linear(), denoising, [{"x": pixels}], **settings())
    assert not list(tmp_path.glob("checkpoints/*"))


def test_labels_out_of_range_are_refused_before_anything_is_compiled(tmp_path, monkeypatch):
    network, params = initialize(KEY, lambda rngs: MLP(3, hidden=(8,), classes=4, rngs=rngs))
    denoiser = jd.Denoiser(network, params, jd.VP())
    monkeypatch.setattr("jaxdiff.training.loop.make_step", lambda *a, **k: None)
    for label, message in ((7, "label 7 is out of range; expected 0 to 3"), (-1, "label -1 is out of range")):
        batch = {"x": 0.1 * np.ones((8, 3), np.float32), "label": np.full(8, label, np.int32)}
        with pytest.raises(ValueError, match=message):
            train(KEY, tmp_path, denoiser, jd.losses.Denoising(), [batch], **settings())


def test_state_and_loss_are_checked(tmp_path):
    with pytest.raises(TypeError, match="is not a typed key"):
        TrainState.create(jax.random.PRNGKey(0), linear().params, optax.sgd(1.0))
    with pytest.raises(TypeError, match="parameter a/count has dtype int32; expected a floating array"):
        TrainState.create(KEY, {"a": {"count": jnp.int32(0)}}, optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"loss gave shape \(\) for x0 \(8, 3\); expected one number per example"):
        train(KEY, tmp_path, linear(), lambda *a: denoising(*a).mean(), Batches(), **settings())
