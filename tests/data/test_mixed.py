"""Tables of mixed columns: what is read of them, and what a model sees."""

import dataclasses
import json

import numpy as np
import pytest

from jaxdiff.data import Columns, MixedColumns, MixedTable, Table, read_columns, read_rows, write_columns

RNG = np.random.default_rng(0)
N = 300
RAW = {
    "age": RNG.normal(40, 9, N),
    "job": RNG.choice(["nurse", "cook, old", "é"], N),
    "code": RNG.choice(["7", "10"], N),
    "income": RNG.normal(3e4, 1e4, N),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "people.csv"
    write_columns(path, RAW)
    return path


def test_what_is_written_is_read_back_to_the_bit(path):
    for suffix in (".csv", ".npz"):
        write_columns(other := path.with_suffix(suffix), RAW)
        found = read_columns(other, ("job", "code"))
        assert list(found) == list(RAW)
        for name, column in RAW.items():
            np.testing.assert_array_equal(found[name], column)
    path.with_suffix(".npz").unlink()


def test_numbers_are_standardised_and_words_are_places_in_alphabetical_order(path):
    table = MixedTable(path, categories=("job", "code"))
    parts = table.columns.parts(table.values)
    assert {name: (part.dtype.name, part.shape) for name, part in parts.items()} == {
        "age": ("float32", (N, 1)),
        "job": ("int32", (N,)),
        "code": ("int32", (N,)),
        "income": ("float32", (N, 1)),
    }
    np.testing.assert_allclose(parts["age"][:, 0], (RAW["age"] - RAW["age"].mean()) / RAW["age"].std(), atol=1e-6)
    np.testing.assert_array_equal(parts["job"], [["cook, old", "nurse", "é"].index(word) for word in RAW["job"]])
    np.testing.assert_array_equal(parts["code"], [["10", "7"].index(word) for word in RAW["code"]])
    back = table.columns.restored(table.columns.values(parts))
    np.testing.assert_allclose(back["income"], RAW["income"], rtol=1e-5)
    np.testing.assert_array_equal(back["job"], RAW["job"])
    assert MixedColumns(**json.loads(json.dumps(dataclasses.asdict(table.columns)))) == table.columns


def test_splits_are_those_of_a_table_and_means_are_of_the_rows_for_training(path):
    """Adding words moves no row; a table of numbers alone has the splits of a `Table`."""
    mixed = {split: MixedTable(path, ("job", "code"), split) for split in ("train", "validation", "test")}
    assert sum(map(len, mixed.values())) == N
    assert len(mixed["train"]) > 0.8 * N
    for split, table in mixed.items():
        np.testing.assert_array_equal(table.columns.numbers.mean[0], mixed["train"].raw["age"].mean(), split)
        assert table.columns.words == mixed["train"].columns.words
    more = {name: np.append(column, column[:1]) for name, column in RAW.items()} | {"job": np.append(RAW["job"], "a")}
    write_columns(other := path.with_name("more.csv"), more)
    grown = MixedTable(other, ("job", "code"), "test").raw["age"]
    assert set(mixed["test"].raw["age"]) <= set(grown)
    write_columns(plain := path.with_name("plain.csv"), {"age": RAW["age"], "income": RAW["income"]})
    found, expected = MixedTable(plain, split="test"), Table(plain, split="test")
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(read_rows(plain)[1], Table(plain).values)


def test_rows_of_another_table_come_in_its_own_order_and_by_known_words(path):
    columns = MixedTable(path, ("job", "code")).columns
    rows = {name: RAW[name][:3] for name in ("job", "income", "age", "code")}
    np.testing.assert_array_equal(columns.read(rows), MixedTable(path, ("job", "code")).values[:3])
    with pytest.raises(ValueError, match="column 'job', row 1 is 'pilot', unknown to the model; expected one of"):
        columns.read(rows | {"job": np.array(["é", "pilot", "é"])})
    with pytest.raises(ValueError, match="the rows lack 'age'; expected the columns 'age', 'job'"):
        columns.read({name: column for name, column in rows.items() if name != "age"})
    with pytest.raises(ValueError, match="the rows have 'size', which the model does not know: leave it out"):
        columns.read(rows | {"size": rows["age"]})


def test_whole_numbers_and_truth_values_may_be_categories_of_arrays(tmp_path):
    np.savez(tmp_path / "t.npz", a=np.array([1, 2, 1]), b=np.array([True, False, True]), c=np.array([0.5, 1.5, 1.0]))
    table = MixedTable(tmp_path / "t.npz", ("a", "b"))
    assert table.columns.words == (("1", "2"), ("False", "True"))
    np.save(tmp_path / "t.npy", np.array([[0.5, 3.0], [1.0, 4.0], [0.1, 3.0]]))
    table = MixedTable(tmp_path / "t.npy", ("1",))
    assert table.columns.words == (("3", "4"),)
    write_columns(tmp_path / "s.npy", table.columns.restored(table.values))
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), np.load(tmp_path / "t.npy"))


WRONG = {
    "words of numbers": (
        "a,b\n1,x\n",
        (),
        r"line 2, column 'b': 'x' is not .*mixed_table\('.*', categories=\('b',\)\)",
    ),
    "words of two columns": ("a,b,c\n1,x,y\n", ("c",), r"column 'b': 'x' is not .*categories=\('c', 'b'\)\)"),
    "no such column": ("a,b\n1,x\n", ("c",), "has no column 'c'; expected some of 'a', 'b'"),
    "an empty word": ("a,b\n1,x\n2, \n", ("b",), "line 3, column 'b': the cell is empty"),
    "one word": ("a,b\n1,x\n2,x\n", ("b",), "column 'b' has 1 words, 'x'; expected 2 to 1000"),
    "an identifier": ("a,b\n" + "".join(f"{i},w{i}\n" for i in range(1001)), ("b",), "column 'b' has 1001 words"),
    "a constant number": ("a,b\n1,x\n1,y\n", ("b",), "constant columns: 'a'"),
    "no rows": ("a,b\n", ("b",), "has 0 rows of 2 columns"),
}


@pytest.mark.parametrize(("text", "categories", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_a_table_of_mixed_columns_is_refused_by_name(tmp_path, text, categories, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        _ = MixedTable(tmp_path / "t.csv", categories).columns


def test_floats_are_no_categories(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[0.5, 3.0], [1.0, 4.5]]))
    with pytest.raises(ValueError, match="column '1' has dtype float64; expected text, whole numbers"):
        MixedTable(tmp_path / "t.npy", ("1",))


def test_columns_are_in_one_of_numbers_and_words():
    numbers = Columns(("a",), (0.0,), (1.0,))
    with pytest.raises(ValueError, match="expected each column in either"):
        MixedColumns(("a", "b", "c"), numbers, (("x", "y"),))
