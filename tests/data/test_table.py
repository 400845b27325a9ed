"""Tables: what files become and what is refused, units there and back, splits, and the Gaussian beside a model."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxdiff.data import Columns, Table, batches, read_rows, write_rows

RNG = np.random.default_rng(0)
COVARIANCE = np.array([[2.0, 0.6, 0.3], [0.6, 1.0, -0.2], [0.3, -0.2, 0.5]])
UNITS = np.array([1e-3, 1e5, 1.0])  # of scale 1e-3 and 1e5
FAR = np.array([5.0, -3e5, 1e5])  # the first lies 5,000 standard deviations from 0
NAMES = ("mass", "force", "time")
ROWS = FAR + UNITS * RNG.multivariate_normal(np.zeros(3), COVARIANCE, 2000)


def csv(path, text):
    path = path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    write_rows(path, NAMES, ROWS)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".CSV"])
def test_what_is_written_is_read_back_to_the_bit(tmp_path, suffix):
    values = np.array([[0.1, -1e-310], [1 / 3, 2.0**53], [-0.0, 1.7976931348623157e308]])
    names = ("file", 'a, "b"')
    write_rows(tmp_path / f"t{suffix}", names, values)
    found, read = read_rows(tmp_path / f"t{suffix}")
    assert found == (("0", "1") if suffix == ".npy" else names)
    assert read.dtype == np.float64
    assert read.tobytes() == values.tobytes()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_lie_between_commas_semicolons_or_tabs(tmp_path, delimiter):
    text = "\ufeffa, 'b' \r\n1, 2.5 \r\n\r\n-3e1,+4\r\n".replace(",", delimiter)
    names, values = read_rows(csv(tmp_path, text))
    assert names == ("a", "'b'")
    assert values.tolist() == [[1, 2.5], [-30, 4]]


def test_arrays_of_numbers_of_any_type_are_columns(tmp_path):
    for array in (np.arange(6, dtype=">i2"), np.arange(6) > 2, np.arange(6, dtype=np.float16)):
        np.save(tmp_path / "x.npy", array)
        assert read_rows(tmp_path / "x.npy")[1].tolist() == [[float(value)] for value in array]
    np.savez(tmp_path / "x.npz", anything=ROWS)
    assert read_rows(tmp_path / "x.npz")[0] == ("0", "1", "2")


def npy(array):
    return lambda path: np.save(path / "table.npy", array, allow_pickle=True)


REFUSED = [  # a file's text, or what makes it; what the refusal says
    ("a,b\n1,2\n3,\n", r"line 3, column 'b': the cell is empty; fill it in, or remove"),
    ("a,b\n1,2\n3,nan\n", r"line 3, column 'b': 'nan' is not a finite number"),
    ("a,b\n1,2\n-inf,3\n", r"line 3, column 'a': '-inf' is not a finite number"),
    ("a,b\n1,1e999\n", r"line 2, column 'b': '1e999' is not a finite number"),
    (
        "a,b\n\n1,blue\n2,red\n",
        r"line 3, column 'b': 'blue' is not a number; .*: mixed_table\('.*', categories=\('b',\)\)",
    ),
    ("a,b\n1,NA\n", r"line 2, column 'b': 'NA' is not a number"),
    ("a;b\n1,5;2\n", r"line 2, column 'a': '1,5' is not a number; write 1.5 for 1,5"),
    ("a,b\n1,1_000\n", r"line 2, column 'b': '1_000' is not a number"),
    ("a,b\n1,9007199254740993\n", r"line 2, column 'b': 9007199254740993 is a whole number beyond 2\^53"),
    ("a,b\n1,2\n3\n", r"line 3 has 1 cells between ','; expected 2, one for each of the columns 'a', 'b'"),
    ("a,b\n1,2,3\n", r"line 2 has 3 cells"),
    ("a|b\n1|2\n", r"line 2, column 'a\|b': '1\|2' is not a number"),
    ("1,2\n3,4\n", r"begins with numbers, '1', '2'; expected the names of the columns: put a line of names"),
    (",a\n0,1\n", r"has no name for column 1 of 2; .*index=False"),
    ("a,b,a\n1,2,3\n", r"has more than one column 'a'"),
    ("a,b\n", r"has 0 rows of 2 columns"),
    ("", r"begins with an empty line"),
    ('a,b\n1,"2\n', r"is not a table of cells"),
    (b"\xff\xfea\n1\n", r"is not UTF-8"),
    (b"a,b\n1,2\n\xff,3\n", r"is not UTF-8"),
    (npy([[1.0, math.nan], [2.0, 3.0]]), r"column '1', row 0 is nan, no finite number, one of 1 in that column"),
    (npy([[2**53 + 1]]), r"column '0', row 0 is 9007199254740993, a whole number beyond 2\^53"),
    (npy([[-(2**63)]]), r"row 0 is -9223372036854775808, a whole number"),
    (npy(np.array([2**64 - 1], np.uint64)), r"row 0 is 18446744073709551615, a whole number"),
    (npy([[1j]]), r"column '0' has dtype complex128; expected real numbers"),
    (npy([["a"]]), r"column '0' has dtype <U1; .*: mixed_table\('.*table.npy', categories=\('0',\)\)"),
    (npy(np.zeros((2, 2, 2))), r"holds 0 float64\[2, 2, 2\]; expected one array \[n, columns\]"),
    (npy(1.0), r"holds 0 float64\[\]"),
    (npy(np.zeros((0, 2))), r"has 0 rows of 2 columns"),
    (npy(np.zeros((2, 0))), r"has 2 rows of 0 columns"),
    (npy(np.zeros(2, [("a", float)])), r"column '0' has dtype \[\('a'"),
    (npy([{}]), r"holds Python objects, which are never loaded; save plain numbers"),
    (lambda path: (path / "table.npy").write_bytes(b"\x80\x04]."), r"holds Python objects"),
    (lambda path: (path / "table.npz").write_bytes(b"PK\3\4 no more"), r"holds no arrays \(.+\)"),
    (
        lambda path: np.savez(path / "table.npz", a=np.ones(2), b=np.ones(3)),
        r"a float64\[2\], b float64\[3\]; expected",
    ),
    (lambda path: np.savez(path / "table.npz", a=np.ones((2, 2)), b=np.ones(2)), r"a named one for each column"),
    (lambda path: np.savez(path / "table.npz"), r"holds nothing"),
    (
        lambda path: (path / "table.txt").write_text("a\n1\n"),
        r"ends in '.txt'; expected a table, which ends in .csv, .n",
    ),
    (lambda path: (path / "table.csv").mkdir(), r"is a folder; expected a file"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_what_is_no_table_of_numbers_is_named(tmp_path, content, message):
    if callable(content):
        content(tmp_path)
    else:
        csv(tmp_path, content)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match=message) as refused:
        Table(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_values_of_another_shape_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x.csv does not exist; expected a table"):
        Table(tmp_path / "x.csv")
    for values in (np.zeros(2), np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"values have shape .*; expected \[n, 2\]"):
            write_rows(tmp_path / "x.csv", ("a", "b"), values)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a,b,c\n1,2,7\n2,2,7\n", {}, r"has constant columns: 'b', 'c', the first 2.0 in every row for training"),
        ("a\n1\n", {}, r"too few rows: 1 for training; expected more"),
        ("a\n" + "1\n2\n" * 9, {"split": "test"}, r"too few rows: 18, and none in its split 'test'"),
        ("a\n1e300\n-1e300\n", {}, r"column 'a' has values from -1e\+300 to 1e\+300, whose squares float64 does not"),
        ("a\n1e-300\n2e-300\n", {}, r"column 'a' has values from 1e-300 to 2e-300"),
        ("a,b\n1,2\n3,4\n", {"condition": ("c", "b")}, r"condition names 'c'; expected some of the columns 'a', 'b'"),
        ("a,b\n1,2\n3,4\n", {"condition": ("b", "a")}, r"condition names all columns, 'a', 'b'"),
        ("a,b\n1,2\n3,4\n", {"condition": ("b", "b")}, r"condition = \('b', 'b'\); expected each name once"),
    ],
)
def test_columns_that_no_model_can_be_of_are_named(tmp_path, text, settings, message):
    with pytest.raises(ValueError, match=message):
        _ = Table(csv(tmp_path, text), **settings).columns


def test_columns_have_mean_0_and_spread_1_over_the_rows_for_training(path):
    splits = {split: Table(path, split) for split in ("train", "validation", "test")}
    assert len({table.columns for table in splits.values()}) == 1
    x = splits["train"].examples["x"]
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-6)
    everything = Table(path)
    np.testing.assert_array_equal(everything.values, ROWS)
    np.testing.assert_allclose(everything.columns.scale, ROWS.std(0), rtol=1e-12)
    batch = batches(splits["train"].examples, 16, 0)[0]
    assert batch["x"].shape == (16, 3)


def test_a_spread_of_1e3_beside_a_mean_of_1e5_loses_nothing(tmp_path):
    noise = RNG.standard_normal(500)
    np.save(tmp_path / "x.npy", 1e5 + 1e-3 * noise)
    table = Table(tmp_path / "x.npy")
    expected = (noise - noise.mean()) / noise.std()
    # 1e5 itself is rounded to 1.5e-11, 1.5e-8 of the spread
    np.testing.assert_allclose(table.examples["x"][:, 0], expected, atol=1e-7 * np.abs(expected).max())
    restored = table.columns.restored(table.examples["x"])
    np.testing.assert_allclose(restored, table.values, rtol=0, atol=1e-3 * 6e-8 * np.abs(expected).max())


def test_values_come_back_as_they_were(path):
    table = Table(path)
    exact = (ROWS - table.columns.mean) / np.array(table.columns.scale)
    np.testing.assert_allclose(
        table.columns.restored(exact) / np.abs(ROWS).max(0), ROWS / np.abs(ROWS).max(0), atol=4e-16
    )
    x = table.examples["x"]
    half_a_digit = np.finfo(np.float32).eps / 2 * np.abs(x).max(0) * table.columns.scale
    assert (np.abs(table.columns.restored(x) - ROWS) <= half_a_digit + 4e-16 * np.abs(ROWS).max(0)).all()


def gaussian(mean, covariance):
    """SciPy's; by Cholesky's factor, since it takes eigenvalues 1e16 apart for a singular matrix."""
    return stats.multivariate_normal(mean, stats.Covariance.from_cholesky(np.linalg.cholesky(covariance)))


def test_nats_are_those_of_the_users_units(path):
    """log p of raw values by SciPy, and of standardised ones minus log_scale."""
    columns = Table(path).columns
    covariance, scale = UNITS[:, None] * COVARIANCE * UNITS, np.array(columns.scale)
    seen = gaussian((FAR - columns.mean) / scale, covariance / np.outer(scale, scale))
    x = columns.standardised(ROWS[:50])[0]
    # the slope of log p is below 10 a unit of x, whose values below 5 are rounded to 3e-7
    expected = gaussian(FAR, covariance).logpdf(ROWS[:50])
    np.testing.assert_allclose(seen.logpdf(x) - columns.log_scale, expected, atol=3 * 10 * 3e-7)


def test_a_row_keeps_its_split_when_others_come_and_equal_rows_share_theirs(tmp_path, path):
    splits = ("train", "validation", "test")
    as_set = lambda table: {row.tobytes() for row in table.values}
    before = {split: as_set(Table(path, split)) for split in splits}
    assert sum(map(len, before.values())) == len(ROWS)
    for split, share in zip(splits, (0.9, 0.05, 0.05)):
        assert abs(len(before[split]) - 2000 * share) < 4 * math.sqrt(2000 * share * (1 - share))
    for row in before["test"]:  # the rule that is documented
        assert int(hashlib.sha256(row).hexdigest()[:16], 16) % 100 >= 95
    more = FAR + UNITS * RNG.standard_normal((500, 3))
    write_rows(tmp_path / "more.csv", NAMES, np.concatenate([more, ROWS[::-1], ROWS]))
    for split in splits:
        assert as_set(Table(tmp_path / "more.csv", split)) - {row.tobytes() for row in more} == before[split]
    np.save(tmp_path / "zero.npy", np.array([[i, zero] for i in range(200) for zero in (0.0, -0.0)]))
    for split in splits:
        assert (np.unique(Table(tmp_path / "zero.npy", split).values[:, 0], return_counts=True)[1] == 2).all()


def test_what_is_learned_goes_through_json_and_stands_alone(path):
    columns = Table(path, "train", condition=("time", "mass")).columns
    again = Columns(**json.loads(json.dumps(dataclasses.asdict(columns))))
    assert again == columns
    assert hash(again) == hash(columns)
    assert (again.modelled, again.condition) == (("force",), ("time", "mass"))
    assert again.log_scale == math.log(columns.scale[1])
    np.testing.assert_array_equal(again.standardised(ROWS)[0], columns.standardised(ROWS)[0])


def test_given_columns_are_vectors_in_the_order_they_were_named(path):
    table = Table(path, condition=("time", "mass"))
    columns, z = table.columns, (ROWS - ROWS.mean(0)) / ROWS.std(0)
    examples = table.examples
    assert {name: (array.shape, array.dtype) for name, array in examples.items()} == {
        "x": ((2000, 1), np.float32),
        "cond": ((2000, 2), np.float32),
    }
    np.testing.assert_allclose(examples["x"], z[:, 1:2], atol=1e-5)
    np.testing.assert_allclose(examples["cond"], z[:, [2, 0]], atol=1e-5)
    one = columns.conditions({"mass": ROWS[3, 0], "time": ROWS[3, 2]})
    np.testing.assert_array_equal(one, examples["cond"][3])
    both = columns.conditions({"mass": ROWS[:5, 0], "time": ROWS[3, 2]})
    np.testing.assert_array_equal(both[:, 1], examples["cond"][:5, 1])
    np.testing.assert_array_equal(both[:, 0], np.full(5, one[0]))
    np.testing.assert_array_equal(columns.conditions(dict(zip(NAMES[::2], ROWS[:4, ::2].T))), examples["cond"][:4])


def test_rows_and_conditions_of_other_columns_are_refused_by_name(path):
    columns = Table(path, condition=("time",)).columns
    np.testing.assert_array_equal(columns.rows(("time", "mass", "force"), ROWS[:, [2, 0, 1]]), ROWS)
    for names, message in [
        (("time", "mass"), "lacks 'force'"),
        (("time", "mass", "force", "age"), "does not know 'age'"),
        (("0", "1", "2"), "lacks 'mass', 'force', 'time' and does not know '0', '1', '2'"),
        (("mass", "mass", "force", "time"), "each once"),
    ]:
        with pytest.raises(ValueError, match=message):
            columns.rows(names, np.zeros((2, len(names))))
    for given, message in [
        ({}, r"the condition has the columns none; expected 'time'.*lacks 'time'"),
        ({"time": 1.0, "mass": 2.0}, "does not know 'mass'"),
        ({"time": np.zeros((2, 1))}, r"time \[2, 1\]; expected one number each"),
        ({"time": math.nan}, "time = nan"),
        ({"time": 1e300}, r"column 'time' holds 1e\+300, .* standard deviations from its mean"),
    ]:
        with pytest.raises(ValueError, match=message):
            columns.conditions(given)
    with pytest.raises(ValueError, match=r"the columns 'time'; expected none"):
        Table(path).columns.conditions({"time": 1.0})
    two = Table(path, condition=("time", "mass")).columns
    with pytest.raises(ValueError, match=r"time \[2\], mass \[3\]; expected"):
        two.conditions({"time": [1.0, 2.0], "mass": [1.0, 2.0, 3.0]})
    for wrong in (ROWS[0], ROWS[:, :2]):
        with pytest.raises(ValueError, match=r"expected \[n, 3\]"):
            columns.standardised(wrong)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\); expected \[n, 2\], the columns 'mass', 'force'"):
        columns.restored(np.zeros((2, 3)))


@pytest.mark.parametrize("condition", [(), ("force",), ("time", "mass")])
def test_the_gaussian_beside_a_model_is_that_of_its_rows(path, condition):
    """SciPy's log p(x, y) - log p(y), on raw values, with the covariance over n."""
    columns = Table(path, condition=condition).columns
    train, new = ROWS[:1500], ROWS[1500:]
    at = [NAMES.index(name) for name in condition]
    mean, covariance = train.mean(0), np.cov(train.T, bias=True)
    joint = gaussian(mean, covariance).logpdf(new)
    given = gaussian(mean[at], covariance[np.ix_(at, at)]).logpdf(new[:, at]) if at else 0.0
    np.testing.assert_allclose(
        columns.gaussian_log_prob(*columns.moments(train), new), joint - given, atol=1e-8
    )  # times near 1e5 are rounded to 1.5e-11


def test_a_gaussian_without_a_density_is_refused(tmp_path):
    rows = RNG.standard_normal((100, 2))
    write_rows(tmp_path / "sum.csv", ("a", "b", "sum"), np.concatenate([rows, rows.sum(1, keepdims=True)], 1))
    table = Table(tmp_path / "sum.csv")
    with pytest.raises(ValueError, match="column 'sum' is a linear combination"):
        table.columns.gaussian_log_prob(*table.columns.moments(table.values), table.values)
    with pytest.raises(ValueError, match="or there are too few rows"):
        table.columns.gaussian_log_prob(*table.columns.moments(table.values[:2]), table.values)
