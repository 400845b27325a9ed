"""Runs of mixed columns: their likelihoods beside the closed form, and the command line from training to export."""

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairs import MEANS, STD, WEIGHTS, data, mixture

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.data import Columns, MixedColumns, MixedTable, read_columns, write_columns
from jaxdiff.denoisers import SideBySide
from jaxdiff.runs import Config, Mixed
from jaxdiff.runs.rows import EXACT

KEY = jax.random.key(0)
WORDS = ("a", "b", "c")
MEAN, SCALE = np.array([5.0, -3.0]), np.array([2.0, 0.5])  # of the user's units
COLUMNS = MixedColumns(("u", "label", "v"), Columns(("u", "v"), tuple(MEAN), tuple(SCALE)), (WORDS,))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exact:
    """The pair of `pairs` as three columns with a time each: given the label its numbers are independent."""

    process: Any = jd.Product({"u": jd.VP(), "v": jd.VP(), "label": jd.Absorbing(3)})

    def __call__(self, x, t, cond=None):
        x, t = self.process.at(x, t)
        one = lambda i: jd.exact.Mixture(jd.VP(), WEIGHTS, MEANS[:, [i]], STD[:, [i], None] ** 2)
        parts = {name: one(i) for i, name in enumerate("uv")}
        hidden = (x["label"] == 3)[:, None]
        log_p = sum(m.log_responsibilities(x[name], t[name]) for name, m in parts.items()) - jnp.log(WEIGHTS)
        evidence = jnp.where(hidden | (jnp.arange(3) == x["label"][:, None]), 0.0, -jnp.inf)
        label = jd.Categorical(log_p, evidence)
        p = jnp.exp(label.log_probabilities())[..., None]
        mean = lambda name, m: [
            sum(p[:, k] * getattr(m(x[name], t[name], jnp.full(len(p), k)), of) for k in range(3))
            for of in ("data", "noise")
        ]
        return {name: jd.Prediction(*mean(name, m)) for name, m in parts.items()} | {"label": label}


def known():
    return Mixed((3,), 1.0, COLUMNS, (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)), ((0.5, 0.2, 0.3),), ".csv")


def laws(number, label):
    """log p(number), log p(number | label), log p(label | number), each [n], and p(v | u) beside."""
    z = (number[:, None] - MEANS) / STD
    each = -(z**2) / 2 - np.log(STD * math.sqrt(2 * math.pi))  # [n, 3, 2]
    both = np.log(WEIGHTS) + each.sum(-1)
    row = np.arange(len(label))
    total = np.log(np.exp(both).sum(1))
    u = np.log((WEIGHTS * np.exp(each[..., 0])).sum(1))
    return total, each.sum(-1)[row, label], both[row, label] - total, total - u


def test_parts_side_by_side_are_one_row_of_the_same_flow():
    number = data(4)["number"]
    label = data(4)["label"]
    rest = jd.Given(Exact(), "label")
    for cond in (label, None):
        found = SideBySide(rest, {"u": 1, "v": 1})(number, 0.3, cond)
        expected = mixture()(number, 0.3, cond)
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.noise, expected.noise, rtol=1e-3, atol=1e-4)
    turned = SideBySide(rest, {"v": 1, "u": 1})(number[:, ::-1], 0.3)
    np.testing.assert_allclose(turned.data[:, ::-1], mixture()(number, 0.3).data, rtol=1e-4, atol=1e-5)


def test_what_is_not_side_by_side_is_refused():
    rest = jd.Given(Exact(), "label")
    with pytest.raises(ValueError, match=r"sizes = .*; expected a size for each of u, v"):
        SideBySide(rest, {"u": 1})
    with pytest.raises(ValueError, match="expected one process of numbers for all parts"):
        SideBySide(Exact(), {"u": 1, "v": 1, "label": 1})
    with pytest.raises(ValueError, match="expected one process of numbers for all parts"):
        SideBySide(jd.Given(Exact(jd.Product(Exact().process.parts | {"v": jd.Flow()})), "label"), {"u": 1, "v": 1})
    with pytest.raises(TypeError, match=r"denoiser.process = .*expected a Product of a dictionary"):
        SideBySide(mixture(), {"u": 1})
    with pytest.raises(ValueError, match="expected 3 values in the last axis"):
        SideBySide(rest, {"u": 1, "v": 2})(data(4)["number"], 0.3)


@dataclasses.dataclass(frozen=True)
class Source:
    raw: dict


def source(n):
    pairs = data(n)
    rows = MEAN + SCALE * pairs["number"].astype(np.float64)
    return Source({"u": rows[:, 0], "v": rows[:, 1], "label": np.array(WORDS)[pairs["label"]]})


LASTING = {"record": None, "progress": False, "mesh": None, "precision": None}
SETTINGS = {"flow": jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4), "trace": jd.likelihood.Exact()}


@pytest.mark.slow
def test_each_likelihood_is_that_of_the_closed_form_and_the_row_is_their_sum():
    n = 400
    score = functools.partial(known().score, KEY, Exact(), source(n), None, False, LASTING)
    figures, words = score(**SETTINGS)
    pairs = data(n)
    total, given_label, label, v_of_u = laws(pairs["number"].astype(np.float64), pairs["label"])
    units = np.log(SCALE).sum()
    assert figures["numbers"] == pytest.approx(total.mean() - units, abs=0.005)
    assert figures["numbers_standard_error"] == pytest.approx(total.std(ddof=1) / math.sqrt(n), rel=0.02)
    assert figures["numbers_given_categories"] == pytest.approx(given_label.mean() - units, abs=0.005)
    away = figures["categories_bound"] - label.mean()
    assert abs(away) < 4 * figures["categories_bound_standard_error"]
    assert figures["row_bound"] == pytest.approx(figures["numbers"] + figures["categories_bound"], abs=1e-6)
    z = pairs["number"].astype(np.float64)
    gaussian = (-(z**2) / 2 - math.log(2 * math.pi) / 2).sum(1).mean() - units
    assert figures["numbers_baseline"] == pytest.approx(gaussian, abs=1e-4)
    counted = np.log(WEIGHTS[pairs["label"]]).mean()
    assert figures["categories_bound_baseline"] == pytest.approx(counted, abs=1e-6)
    for line, start in zip(words.splitlines(), ["log p(u, v) =", "log p(u, v | label) =", "log p(label | u, v) >="]):
        assert line.startswith(start)
    assert words.splitlines()[3].startswith("log p(u, v, label) >=")
    figures, words = score(condition=("u", "label"), **SETTINGS)
    assert {figures[name] for name in ("categories_bound", "row_bound", "numbers_given_categories")} == {None}
    own = -((pairs["number"][:, 1] - MEANS[pairs["label"], 1]) ** 2) / (2 * STD[pairs["label"], 1] ** 2)
    own = own - np.log(STD[pairs["label"], 1] * math.sqrt(2 * math.pi))
    assert figures["numbers"] == pytest.approx(own.mean() - math.log(SCALE[1]), abs=0.005)
    figures, _ = score(condition=("u",), **SETTINGS)
    assert figures["numbers"] == pytest.approx(v_of_u.mean() - math.log(SCALE[1]), abs=0.005)


def test_any_columns_are_read_as_a_condition_by_numbers_and_words():
    cond = known().condition(Config(), ["u=7, label=b"], 3)
    np.testing.assert_array_equal(cond["u"], np.full((3, 1), 1.0, np.float32))
    np.testing.assert_array_equal(cond["label"], [1, 1, 1])
    assert set(cond) == {"u", "label"}
    assert known().condition(Config(), [], 3) is None


def test_samples_hold_the_numbers_that_were_given_as_they_were_given():
    given = ["u=0.1, label=b"]
    parts = known().condition(Config(), given, 2) | {"v": np.ones((2, 1), np.float32)}
    rounded = known().restore(parts)
    found = known().with_given(rounded, given)
    assert found["u"].tolist() == [0.1, 0.1] != rounded["u"].tolist()
    assert (found["label"].tolist(), found["v"].tolist()) == (["b", "b"], rounded["v"].tolist())


def test_the_trace_of_rows_is_exact_by_default_if_there_are_few_columns():
    assert known().estimate()["trace"] == jd.likelihood.Hutchinson()
    names = tuple(map(str, range(EXACT + 1)))
    for condition, trace in ((names[:1], jd.likelihood.Exact()), ((), jd.likelihood.Hutchinson())):
        columns = Columns(names, (0.0,) * len(names), (1.0,) * len(names), condition)
        rows = runs.Rows((len(columns.modelled),), 1.0, columns, (0.0,) * len(names), np.eye(len(names)).tolist())
        assert rows.estimate()["trace"] == trace


CONDITIONS = {
    "unknown": (["w=3"], "condition names 'w'; expected some of the columns 'u', 'label', 'v'"),
    "twice": (["u=3", "u=4"], "expected each column once"),
    "all": (["u=3,label=a,v=1"], "and not all columns"),
    "a word": (["label=d"], "condition label = 'd'; expected one of 'a', 'b', 'c'"),
    "no number": (["u=tall"], "condition u = 'tall'; expected a number"),
    "infinite": (["u=inf"], "expected a finite number"),
}


@pytest.mark.parametrize(("given", "message"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_a_condition_that_is_none_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        known().condition(Config(), given, 2)


CONFIGS = {
    "condition": ({"condition": ("u",)}, "them afterwards .jaxdiff sample"),
    "process": ({"process": "absorbing"}, "is not for numbers .categories are masked"),
    "flip": ({"flip": True}, "is for pictures"),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "rows.csv"
    write_columns(path, source(400).raw)
    return path


@pytest.mark.parametrize(("settings", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_that_is_not_of_mixed_columns_is_refused(table, settings, message):
    with pytest.raises(ValueError, match=message):
        runs.learned(Config(data=None, **settings), MixedTable(table, ("label",), "train"))


def test_one_column_alone_is_no_joint_model(tmp_path):
    write_columns(tmp_path / "one.csv", {"a": np.array(["x", "y"])})
    with pytest.raises(ValueError, match="the data have one column, 'a'; expected two or more"):
        runs.learned(Config(data=None), MixedTable(tmp_path / "one.csv", ("a",)))


def test_a_network_or_loss_that_is_not_of_mixed_columns_is_refused(table):
    found = runs.learned(Config(data=None), MixedTable(table, ("label",), "train"))
    with pytest.raises(ValueError, match=r"network = mlp is for rows of numbers, .* mixed; give joint"):
        runs.build(Config(data=None, network="mlp"), found)
    with pytest.raises(ValueError, match="loss = flow_matching: a model of mixed columns is trained by denoising"):
        found.loss(Config(data=None, loss="flow_matching"))
    with pytest.raises(ValueError, match="condition = y: only a joint model of mixed columns"):
        runs.Rows((1,), 1.0, Columns(("y",), (0.0,), (1.0,)), (0.0,), ((1.0,),)).given(["y"])


@pytest.mark.slow
def test_the_command_line_trains_samples_scores_evaluates_and_exports(table, tmp_path, monkeypatch, capsys):
    from jaxdiff import cli

    monkeypatch.chdir(tmp_path)
    recipe = f"mixed_table('{table}', categories=('label',))"
    network = "joint(width=16, depth=1, heads=2)"

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["jaxdiff", *arguments, "--json"])
        cli.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    call("train", "run", "--data", recipe, "--network", network, "--steps", "40", "--batch-size", "32")
    call("export", "run", "out")
    for folder in ("run", "out"):
        call("sample", folder, "--n", "8", "--steps", "3", "--condition", "label=b", "u=5.1")
        drawn = read_columns(tmp_path / folder / "samples.csv", ("label",))
        assert set(drawn) == {"u", "label", "v"}
        assert set(drawn["label"]) == {"b"}
        assert set(drawn["u"]) == {5.1}
        assert len(set(drawn["v"])) == 8
    call("sample", "run", "--n", "8", "--steps", "3")
    loose = ["--flow", "probability_flow(rtol=1e-2, atol=1e-2)", "--trace", "exact"]
    found = call("likelihood", "run", "--limit", "8", *loose)
    assert found["row_bound"] == pytest.approx(found["numbers"] + found["categories_bound"])
    found = call("likelihood", "run", "--limit", "8", "--condition", "label", *loose)
    assert found["condition"] == "label"
    assert found["categories_bound"] is None
    found = call("evaluate", "run", "--samples", "10", "--steps", "3")
    assert set(found["metrics"]) >= {"wasserstein", "frechet_distance"}
    with pytest.raises(SystemExit):
        call("sample", "run", "--guidance", "classifier_free(2)", "--n", "2")
    assert "cannot be guided" in capsys.readouterr().err
