"""Runs that somebody handed over, that were begun and left, or that lie in the home folder, by the command line."""

import json
import os
import shutil

import numpy as np
import pytest
from test_cli import jaxdiff

from jaxdiff.vocabulary import Network, parse, write

TOY = ["--data", "two_moons", "--steps", "4", "--network", "mlp((8,))", "--batch-size", "16", "--json"]
SAMPLE = ["--n", "4", "--steps", "2", "--json"]
SCORE = ["--limit", "3", "--budget", "0", "--flow", "probability_flow(rtol=1e-2, atol=1e-2)", "--json"]
DIGITS = ["--steps", "1", "--batch-size", "8", "--pictures", "0", "--json", "--network"]
SMALL = "mlp((4,))"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run of points, sampled from once."""
    folder = tmp_path_factory.mktemp("toy") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for arguments in (("train", folder, *TOY, "--pictures", "0"), ("sample", folder, *SAMPLE)):
            assert call(patch, *arguments) == (0, "")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of images, with a record of likelihoods."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for arguments in (("train", folder, *DIGITS, SMALL), ("likelihood", folder, *SCORE)):
            assert call(patch, *arguments) == (0, "")
    return folder


class Caught:
    """What `jaxdiff` of test_cli needs of capsys, where a fixture has none."""

    @staticmethod
    def readouterr():
        from types import SimpleNamespace

        return SimpleNamespace(out="", err="")


def call(monkeypatch, *arguments):
    code, _, err = jaxdiff(monkeypatch, Caught, *arguments)
    return code, err


@pytest.fixture
def outside(tmp_path):
    """Files of somebody's, and a check that they are as they were."""
    folder = tmp_path / "outside"
    (folder / "0123456789abcdef").mkdir(parents=True)
    for name in ("thesis", "0123456789abcdef/thesis"):
        (folder / name).write_bytes(b"mine")
    yield folder
    assert sorted(path.name for path in folder.iterdir()) == ["0123456789abcdef", "thesis"]
    assert all(path.read_bytes() == b"mine" for path in folder.rglob("thesis"))


def all_linked(folder, outside, names):
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / "thesis")


def test_sampling_writes_files_of_its_own_where_links_are(toy, tmp_path, outside, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(toy, folder)
    names = ("samples.npy", "samples.png", "samples.tmp.npy", "failure.json")
    all_linked(folder, outside, names)
    code, _, err = jaxdiff(monkeypatch, capsys, "sample", folder, *SAMPLE)
    assert code == 0, err
    assert not any((folder / name).is_symlink() for name in names[:2])
    np.testing.assert_array_equal(np.load(folder / "samples.npy"), np.load(toy / "samples.npy"))


def test_sampling_deletes_nothing_that_a_link_leads_to(toy, tmp_path, outside, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(toy, folder)
    (folder / "samples.partial").symlink_to(outside)
    code, _, err = jaxdiff(monkeypatch, capsys, "sample", folder, *SAMPLE)
    assert code == 1
    assert "samples.partial is a symbolic link; expected a folder of this run: remove it" in err


@pytest.mark.slow
def test_a_likelihood_writes_files_of_its_own_where_links_are(digits, tmp_path, outside, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(digits, folder)
    (record,) = folder.glob("likelihood_*.npz")
    with np.load(record) as file:
        begun = {name: file[name] if name == "settings" else file[name][:1] for name in file.files}
    np.savez(tmp_path / "begun.npz", **begun)
    before = (tmp_path / "begun.npz").read_bytes(), (folder / "summary.json").read_bytes()
    shutil.move(folder / "summary.json", tmp_path / "summary.json")
    record.unlink()
    record.symlink_to(tmp_path / "begun.npz")
    (folder / "summary.json").symlink_to(tmp_path / "summary.json")
    code, _, err = jaxdiff(monkeypatch, capsys, "likelihood", folder, *SCORE)
    assert code == 0, err
    assert before == ((tmp_path / "begun.npz").read_bytes(), (tmp_path / "summary.json").read_bytes())
    assert len(np.load(record)["example"]) == 3
    record.unlink()
    record.symlink_to(outside / "thesis")
    assert "is not a record of likelihoods" in jaxdiff(monkeypatch, capsys, "likelihood", folder, *SCORE)[2]


@pytest.mark.slow
def test_training_writes_files_of_its_own_where_links_are(toy, tmp_path, outside, monkeypatch, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copyfile(toy / "config.json", folder / "config.json")
    names = (
        "samples.png",
        "density.png",
        "training.png",
        "data.json",
        "config.tmp",
        "summary.tmp",
        "metrics.jsonl.tmp",
    )
    all_linked(folder, outside, names)
    code, _, err = jaxdiff(monkeypatch, capsys, "train", folder, *TOY, "--tensorboard")
    assert code == 0, err
    assert not any((folder / name).is_symlink() for name in names[:4])
    for name in ("tensorboard", "checkpoints"):
        shutil.rmtree(folder / name)
        (folder / name).symlink_to(outside)
        code, _, err = jaxdiff(monkeypatch, capsys, "train", folder, *TOY, "--tensorboard")
        assert (code, f"{name} is a symbolic link" in err) == (1, True), err
        (folder / name).unlink()


# What a start that came to nothing leaves


@pytest.mark.slow
def test_a_first_try_that_fails_does_not_refuse_the_corrected_command(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    code, _, err = jaxdiff(monkeypatch, capsys, "train", folder, *DIGITS, "unet((4, 4, 4, 4, 4))")
    assert code == 1, "digits of 8 pixels have no five levels"
    code, _, err = jaxdiff(monkeypatch, capsys, "train", folder, *DIGITS, SMALL)
    assert code == 0, err
    before, now = (write(parse(text, Network), Network, whole=True) for text in (SMALL, "mlp((8,))"))
    assert json.loads((folder / "config.json").read_text())["network"] == before
    code, _, err = jaxdiff(monkeypatch, capsys, "train", folder, *DIGITS, "mlp((8,))")
    assert f"(network: {before!r}, now {now!r})" in err, "from the first checkpoint on it binds"


def test_settings_are_accepted_by_their_names_in_the_config(toy, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(toy, folder)
    other = ["--learning-rate", "1e-3", "--loss", "denoising(times=uniform)", "--seed", "3", "--batch-size", "8"]
    other += ["--process", "ou"]
    command = ["train", folder, *TOY, "--pictures", "0"]
    code, _, err = jaxdiff(monkeypatch, capsys, *command, *other)
    assert (code, "allow process loss batch_size learning_rate seed" in err) == (1, True), err
    allowed = ["--allow", "learning_rate", "loss", "seed", "batch_size", "process"]
    code, _, err = jaxdiff(monkeypatch, capsys, *command, *other, *allowed)
    assert code == 0, err
    code, _, err = jaxdiff(monkeypatch, capsys, *command, *other, "--allow", "learning_rates")
    assert (code, "allow has learning_rates, which is not a part of this run" in err) == (1, True), err


def test_what_an_aborted_start_leaves_does_not_lock_the_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / ".config.json.0123abcd.tmp").write_text('{"data"')
    for name in ("config.tmp", "failure.json", "lock", ".checkpoints.unsaved"):
        (tmp_path / name).write_text("")
    code, _, err = jaxdiff(monkeypatch, capsys, "train", tmp_path, *TOY, "--pictures", "0")
    assert code == 0, err
    model = tmp_path / "model"
    model.mkdir()
    (model / ".weights.safetensors.0123abcd.tmp").write_bytes(b"")
    (model / "weights.safetensors").write_bytes(b"")
    code, _, err = jaxdiff(monkeypatch, capsys, "export", tmp_path, model, "--json")
    assert code == 0, err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b"", "summary.json is damaged"),
        ("summary.json", b"[]", "summary.json holds a list"),
        ("summary.json", b"[" * 100_000, "summary.json is damaged"),
        ("summary.json", None, "summary.json is a folder"),
        ("config.json", b"3", "config.json is not a config"),
        ("config.json", None, "config.json is a folder"),
        ("config.json", b'{"steps": 1e400}', "config.json: steps = inf; expected a whole number"),
        ("config.json", b'{"channels": {"a": 1}}', "config.json: network = "),
        ("config.json", b'{"channels": [[4]]}', "config.json: network = "),
        ("config.json", b'{"data": ["digits"]}', "config.json: data = "),
        ("config.json", b'{"learning_rate": NaN}', "config.json: learning_rate = nan"),
        ("config.json", b'{"network": "mlp(width=3)"}', "config.json: network = 'mlp(width=3)': mlp has no width"),
        ("data.json", b"[]", "data.json holds a list"),
        ("data.json", None, "data.json is a folder"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_before_any_work(toy, tmp_path, name, content, message, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(toy, folder)
    (folder / name).unlink()
    (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
    for arguments in (("likelihood", folder, *SCORE[:2]), ("train", folder, *TOY, "--pictures", "0")):
        code, out, err = jaxdiff(monkeypatch, capsys, *arguments)
        assert (code, out) == (1, "")
        assert message in err, err
        assert len(err.strip().splitlines()) == 1


def test_weights_that_are_a_pipe_are_not_waited_for(toy, tmp_path, monkeypatch, capsys):
    for name in ("config.json", "data.json"):
        shutil.copyfile(toy / name, tmp_path / name)
    os.mkfifo(tmp_path / "weights.safetensors")
    code, _, err = jaxdiff(monkeypatch, capsys, "sample", tmp_path, *SAMPLE)
    assert (code, "weights.safetensors is a pipe" in err) == (1, True), err


# The home folder, and settings without a meaning


@pytest.mark.slow
def test_a_run_in_the_home_folder_is_found_by_every_command(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("train", "~/runs/a", *TOY, "--pictures", "0"),
        ("sample", "~/runs/a", *SAMPLE),
        ("likelihood", "~/runs/a", *SCORE[:2], *SCORE[4:]),
        ("export", "~/runs/a", "~/runs/b", "--json"),
        ("sample", "~/runs/b", *SAMPLE),
    ):
        code, _, err = jaxdiff(monkeypatch, capsys, *arguments)
        assert code == 0, err
    assert os.listdir(tmp_path) == ["runs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["likelihood", "--flow", "probability_flow(atol=-1)"], "atol = -1"),
        (["likelihood", "--flow", "probability_flow(rtol=0, atol=0)"], "rtol"),
        (["likelihood", "--flow", "probability_flow(rtol=inf)"], "rtol = inf"),
        (["likelihood", "--trace", "hutchinson(0)"], "probes = 0"),
        (["likelihood", "--trace", "hutchinson(1.5)"], "probes = 1.5: expected a whole number"),
        (["likelihood", "--trace", "exact(3)"], "exact takes no values; given 1"),
        (["likelihood", "--seed", "-1"], "seed = -1; expected a whole number in [0, 4294967295]"),
        (["likelihood", "--seed", str(2**63)], f"seed = {2**63}"),
        (["likelihood", "--limit", "-3"], "limit = -3"),
        (["sample", "--seed", str(2**32)], f"seed = {2**32}"),
        (["sample", "--guidance", "classifier_free(inf)"], "scale = inf"),
        (["sample", "--n", str(10**14)], "an array of samples"),
        (["sample", "--steps", "-1"], "steps = -1"),
        (["sample", "--batch-size", "0"], "batch_size = 0"),
        (["train", "--seed", str(2**40)], f"seed = {2**40}"),
        (["train", "--learning-rate", "nan"], "learning_rate = nan"),
        (["train", "--ema-decay", "1"], "ema_decay = 1.0; expected a number in [0, 1)"),
        (["train", "--pictures", "2"], "pictures = 2.0; expected a number in [0, 1]"),
        (["train", "--pictures", "nan"], "pictures = nan"),
        (["train", "--model-devices", "0"], "model = 0"),
        (["train", "--log-every", "0"], "log_every = 0"),
        (["train", "--steps", str(2**31)], f"steps = {2**31}"),
    ],
)
def test_settings_without_a_meaning_are_one_line_and_exit_code_1(toy, arguments, message, monkeypatch, capsys):
    command, *settings = arguments
    own = TOY if command == "train" else ["--json"]
    code, out, err = jaxdiff(monkeypatch, capsys, command, toy, *own, *settings)
    assert (code, out) == (1, ""), (out, err)
    assert message in err, err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("unet((8,))", "is for pictures, and the data are of shape (2,)"),
        ("mlp((0,))", "hidden = (0,); expected the widths"),
        ("mlp((10000000,))", "GiB, more than the"),
    ],
)
def test_a_network_that_is_none_for_the_data_is_refused(tmp_path, network, message, monkeypatch, capsys):
    code, _, err = jaxdiff(monkeypatch, capsys, "train", tmp_path / "run", *TOY, "--network", network)
    assert (code, message in err) == (1, True), err
    assert not (tmp_path / "run").exists()
