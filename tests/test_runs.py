"""A run keeps what it learned of its data, and needs them no more."""

import contextlib
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import few_names
from PIL import Image
from test_cli import jaxdiff

import jaxdiff as jd
from jaxdiff import runs, training
from jaxdiff.data import read_rows, write_rows


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


def test_loading_draws_no_weights(moons, monkeypatch):
    monkeypatch.setattr(jd.networks, "initialize", lambda *_: pytest.fail("weights were drawn"))
    assert np.isfinite(runs.load(moons).denoiser(np.zeros((1, 2), np.float32), 0.5).data).all()


def test_what_a_run_cannot_use_is_refused_before_anything_is_written(moons, tmp_path):
    shutil.copytree(moons, tmp_path, dirs_exist_ok=True)
    run, config = runs.load(tmp_path), runs.read_config(tmp_path)
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match="steps = 1, but the run in .* has 2 already"):
        runs.train(dataclasses.replace(config, steps=1), tmp_path, progress=False, pictures=0)
    assert (tmp_path / "config.json").read_text() == written
    with pytest.raises(ValueError, match="budget = 3 is for pictures"):
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
    assert runs.Config(data="circles", condition="x, y").condition == ("x", "y")


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
    assert runs.load(old).known.data_std == runs.load(moons).known.data_std, "the weights go with that"
    (old / "data.json").unlink()
    (old / "config.json").write_text(json.dumps(other | {"data": "table('gone.csv')"}))
    with pytest.raises(ValueError, match="has no data.json: .*cannot be read .*gone.csv does not exist"):
        runs.load(old)


@pytest.mark.parametrize("damage", ['{"kind": "sounds"}', '{"kind": "rows"}', "{", '{"kind": "rows", "event": "ab"}'])
def test_a_damaged_data_json_is_named(moons, tmp_path, damage):
    broken = shutil.copytree(moons, tmp_path / "broken")
    (broken / "data.json").write_text(damage)
    with pytest.raises(ValueError, match=r"data.json"):
        runs.load(broken)


@pytest.mark.parametrize(
    "damage", [{"suffix": "/../../x"}, {"suffix": {}}, {"mean": [0.0]}, {"covariance": [[1.0]]}, {"event": [3]}]
)
def test_a_data_json_of_parts_that_do_not_fit_is_named(moons, tmp_path, damage):
    broken = shutil.copytree(moons, tmp_path / "broken")
    (broken / "data.json").write_text(json.dumps(json.loads((moons / "data.json").read_text()) | damage))
    with pytest.raises(ValueError, match=f"data.json is not the data.json of a run: .*{next(iter(damage))}"):
        runs.load(broken)


def made(folder):
    """A table of scales 1e-3 and 1e5 in folder/rows.csv, and pictures of two classes in folder/pictures."""
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal(MEAN, COVARIANCE, 400)
    write_rows(folder / "rows.csv", ("mass", "time", "force"), rows)
    for i in range(60):
        path = folder / "pictures" / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return rows


MEAN = np.array([0.002, 1e5, 3.0])
SPREAD = np.diag([1e-3, 40.0, 2.0])
COVARIANCE = SPREAD @ np.array([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.0]]) @ SPREAD
RUNS = {  # the data, and what is given
    "table": ("table('rows.csv')", ("mass", "force")),
    "pictures": ("folder('pictures', size=8)", ("label",)),
    "points": ("swiss_roll(noise=0.1)", ()),
}
NETWORKS = {"table": "mlp((8,))", "points": "mlp((8,))", "pictures": "mlp((8,))"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each kind, trained once, which is put into folder/run, with the data that `made` makes beside it."""

    @functools.cache
    def once(kind):
        folder = tmp_path_factory.mktemp(kind)
        data, condition = RUNS[kind]
        config = runs.Config(data=data, condition=condition, network=NETWORKS[kind], steps=2, batch_size=8)
        with contextlib.chdir(folder):
            made(Path())
            return folder, runs.train(config, "run", progress=False, pictures=0)

    def put(kind, folder):
        whole, run = once(kind)
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        return run

    return put


def same(run, other):
    assert (run.config, run.known) == (other.config, other.known)
    assert run.denoiser.data_std == other.denoiser.data_std
    jax.tree.map(np.testing.assert_array_equal, run.denoiser.params, other.denoiser.params)


@pytest.mark.parametrize("kind", few_names(RUNS, "pictures"))
def test_a_run_is_loaded_and_exported_without_its_data_elsewhere(kind, trained, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = trained(kind, Path())
    shutil.copytree("run", tmp_path / "there" / "copy")
    monkeypatch.chdir(tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    same(runs.load("copy"), run)
    runs.export(runs.load("copy"), "model")
    same(runs.load("model"), run)
    if kind != "points":
        with pytest.raises(ValueError, match="the data of the run cannot be read .*name others by --data"):
            runs.likelihood(run, "model")


def test_rows_come_back_as_the_file_had_them_under_a_condition(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = trained("table", Path())
    draw = "sample", "run", "--n", 3, "--steps", 2, "--json", "--condition"
    code, out, err = jaxdiff(monkeypatch, capsys, *draw, "mass=0.001,force=2")
    assert code == 0, err
    names, rows = read_rows(json.loads(out)["samples"])
    assert names == ("time",)
    cond = np.tile(run.known.columns.conditions({"mass": 0.001, "force": 2.0}), (3, 1))
    np.testing.assert_allclose(rows, run.restore(runs.draw(run, 3, steps=2, cond=cond)), rtol=1e-9)
    assert np.abs(rows - MEAN[1]).max() < 6 * SPREAD[1, 1]
    with warnings.catch_warnings(action="error"), pytest.raises(TypeError, match="cannot do without vector"):
        runs.draw(run, 3, steps=2)
    for condition, message in (
        (["mass=0.001"], "lacks 'force'"),
        (["mass=0.001,force=2,time=3"], "does not know 'time', which must be left out"),
        (["mass=heavy,force=2"], "could not convert string to float: 'heavy'"),
        ([], "the condition has the columns none; expected 'mass', 'force'"),
    ):
        code, _, err = jaxdiff(monkeypatch, capsys, *draw, *condition)
        assert code == 1
        assert message in err
        assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_without_its_data_draws_and_scores_the_same_to_the_bit(kind, tmp_path):
    """Each command in a process of its own; what is scored is another copy of the data."""
    data, condition = RUNS[kind]

    def run(where, *arguments):
        command = [sys.executable, "-m", "jaxdiff.cli", *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=where, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def numbers(where, folder):
        draw = {"table": ["--condition", "mass=0.001,force=2"], "pictures": ["--condition", "cats"], "points": []}[kind]
        found = run(where, "sample", folder, "--n", 3, "--steps", 3, *draw)
        samples = (where / found["samples"]).read_bytes()
        scored = ["--data", data] + (["--budget", 0] if kind == "pictures" else [])
        found = run(where, "likelihood", folder, "--limit", 4, *scored, "--flow", "probability_flow(rtol=.01)")
        return samples, [found.get(name) for name in ("bits_per_dim", "log_likelihood", "gaussian", "kind")]

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    made(here)
    settings = ["--network", NETWORKS[kind], "--steps", 2, "--batch-size", 8, "--pictures", 0]
    given = ["--condition", ",".join(condition)] if condition else []
    run(here, "train", "again", "--data", data, *given, *settings)
    before = numbers(here, "again")
    shutil.copytree(here / "again", there / "copy")
    shutil.rmtree(here)
    made(there)  # the same rows and pictures again
    run(there, "export", "copy", "model")
    assert numbers(there, "copy") == numbers(there, "model") == before


def test_a_label_is_its_number_or_the_name_of_its_class():
    config = runs.Config(condition=("label",))
    known = runs.Pictures((8, 8, 1), 0.5, 256, 3, ("cat", "dog", "label=owl"))
    for given in ("1", "dog", "label=1", "label = dog"):
        np.testing.assert_array_equal(known.condition(config, [given], 2), [1, 1])
    np.testing.assert_array_equal(known.condition(config, ["label=owl"], 1), [2])
    for wrong in ("3", "-1", "1.0", "cow", "9" * 5000):
        with pytest.raises(ValueError, match="expected one of cat, dog, label=owl, or 0 to 2"):
            known.condition(config, [wrong], 1)
    images = jd.data.Images(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int32), 256, 1)
    with pytest.raises(ValueError, match="all pictures are of one class; put each class into a sub-folder"):
        runs.learned(config, images)


def test_a_folder_of_the_library_s_own_train_says_who_knows_its_parts(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="has no config.json: jaxdiff.training.train wrote the run"):
        runs.load(tmp_path)


def test_what_joins_or_leaves_a_folder_of_pictures_changes_nothing_that_is_loaded(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained("pictures", Path())
    for path in (tmp_path / "pictures" / "cats").glob("*.png"):
        path.unlink()
    (tmp_path / "pictures" / "birds").mkdir()
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "pictures" / "birds" / "white.png")
    loaded = runs.load(tmp_path / "run")
    same(loaded, run)
    assert loaded.known.names == ("cats", "dogs")
    with pytest.raises(ValueError, match="the pictures have the classes birds; expected those of the run, cats, dogs"):
        runs.likelihood(loaded, tmp_path / "run", run.config.data, budget=0)


@pytest.mark.parametrize("condition", [pytest.param((), marks=pytest.mark.slow), ("time",)])
def test_nats_of_a_table_are_those_of_the_user_s_units(tmp_path, condition):
    """With the exact denoiser of the standardised rows in the network's place: SciPy's density of the raw ones."""
    rows = made(tmp_path)
    config = runs.Config(data=f"table({str(tmp_path / 'rows.csv')!r})", condition=condition)
    known = runs.learned(config, runs.read(config.data, "train", condition))
    scale, shift = np.array(known.columns.scale), np.array(known.columns.mean)
    order = [known.columns.names.index(name) for name in known.columns.modelled]
    at = [known.columns.names.index(name) for name in condition]
    gain = (
        COVARIANCE[np.ix_(order, at)] @ np.linalg.inv(COVARIANCE[np.ix_(at, at)]) if at else np.zeros((len(order), 0))
    )
    rest = COVARIANCE[np.ix_(order, order)] - gain @ COVARIANCE[np.ix_(at, order)]
    mean = lambda given: MEAN[order] + (given - MEAN[at]) @ gain.T
    exact = Given(
        process=config.process,
        slope=jnp.asarray((gain * scale[at]) / scale[order][:, None], jnp.float32),
        mean=jnp.asarray((mean(shift[at]) - shift[order]) / scale[order], jnp.float32),
        covariance=jnp.asarray(rest / np.outer(scale[order], scale[order]), jnp.float32),
    )
    run = runs.Run(config, known, exact)
    flow = jd.samplers.ProbabilityFlow(rtol=1e-5, atol=1e-5)
    write_rows(tmp_path / "few.csv", ("mass", "time", "force"), rows[:50])
    few = runs.Config(data=f"table({str(tmp_path / 'few.csv')!r})").data
    figures = runs.likelihood(run, tmp_path, few, flow=flow, trace=jd.likelihood.Exact())
    truth = [scipy.stats.multivariate_normal(mean(row[at]), rest).logpdf(row[order]) for row in rows[:50]]
    assert figures["log_likelihood"] == pytest.approx(np.mean(truth), abs=2e-3)
    assert figures["standard_error"] == pytest.approx(np.std(truth, ddof=1) / 50**0.5, abs=2e-3)
    # the Gaussian that was fitted to 360 rows is a little worse than the one they were drawn from
    assert figures["gaussian"] == pytest.approx(np.mean(truth), abs=0.1)


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Given:
    """The exact denoiser of N(slope y + mean, covariance) given y."""

    process: jd.Process
    slope: jax.Array
    mean: jax.Array
    covariance: jax.Array

    def __call__(self, x, t, cond=None):
        alpha, sigma = (jnp.reshape(jnp.broadcast_to(c, x.shape[:1]), (-1, 1, 1)) for c in self.process.marginal(t))
        mean = self.mean + (0 if cond is None else cond @ self.slope.T)
        spread = alpha**2 * self.covariance + sigma**2 * jnp.eye(x.shape[1])
        away = jnp.linalg.solve(spread, (x - alpha[:, 0] * mean)[..., None])
        return jd.Prediction(mean + (alpha * self.covariance @ away)[..., 0], (sigma * away)[..., 0])


@pytest.fixture
def by_both(tmp_path, monkeypatch, capsys):
    """The same training by the command and by the library, of so many steps in a folder."""
    words = ["--data", "circles", "--network", "mlp((8,))", "--loss", "denoising(min_snr)", "--batch-size", "8"]
    config = lambda steps: runs.Config(
        data="circles", network="mlp((8,))", loss="denoising(min_snr)", batch_size=8, steps=steps
    )
    command = lambda folder, steps: jaxdiff(
        monkeypatch, capsys, "train", tmp_path / folder, *words, "--steps", steps, "--pictures", 0, "--json"
    )
    return command, lambda folder, steps: runs.train(config(steps), tmp_path / folder, progress=False, pictures=0)


def test_the_command_and_the_library_train_one_run(tmp_path, by_both):
    command, train = by_both
    assert command("a", 4)[0] == 0
    train("b", 4)
    made_of = [training.recorded_identity(tmp_path / folder) for folder in "ab"]
    assert made_of[0] == made_of[1]
    for name in ("config.json", "data.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    jax.tree.map(np.testing.assert_array_equal, *(runs.load(tmp_path / folder).denoiser.params for folder in "ab"))


@pytest.mark.slow
def test_a_run_of_the_command_goes_on_by_the_library_and_the_other_way_round(tmp_path, by_both):
    command, train = by_both
    assert command("a", 4)[0] == 0
    train("b", 4)
    (tmp_path / "a/evaluation.json").write_text("{}")
    train("a", 4)
    assert (tmp_path / "a/evaluation.json").exists()
    with pytest.warns(UserWarning, match="warm restart"):
        train("a", 6)
    assert not (tmp_path / "a/evaluation.json").exists()  # of another model
    with pytest.warns(UserWarning, match="warm restart"):
        assert command("b", 6)[0] == 0
    jax.tree.map(np.testing.assert_array_equal, *(runs.load(tmp_path / folder).denoiser.params for folder in "ab"))


def test_what_a_notebook_gives_is_loaded_by_the_command_line(tmp_path, monkeypatch, capsys):
    images = jd.data.load_digits()
    config = runs.Config(data=None, network="mlp((8,))", steps=2, batch_size=8)
    runs.train(config, tmp_path / "run", images, progress=False, pictures=0)
    code, _, err = jaxdiff(monkeypatch, capsys, "sample", tmp_path / "run", "--n", 2, "--steps", 2, "--json")
    assert code == 0, err
    code, _, err = jaxdiff(monkeypatch, capsys, "likelihood", tmp_path / "run", "--json")
    assert code == 1
    assert "data = None: the data were given by a script; name a data set" in err
    with pytest.raises(ValueError, match="config.data = None, and no data were given; expected one of them"):
        runs.train(config, tmp_path / "none")
    with pytest.raises(ValueError, match=r"config.data is digits, and data were given; .* give Config\(data=None\)$"):
        runs.train(dataclasses.replace(config, data="digits"), tmp_path / "none", images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "loss"),
    [("vp", "hybrid(steps=10)"), ("learned_vp", "least_variance(denoising(likelihood))")],
)
def test_a_loss_trains_the_model_that_it_is_of(tmp_path, process, loss):
    config = runs.Config(data="circles", network="mlp((8,))", process=process, loss=loss, steps=2, batch_size=8)
    run = runs.train(config, tmp_path, progress=False, pictures=0)
    same(runs.load(tmp_path), run)
    sampler = jd.samplers.Ancestral("learned") if process == "vp" else jd.samplers.DDIM()
    assert np.isfinite(runs.draw(runs.load(tmp_path), 3, sampler, steps=3)).all()


def test_a_loss_of_bridges_is_refused(tmp_path):
    config = runs.Config(data="circles", loss="bridge_matching")
    with pytest.raises(ValueError, match="loss = bridge_matching trains a bridge"):
        runs.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def a_table(path, rows):
    write_rows(path, ("mass", "time", "force"), rows)
    return f"table({str(path)!r})"


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_rows_keeps_the_means_and_scales_it_began_with(tmp_path):
    """The rows that it goes on with are standardised by the scale by which its samples are restored."""
    rows = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 200)
    config = runs.Config(data=a_table(tmp_path / "rows.csv", rows), network="mlp((4,))", steps=1, batch_size=8)
    runs.train(config, tmp_path / "run", progress=False, pictures=0)
    kept = (tmp_path / "run/data.json").read_text()
    a_table(tmp_path / "rows.csv", MEAN + 3 * (rows - MEAN))
    with pytest.warns(UserWarning, match="warm restart"):
        run = runs.train(
            dataclasses.replace(config, steps=2), tmp_path / "run", allow=("data",), progress=False, pictures=0
        )
    assert (tmp_path / "run/data.json").read_text() == kept
    source = jd.data.Table(tmp_path / "rows.csv", "train")
    np.testing.assert_allclose(run.restore(run.known.examples(source)["x"]), source.values, rtol=1e-5)
    (tmp_path / "run/data.json").unlink()  # as before there was one: what it began with is not what there is now
    a_table(tmp_path / "rows.csv", rows[::2])
    with pytest.raises(ValueError, match="holds a run with another data"):
        runs.train(dataclasses.replace(config, steps=3), tmp_path / "run", progress=False, pictures=0)
    assert not (tmp_path / "run/data.json").exists()


def test_a_run_that_is_refused_is_still_the_run_that_it_was(moons, tmp_path):
    run = shutil.copytree(moons, tmp_path / "run")
    files = {path: path.read_bytes() for path in (run / "config.json", run / "data.json")}
    config = dataclasses.replace(runs.read_config(run), network="mlp(hidden=(5,))")
    with pytest.raises(ValueError, match="does not fit this model"):
        runs.train(config, run, allow=("network",), progress=False, pictures=0)
    assert {path: path.read_bytes() for path in files} == files
    runs.load(run)


def test_other_pictures_that_a_run_cannot_go_on_with_are_refused(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained("pictures", Path())
    for folder, size, message in (
        ("pictures", 4, r"event = \(8, 8, 3\), now \(4, 4, 3\)"),
        ("more", 8, "classes = 2, now 3"),
    ):
        if folder == "more":
            shutil.copytree("pictures", "more")
            shutil.copytree("pictures/cats", "more/birds")
        config = dataclasses.replace(run.config, data=f"folder({folder!r}, size={size})", steps=4)
        with pytest.raises(ValueError, match=f"holds a run whose data have {message}"):
            runs.train(config, "run", allow=("data",), progress=False, pictures=0)
    same(runs.load("run"), run)


def test_what_is_no_row_of_the_model_is_told_in_a_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = trained("table", Path())
    for given, message in ((["mass=1,force=2", "mass=3"], "expected each column once"), (["mass = x"], "name=number")):
        with pytest.raises(ValueError, match=message):
            run.known.condition(run.config, given, 1)
    np.testing.assert_array_equal(
        *(run.known.condition(run.config, [g], 2) for g in ("mass = 1, force=2", "mass=1,force=2"))
    )
    write_rows("far.csv", ("mass", "time", "force"), np.array([[0.002, 1e33, 3.0]]))
    with pytest.raises(ValueError, match="the flow converged for none of 1 rows"):
        runs.likelihood(run, "run", jd.vocabulary.parse("table('far.csv')", jd.vocabulary.Data))


@pytest.mark.slow
def test_of_an_older_model_a_summary_holds_nothing(moons, tmp_path):
    run = shutil.copytree(moons, tmp_path / "run")
    found = [runs.likelihood(runs.load(run), run, split=split, limit=2) for split in ("test", "train")]
    lines = [json.loads(line) for line in (run / "likelihoods.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["test", "train"]
    assert all(line.items() <= summary.items() for line, summary in zip(lines, found))
    train = lambda steps: runs.train(
        dataclasses.replace(runs.read_config(run), steps=steps), run, progress=False, pictures=0
    )
    train(2)
    assert "log_likelihood" in runs.read_summary(run)
    with pytest.warns(UserWarning, match="warm restart"):
        train(3)
    assert "log_likelihood" not in runs.read_summary(run)
    assert [json.loads(line) for line in (run / "likelihoods.jsonl").read_text().splitlines()] == lines


def test_several_labels_are_drawn_in_turn_and_pictured_in_a_row_each(tmp_path, monkeypatch):
    pictures = runs.Pictures((8, 8, 1), 0.5, 17, 3, ("cat", "a, b", "7"))
    config = runs.Config(condition=("label",))
    cond = lambda *given, n=5: pictures.condition(config, given, n).tolist()
    assert cond("cat", "2") == cond("cat,2") == cond("label=cat, 7") == [0, 2, 0, 2, 0]
    assert cond("a, b") == cond("label=a, b") == cond("1") == [1] * 5
    assert cond("7", "a, b", n=2) == [2, 1]
    for wrong in ("dog", "cat,dog", "3", "cat,"):
        with pytest.raises(ValueError, match="label = .*; expected one of cat, a, b, 7, or 0 to 2"):
            cond(wrong)
    shown = []
    monkeypatch.setattr(jd.plotting, "sample_grid", lambda *given, **more: shown.append((given, more)))
    labels = np.array(cond("7", "cat", n=9))
    pictures.picture(labels.astype(float) + np.arange(9) / 100, None, tmp_path, cond=labels)
    x, _, columns, _, names = shown[0][0]
    assert (columns, names) == (4, ["7", "cat"])
    np.testing.assert_allclose(x, [2.0, 2.02, 2.04, 2.06, 0.01, 0.03, 0.05, 0.07])
    pictures.picture(np.zeros(9), None, tmp_path, "one", cond=np.zeros(9, int))
    assert shown[1] == ((shown[1][0][0], tmp_path), {"title": "one"})
