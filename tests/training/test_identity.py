"""A run goes on, or gives its weights back, only for the parts it was made of; each that differs is named."""

import dataclasses
import importlib.metadata
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.networks import MLP, initialize
from jaxdiff.training import TrainState, clipped_adam, make_step, train
from jaxdiff.training.identity import as_recorded_now

KEY = jax.random.key(0)
SCALE = 1.0


class Points:
    """x [8, 2] for any step, drawn from the step, times `scale`."""

    def __init__(self, scale=0.5):
        self.scale = scale

    def __getitem__(self, step):
        return {"x": self.scale * np.random.default_rng(step).standard_normal((8, 2)).astype(np.float32)}


def network(act=jnp.tanh):
    return lambda params, x, c_noise, cond: act(x @ params["w"])


def denoiser(dtype=jnp.float32, weight=0.1, **changes):
    fields = {"network": network(), "params": {"w": weight * jnp.ones((2, 2), dtype)}, "process": jd.VP()}
    return jd.Denoiser(**fields | changes)


def prepare(scale=1.0):
    return lambda key, batch: (scale * batch["x"], None)


def scaled(key, batch):
    return SCALE * batch["x"], None


def settings(**changes):
    return {"optimizer": optax.adam(1e-2), "log_every": 5, "checkpoint_every": 5, "progress": False} | changes


def go(folder, model=None, loss=jd.losses.Denoising(), batches=None, key=KEY, steps=10, **changes):
    model = denoiser() if model is None else model
    batches = Points() if batches is None else batches
    return train(key, folder, model, loss, batches, **settings(steps=steps, **changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, go(folder)


CHANGES = {
    "process": {"model": denoiser(process=jd.SubVP())},
    "process, a number": {"model": denoiser(process=jd.VP(0.1, 10.0))},
    "parameterization": {"model": denoiser(parameterization="noise")},
    "data_std": {"model": denoiser(data_std=0.4)},
    "network": {"model": denoiser(network=network(jnp.sin))},
    "initial_weights": {"model": denoiser(weight=0.11)},
    "weights": {"model": denoiser(jnp.bfloat16)},
    "loss": {"loss": jd.losses.Denoising(jd.losses.weightings.MinSNR())},
    "optimizer": {"optimizer": optax.adam(1.1e-2)},
    "ema_decay": {"ema_decay": 0.9995},
    "accumulate": {"accumulate": 2},
    "prepare": {"prepare": prepare()},
    "key": {"key": jax.random.key(1)},
    "first_batch": {"batches": Points(1.5)},
    "identity": {"identity": {"identity": "mine"}},
}


@pytest.mark.parametrize("steps", [10, 15], ids=["finished", "half done"])
@pytest.mark.parametrize(("part", "change"), CHANGES.items(), ids=CHANGES)
def test_another_part_is_refused_by_its_name(run, part, change, steps):
    name = part.partition(",")[0]
    with pytest.raises(ValueError, match=rf"holds a run with another .*\b{name}: .*, now .* allow=\(.*'{name}'"):
        go(run[0], steps=steps, **change)


def test_all_of_the_data_count_where_jaxdiff_makes_the_batches(tmp_path):
    x = 0.5 * np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32)
    of = lambda x: jd.data.batches({"x": x}, 8, 0)
    later = x.copy()
    (unseen, *_) = [i for i in range(16) if not (of(x)[0]["x"] == x[i]).all(1).any()]
    later[unseen] += 1.0
    np.testing.assert_array_equal(of(x)[0]["x"], of(later)[0]["x"])
    twice = lambda batch: {"x": 2 * batch["x"]}
    for name, batches in (("a", of), ("b", lambda x: of(x).map(twice))):
        go(tmp_path / name, batches=batches(x))
        go(tmp_path / name, batches=batches(x))
        with pytest.raises(ValueError, match=r"another data: \w{64}, now \w{64}\. .*allow=\('data',\)"):
            go(tmp_path / name, batches=batches(later))
        go(tmp_path / name, batches=batches(later), allow=("data",))


def test_a_refusal_gives_both_values(run):
    with pytest.raises(ValueError, match=re.escape("process: VP(beta_min=0.1, beta_max=20.0) #")) as error:
        go(run[0], denoiser(process=jd.VP(0.1, 10.0)))
    assert "now VP(beta_min=0.1, beta_max=10.0) #" in str(error.value)
    with pytest.raises(ValueError, match=r"optimizer: .*b1=0\.9.*, now .*b1=0\.8"):
        go(run[0], optimizer=optax.adam(1e-2, b1=0.8))


def test_what_prepare_reads_of_its_module_counts(tmp_path, monkeypatch):
    go(tmp_path, prepare=scaled)
    go(tmp_path, prepare=scaled)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    with pytest.raises(ValueError, match="another prepare"):
        go(tmp_path, prepare=scaled)


def test_the_same_call_gives_the_weights_of_a_finished_run(run):
    folder, trained = run
    for again in (go(folder), train(KEY, folder, denoiser(), jd.losses.Denoising(), None, **settings(steps=10))):
        np.testing.assert_array_equal(again.params["w"], trained.params["w"])
    with pytest.raises(TypeError, match="batches = None, but the run in .* has 10 of its 15 steps"):
        train(KEY, folder, denoiser(), jd.losses.Denoising(), None, **settings(steps=15))


def test_an_allowed_difference_is_accepted_and_recorded(run, tmp_path):
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    go(tmp_path, optimizer=optax.adam(2e-2), steps=15, allow=("optimizer",))
    go(tmp_path, optimizer=optax.adam(2e-2), steps=15)
    with pytest.raises(ValueError, match="another optimizer"):
        go(tmp_path, steps=15)
    with pytest.raises(TypeError, match=r'allow = "optimizer"; expected .* allow=\("optimizer",\)'):
        go(tmp_path, allow="optimizer")


def test_a_name_that_no_part_has_cannot_be_allowed(run, tmp_path):
    for folder in (tmp_path, run[0]):
        with pytest.raises(ValueError, match=r"allow has optimiser, which is not a part of this run; .*loss, .*optim"):
            go(folder, allow=("optimizer", "optimiser"))
    for allow in (("loss", 3), 3, None):
        with pytest.raises(TypeError, match="allow = .*; expected names in a tuple"):
            go(tmp_path, allow=allow)
    go(run[0], allow=["first_batch", "condition_dropout"])


@pytest.mark.slow
def test_a_run_that_is_given_what_it_returned_goes_on(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "a")
    shutil.copytree(run[0], tmp_path / "b")
    given = go(tmp_path / "a", run[1], steps=15)
    np.testing.assert_array_equal(given.params["w"], go(tmp_path / "b", steps=15).params["w"])
    np.testing.assert_array_equal(go(tmp_path / "a", steps=20).params["w"], go(tmp_path / "b", steps=20).params["w"])


@pytest.mark.slow
def test_networks_of_flax_and_denoisers_of_ones_own_are_compared(tmp_path):
    def flax(width, key=KEY):
        net, params = initialize(key, lambda rngs: MLP(2, hidden=(width,), rngs=rngs))
        return jd.Denoiser(net, params, jd.VP())

    go(tmp_path / "flax", flax(4))
    with pytest.raises(ValueError, match="another initial_weights"):
        go(tmp_path / "flax", flax(4, jax.random.key(1)))
    bridge = lambda sigma: jd.Bridge(lambda p, x, c, cond: (x @ p["w"], x), {"w": jnp.ones((2, 2))}, sigma)
    go(tmp_path / "bridge", bridge(1.0), jd.losses.BridgeMatching())
    with pytest.raises(ValueError, match=r"another sigma: 1\.0, now 2\.0"):
        go(tmp_path / "bridge", bridge(2.0), jd.losses.BridgeMatching())


def test_the_callers_own_parts_are_json_of_other_names(tmp_path):
    for identity, error in (({"loss": "mine"}, ValueError), ({"x": KEY}, TypeError), ({"x": float("nan")}, TypeError)):
        with pytest.raises(error, match="identity"):
            go(tmp_path / "a", identity=identity)
    go(tmp_path / "b", identity={"pair": (1, 2.5)})
    go(tmp_path / "b", identity={"pair": [1, 2.5]})  # as JSON they are one


def test_a_source_tree_without_an_installed_package_trains(tmp_path, monkeypatch):
    version = importlib.metadata.version

    def uninstalled(name):
        if name == "jaxdiff":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", uninstalled)
    go(tmp_path)
    sealed = json.loads((tmp_path / "checkpoints" / "10" / "manifest.json").read_text())
    assert sealed["content"]["identity"]["jaxdiff"] == "not installed"


# More steps


def test_added_steps_have_a_schedule_of_their_own(tmp_path):
    """Where every gradient is clipped to the same one, Adam moves each weight by the learning rate."""
    rate = 0.1
    optimizer = clipped_adam((5, 15), rate, warmup=0.4, clip=0.5)
    loss = lambda model, key, x0, cond: x0 @ model.params["w"]
    model = denoiser(params={"w": jnp.zeros(2)})
    step = make_step(model, loss, optimizer)
    state = TrainState.create(KEY, model.params, optimizer)
    one = lambda rising, falling: [
        *rate * np.arange(1, rising + 1) / (rising + 1),
        *rate * (1 + np.cos(np.pi * np.arange(falling) / falling)) / 2,
    ]
    for lost in np.cumsum([*one(2, 3), *one(4, 6)]):
        state, _ = step(state, {"x": np.tile(np.float32([3.0, -4.0]), (8, 1))})
        np.testing.assert_allclose(state.params["w"], [-lost, lost], rtol=1e-5)


@pytest.mark.slow
def test_a_longer_run_by_default_restarts_its_schedule_says_so_and_is_reproducible(tmp_path):
    def kill(model, metrics):
        if metrics["step"] == 15:
            raise InterruptedError

    default = {"optimizer": None}
    longer = pytest.warns(UserWarning, match=r"ends at 10 steps; the steps from there to 20 get a schedule")
    for name in ("a", "b"):
        go(tmp_path / name, **default)
    with longer:
        whole = go(tmp_path / "a", steps=20, **default)
    with longer, pytest.raises(InterruptedError):
        go(tmp_path / "b", steps=20, on_log=kill, **default)
    parts = go(tmp_path / "b", steps=20, **default)  # goes on, and has nothing new to say
    np.testing.assert_array_equal(whole.params["w"], parts.params["w"])
    at_once = go(tmp_path / "c", steps=20, optimizer=clipped_adam((10, 20)))
    np.testing.assert_allclose(whole.params["w"], at_once.params["w"], rtol=1e-5)


def test_a_run_asked_for_fewer_steps_stays_on_its_schedule(tmp_path):
    def kill(model, metrics):
        if metrics["step"] == 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        go(tmp_path / "a", steps=20, optimizer=None, on_log=kill)
    go(tmp_path / "a", steps=15, optimizer=None)
    parts, whole = (go(tmp_path / name, steps=20, optimizer=None) for name in ("a", "b"))
    np.testing.assert_array_equal(parts.params["w"], whole.params["w"])


def test_an_optimizer_may_be_a_function_of_the_steps(tmp_path):
    planned = []

    def plan(ends):
        planned.append(ends)
        return clipped_adam(ends, 1e-2)

    go(tmp_path, optimizer=plan)
    with pytest.warns(UserWarning, match="ends at 10 steps"):
        go(tmp_path, optimizer=plan, steps=20)
    assert planned[-1] == (10, 20)
    with pytest.raises(TypeError, match="expected one of optax"):
        go(tmp_path / "b", optimizer=3)
    with pytest.raises(ValueError, match=r"steps = \(20, 10\); expected one whole number, or several that rise"):
        clipped_adam((20, 10))


def test_the_denoiser_itself_is_no_part_but_its_weights_and_fields_are(run):
    relabelled = dataclasses.replace(denoiser(), condition_dropout=0.1)
    go(run[0], relabelled)


def test_runs_from_before_losses_dropped_conditions_go_on_unless_they_dropped_labels(run, monkeypatch):
    for share in (None, 0.0):
        assert as_recorded_now({"label_dropout": share}) == {"condition_dropout": share}
    monkeypatch.setattr(
        "jaxdiff.training.loop.as_recorded_now", lambda kept: as_recorded_now(kept | {"label_dropout": 0.1})
    )
    for allow in ((), ("label_dropout",)):
        with pytest.raises(ValueError, match=r"began before losses.ConditionDropout .*label_dropout = 0\.1.*Finish it"):
            go(run[0], allow=allow)
