import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import within

import jaxdiff as jd
from jaxdiff import cli, runs
from jaxdiff.options import Learned, Model, Training
from jaxdiff.runs.known import shuffled
from jaxdiff.vocabulary import Network, parse

TINY = ["--steps", "20", "--batch-size", "16", "--network", "mlp((8,))"]
COARSE = "probability_flow(rtol=1e-2, atol=1e-2)"
LABELLED = [*TINY, "--condition", "label"]


def jaxdiff(monkeypatch, capsys, *arguments):
    """Run the command in this process; its exit code, output and error text."""
    monkeypatch.setattr(sys, "argv", ["jaxdiff", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    if isinstance(code, str):  # the interpreter prints it and ends with 1
        return 1, out.out, code
    return code, out.out, out.err


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxdiff", "train", str(folder), *LABELLED, "--json"])
        cli.main()
    return folder


def test_train_leaves_a_whole_run_folder(digits_run):
    names = {path.name for path in digits_run.iterdir()}
    assert names == {
        *("config.json", "data.json", "metrics.jsonl", "checkpoints", "summary.json", "lock"),
        *("samples.png", "denoising.png", "training.png"),
    }
    summary = json.loads((digits_run / "summary.json").read_text())
    assert summary["steps"] == 20
    assert summary["train_seconds"] > 0
    assert runs.read_config(digits_run).network == parse("mlp((8,))", Network)


def test_sample_is_the_same_in_any_batch(digits_run, monkeypatch, capsys):
    drawn = []
    for size in (5, 2):
        arguments = [
            "sample",
            digits_run,
            "--n",
            5,
            "--condition",
            3,
            "--guidance",
            "classifier_free(2)",
            "--steps",
            3,
            "--batch-size",
            size,
        ]
        code, out, _ = jaxdiff(monkeypatch, capsys, *arguments, "--json")
        assert code == 0
        assert json.loads(out)["n"] == 5
        drawn.append(np.load(digits_run / "samples.npy"))
    drawn = np.array(drawn)
    assert drawn[0].shape == (5, 8, 8, 1)
    assert drawn[0].dtype == np.uint8
    assert drawn[0].max() <= 16
    np.testing.assert_allclose(*drawn.astype(int), atol=1)  # a value within rounding of the next level


@pytest.mark.slow
def test_a_run_that_never_dropped_labels_warns_of_guidance_and_of_no_label(digits_run, tmp_path, monkeypatch, capsys):
    never = shutil.copytree(digits_run, tmp_path / "never")
    config = json.loads((never / "config.json").read_text())
    (never / "config.json").write_text(json.dumps(config | {"dropout": 0.0}))
    draw = ("--n", 1, "--steps", 1, "--condition", 3, "--guidance", "classifier_free(2)", "--json")
    with pytest.warns(UserWarning, match=r"never dropped in training \(condition_dropout = 0\)"):
        code, _, err = jaxdiff(monkeypatch, capsys, "sample", never, *draw)
    assert code == 0, err
    with pytest.warns(UserWarning, match="unconditional prediction was not learned. Give cond"):
        code, _, err = jaxdiff(monkeypatch, capsys, "sample", never, "--n", 1, "--steps", 1, "--json")
    assert code == 0, err
    code, _, err = jaxdiff(monkeypatch, capsys, "sample", digits_run, *draw)  # where a warning would be an error
    assert code == 0, err


@pytest.mark.slow
def test_likelihood_goes_into_the_summary(digits_run, monkeypatch, capsys):
    arguments = ["likelihood", digits_run, "--limit", 6, "--flow", COARSE, "--trace", "hutchinson(2)", "--json"]
    code, out, _ = jaxdiff(monkeypatch, capsys, *arguments)
    assert code == 0
    summary = json.loads((digits_run / "summary.json").read_text())
    assert json.loads(out) == summary
    assert summary["examples"] == 6
    assert summary["split"] == "test"
    assert 1.0 < summary["bits_per_dim"] < 8.0
    assert summary["standard_error"] > 0
    assert summary["budget"]["trace"] > 0
    assert Path(summary["per_example"]).is_file()
    code, out, _ = jaxdiff(monkeypatch, capsys, *arguments, "--budget", 0)
    assert code == 0
    assert json.loads(out)["bits_per_dim"] == summary["bits_per_dim"]


def test_a_conditional_run_is_scored_under_its_labels_or_says_that_it_is_not(digits_run, monkeypatch, capsys):
    run = runs.load(digits_run)
    denoiser = run.denoiser
    # 20 steps hardly tell labels apart: let them weigh more
    denoiser.params["embed"]["label"]["table"]["embedding"] *= 300
    monkeypatch.setattr(runs, "load", lambda folder: run)
    data = jd.data.load_digits("test")
    chosen = shuffled(len(data))[:4]
    image, label = data.image[chosen], data.label[chosen]
    settings = {"flow": within(1e-2), "budget": 0}
    given = {}
    for words, cond, kind in (
        ([], label, "uniform dequantisation, p(x | label)"),
        (["--unconditional"], None, "uniform dequantisation, p(x) of a conditional model: no cond was given"),
    ):
        arguments = ("--limit", 4, "--flow", COARSE, "--budget", 0, *words, "--json")
        code, out, said = jaxdiff(monkeypatch, capsys, "likelihood", digits_run, *arguments)
        assert code == 0
        expected = jd.bits_per_dim(jax.random.key(0), denoiser, image, 1, data.levels, cond=cond, **settings)
        given[kind] = json.loads(out)["bits_per_dim"]
        assert given[kind] == pytest.approx(expected.bits_per_dim, rel=1e-6)
        assert json.loads(out)["kind"] == expected.kind == kind
        assert kind in said
    assert len({round(value, 4) for value in given.values()}) == 2


def test_an_evaluation_is_the_metrics_of_samples_and_of_as_many_other_digits(digits_run, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    asked = ("--samples", 30, "--steps", 3, "--seed", 1, "--features", "pixels", "--json")
    code, out, table = jaxdiff(monkeypatch, capsys, "evaluate", folder, *asked)
    assert code == 0, table
    report = json.loads((folder / "evaluation.json").read_text())
    assert json.loads(out) == report
    assert report["reference"] == "1000 train examples"
    assert report["floor"] == "30 test examples"
    assert "30 samples              floor: 30 test examples" in table
    assert not (folder / "evaluation.partial").exists()

    run, train, test = runs.load(folder), jd.data.load_digits("train"), jd.data.load_digits("test")
    cond = run.known.as_given(run.config, train.label, 30)
    assert (np.abs(np.bincount(cond, minlength=10) - 30 * np.bincount(train.label) / 1000) < 1).all()
    drawn = run.restore(runs.draw(run, 30, steps=3, seed=1, cond=cond, batch_size=256))
    pixels = lambda image: ((2 * image.astype(np.float32) + 1) / 17 - 1).reshape(len(image), 64)
    shuffled = lambda images: images[np.random.default_rng(0).permutation(len(images))]
    real, others = pixels(shuffled(train.image)), pixels(shuffled(test.image)[:30])
    for name, fake in (("value", pixels(drawn)), ("floor", others)):
        error = "standard_error" if name == "value" else "floor_standard_error"
        near, dense = jd.metrics.precision_recall(real, fake), jd.metrics.density_coverage(real, fake)
        expected = {
            "frechet_distance": jd.metrics.frechet_distance(fake, real),
            "kernel_distance": jd.metrics.kernel_distance(fake, real),
            "precision": (near.precision, near.precision_error),
            "recall": (near.recall, near.recall_error),
            "density": (dense.density, dense.density_error),
            "coverage": (dense.coverage, dense.coverage_error),
        }
        assert report["metrics"].keys() == expected.keys()
        for metric, found in report["metrics"].items():
            assert (found[name], found[error]) == pytest.approx(tuple(expected[metric]), rel=1e-5), metric


def test_training_again_changes_nothing(digits_run, monkeypatch, capsys):
    before = (digits_run / "metrics.jsonl").read_text()
    code, _, _ = jaxdiff(monkeypatch, capsys, "train", digits_run, *LABELLED, "--json")
    assert code == 0
    assert (digits_run / "metrics.jsonl").read_text() == before


def test_an_exported_run_is_the_run_bit_for_bit(digits_run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "new" / "model"
    code, out, err = jaxdiff(monkeypatch, capsys, "export", digits_run, folder, "--json")
    assert code == 0, err
    names = {"config": "config.json", "data": "data.json", "weights": "weights.safetensors"}
    assert {path.name for path in folder.iterdir()} == {*names.values()}
    assert json.loads(out) == {what: str(folder / name) for what, name in names.items()}
    exported, trained = runs.load(folder), runs.load(digits_run)
    assert (exported.config, exported.known) == (trained.config, trained.known)
    jax.tree.map(np.testing.assert_array_equal, exported.denoiser.params, trained.denoiser.params)

    drawn = []
    for where in (digits_run, folder):
        code, _, err = jaxdiff(monkeypatch, capsys, "sample", where, "--n", 2, "--steps", 3, "--json")
        assert code == 0, err
        drawn.append(np.load(where / "samples.npy"))
    np.testing.assert_array_equal(*drawn)

    again = tmp_path / "again"
    again.mkdir()
    assert jaxdiff(monkeypatch, capsys, "export", folder, again)[0] == 0
    for name in names.values():
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_wrong_with_an_export_is_said_in_one_line(digits_run, tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    assert jaxdiff(monkeypatch, capsys, "export", digits_run, model)[0] == 0
    weights = (model / "weights.safetensors").read_bytes()
    config = json.loads((model / "config.json").read_text())

    def broken(name, weights=weights, **changed):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(weights)
        shutil.copy(model / "data.json", tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config | changed))
        return tmp_path / name

    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").write_text("mine")
    flipped = bytearray(weights)
    flipped[-1000] ^= 1
    for arguments, message in (
        (("export", tmp_path / "empty", tmp_path / "a"), "is not a run folder"),
        (("export", digits_run, model), "is not an empty folder; give one that is new or empty"),
        (("export", digits_run, tmp_path / "a file"), "is not an empty folder"),
        (("train", model, *LABELLED), "is an exported model"),
        (("sample", broken("cut", weights[:-1])), "damaged or cut short"),
        (("likelihood", broken("flipped", bytes(flipped))), "do not match their SHA-256"),
        (("sample", broken("wide", network="mlp((16,))")), "has shape (8,); expected (16,) by its config"),
        (("sample", broken("deep", network="mlp((8, 8))")), "that its config requires"),
        (("sample", broken("plain", condition=[])), "that its config does not have"),
    ):
        code, out, err = jaxdiff(monkeypatch, capsys, *arguments)
        assert (code, out) == (1, ""), arguments
        assert message in err, (arguments, err)
        assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_toy_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "moons"
    settings = ["--data", "two_moons", "--process", "flow", "--steps", 10, "--network", "mlp(hidden=(16,))"]
    settings += ["--loss", "denoising(times=logit_normal)"]
    code, _, err = jaxdiff(monkeypatch, capsys, "train", folder, *settings, "--json")
    assert code == 0
    assert f"drawing pictures of the trained model in {folder}" in err
    assert (folder / "density.png").is_file()
    code, out, _ = jaxdiff(monkeypatch, capsys, "likelihood", folder, "--limit", 50, "--flow", COARSE, "--json")
    assert code == 0
    assert np.isfinite(json.loads(out)["log_likelihood"])


def test_errors_are_one_line_with_the_fix(digits_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "config.json").write_text('{"colour": "blue"}')
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "config.json").write_text("{}")
    for arguments, message in (
        (("sample", tmp_path), "is not a run folder: it has no config.json. Make one by `jaxdiff train"),
        (("sample", tmp_path / "broken"), "is not a config of this version"),
        (("sample", tmp_path / "newer"), "colour"),
        (("sample", tmp_path / "untrained"), "checkpoint"),
        (("train", tmp_path / "other"), "neither empty nor a run folder"),
        (
            ("train", digits_run, "--steps", 30),
            "another config (condition: ['label'], now []; network: 'mlp(",
        ),
        (("train", tmp_path / "a", "--steps", 0), "steps = 0"),
        (("train", tmp_path / "b", "--batch-size", 5000), "5000"),
        (
            ("train", tmp_path / "c", "--data", "circles", "--condition", "label"),
            "but the table has the condition none",
        ),
        (("train", tmp_path / "c", "--data", "circles", "--flip"), "flip = True is for pictures"),
        (("train", tmp_path / "c", "--data", "circles", "--network", "unet"), "unet"),
        (("train", tmp_path / "c", "--condition", "colour"), "pictures have only one condition: label"),
        (("train", tmp_path / "c", "--dropout", 0.1), "needs a condition to drop"),
        (("sample", digits_run, "--n", 0), "n = 0"),
        (("sample", digits_run, "--steps", 0), "steps = 0"),
        (("sample", digits_run, "--condition", 10), "label = 10; expected 0 to 9"),
        (("sample", digits_run, "--condition", "label=-1"), "label = -1; expected 0 to 9"),
        (("sample", digits_run, "--guidance", "classifier_free(2)"), "needs cond"),
        (("likelihood", digits_run, "--limit", 0), "limit = 0"),
        (("likelihood", digits_run, "--data", "two_moons"), "data = two_moons are rows; expected pictures"),
        (("evaluate", digits_run, "--data", "two_moons"), "data = two_moons are rows; expected pictures"),
        (("evaluate", digits_run, "--samples", 9), "samples = 9; expected at least 10"),
        (("evaluate", digits_run, "--samples", 448), "the test split has 447 examples to compare them with; expected"),
        (("evaluate", digits_run, "--condition", 3, "--samples", 46), "the test split has 45 examples"),
        (("evaluate", digits_run, "--features", "inception"), "--features inception and --inception FOLDER"),
        (("evaluate", digits_run, "--inception", tmp_path), "--features inception and --inception FOLDER"),
    ):
        code, out, err = jaxdiff(monkeypatch, capsys, *arguments)
        assert code == 1, arguments
        assert out == ""
        assert message in err, (arguments, err)
        assert err.startswith("jaxdiff: ")
        assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()


def test_a_result_is_a_line_for_each_figure_with_space_after_its_name(monkeypatch, capsys):
    names = "steps", "numbers_given_categories_standard_error"
    monkeypatch.setattr(cli, "_call", lambda arguments: dict.fromkeys(names, 0.25) | {"budget": {}})
    assert [line.split() for line in jaxdiff(monkeypatch, capsys)[1].splitlines()] == [[name, "0.25"] for name in names]


GROUPS = {  # of options, and one option of each
    "train": {"data": "--flip", "model": "--loss", "training": "--steps", "logging": "--wandb", "machine": "--cluster"},
    "sample": {"sampling": "--guidance", "machine": "--process-id"},
    "likelihood": {"data": "--limit", "estimate": "--trace", "machine": "--coordinator"},
    "evaluate": {"comparison": "--features", "sampling": "--sampler"},
    **{name: {} for name in ("demo", "export", "words")},
}


@pytest.mark.parametrize("command", GROUPS)
def test_the_help_of_a_command_has_groups_an_example_and_no_path_of_this_machine(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = jaxdiff(monkeypatch, capsys, command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: jaxdiff {command} ")
    assert f"\nExample: jaxdiff {command}" in out
    assert out.count("Example:") == 1
    for group, option in GROUPS[command].items():
        assert option in out.partition(f"\n {group} options ")[2].partition("\n  \n")[0]
    assert not re.search(r"default: (None|False)?\)|default: ?/|" + re.escape(str(Path.home())), out)
    assert len(out.splitlines()) < 100


def test_the_help_of_all_commands_is_one_line_each(monkeypatch, capsys):
    code, out, err = jaxdiff(monkeypatch, capsys, "--help")
    assert (code, err) == (0, "")
    for command in GROUPS:
        assert re.search(rf"^  {command} +\S.*\.$", out, re.MULTILINE), command
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("arguments", "nearest", "fuller"),
    [
        (("train", "runs/a", "--batchsize", "3"), "--batch-size INT", "jaxdiff train --help"),
        (("sample", "runs/a", "--step", "3"), "--steps INT", "jaxdiff sample --help"),
        (("trian", "runs/a"), "did you mean train?", "jaxdiff --help"),
        ((), "no command was given.", "jaxdiff --help"),
        (("likelihood",), "FOLDER", "jaxdiff likelihood --help"),
    ],
    ids=str,
)
def test_an_unknown_option_is_answered_with_the_nearest_and_the_help(arguments, nearest, fuller, monkeypatch, capsys):
    code, out, err = jaxdiff(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert nearest in err
    assert fuller in err


def test_a_setting_of_a_run_is_an_option_of_train():
    options = {field.name: field for group in (Learned, Model, Training) for field in dataclasses.fields(group)}
    settings = {field.name: field for field in dataclasses.fields(runs.Config)}
    assert {*options} - {*settings} == {"checkpoint_every", "allow"}
    for name, setting in settings.items():
        kind = typing.get_type_hints(runs.Config)[name]
        assert options[name].type == kind, name
        assert options[name].default in (setting.default, None)


@pytest.mark.parametrize("arguments", [("words",), ("words", "process"), ("--help",)], ids=str)
def test_a_command_whose_output_is_no_longer_read_ends_silently(arguments, monkeypatch, capsys):
    read, written = os.pipe()
    os.close(read)
    with open(written, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "argv", ["jaxdiff", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands_and_options(shell, monkeypatch, capsys):
    code, out, err = jaxdiff(monkeypatch, capsys, "--tyro-print-completion", shell)
    assert (code or 0, err) == (0, "")
    for word in ("likelihood", "batch-size", "jaxdiff"):
        assert word in out
