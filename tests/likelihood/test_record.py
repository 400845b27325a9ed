"""Rows that a record cannot have, since no run over these images would have written them."""

import json

import numpy as np
import pytest

from jaxdiff.likelihood.record import Record

N = 5


def rows():
    """Two repeats of five examples, the last of which did not converge."""
    converged = np.tile(np.arange(N) < N - 1, 2)
    return {
        "example": np.tile(np.arange(N), 2),
        "repeat": np.repeat([0, 1], N),
        "bits_per_dim": np.where(converged, 3.0, np.nan),
        "trace_error": np.full(2 * N, np.nan),
        "evaluations": np.full(2 * N, 55),
        "converged": converged,
    }


def changed(name, row, value):
    column = rows()[name]
    column[row] = value
    return {name: column}


def saved(path, **more):
    np.savez(path, settings=np.array(json.dumps({"levels": 16})), **rows() | more)


def test_a_record_as_it_is_written_is_taken(tmp_path):
    path = tmp_path / "r.npz"
    record = Record(path, lambda: {"levels": 16}, n=N)
    for part in ({name: column[:N] for name, column in rows().items()}, {n: c[N:] for n, c in rows().items()}):
        record.add(**part)
    again = Record(path, lambda: {"levels": 16}, n=N)
    for name, column in rows().items():
        np.testing.assert_array_equal(again.rows[name], column)
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (changed("example", 7, N), "row 7, of example 5, has example = 5"),
        (changed("example", 7, -1), "has example = -1"),
        (changed("repeat", 7, -1), "has repeat = -1"),
        (changed("repeat", 7, 2**40), f"has repeat = {2**40}"),
        (changed("repeat", 7, 2), "the repeats of an example are not 0, 1, ..., each once"),
        (changed("repeat", 7, 0), "each once"),
        (changed("bits_per_dim", 0, np.nan), "row 0, of example 0, has bits_per_dim = nan"),
        (changed("bits_per_dim", 0, np.inf), "bits_per_dim = inf"),
        (changed("bits_per_dim", 0, -1e300), r"bits_per_dim = -1e\+300"),
        (changed("bits_per_dim", N - 1, 3.0), "row 4, of example 4, has bits_per_dim = 3.0"),
        (changed("trace_error", 0, -1.0), "trace_error = -1.0"),
        (changed("trace_error", 0, 1e300), "trace_error = 1e"),
        (changed("evaluations", 0, -2), "evaluations = -2"),
        ({"example": rows()["example"] + 0.25}, r"example is float64\[10\]; expected int64\[10\]"),
        ({"example": rows()["example"].astype(">i8")}, "example is >i8"),
        ({"converged": rows()["converged"].astype(int)}, "converged is int64"),
        ({"bits_per_dim": rows()["bits_per_dim"].astype(np.float32)}, "bits_per_dim is float32"),
        ({"bits_per_dim": np.float64(3.0)}, r"bits_per_dim is float64\[\]"),
        ({"bits_per_dim": rows()["bits_per_dim"][:-1]}, r"bits_per_dim is float64\[9\]"),
    ],
)
def test_rows_that_no_run_wrote_are_refused_by_the_name_of_their_file(tmp_path, columns, message):
    path = tmp_path / "r.npz"
    saved(path)
    Record(path, lambda: {"levels": 16}, n=N)
    saved(path, **columns)
    with pytest.raises(ValueError, match=rf"r.npz is not what a likelihood wrote: .*{message}.*; remove it"):
        Record(path, lambda: {"levels": 16}, n=N)


def test_a_record_that_is_no_file_is_refused_and_a_link_is_replaced_not_followed(tmp_path):
    import os

    settings = lambda: {"levels": 16}
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    for name, kind in (("folder", "a folder"), ("pipe", "a pipe")):
        with pytest.raises(ValueError, match=f"{name}.npz is {kind}.*expected a file"):
            Record(tmp_path / f"{name}.npz", settings, n=N)
    outside = tmp_path / "outside.npz"
    saved(outside)
    before = outside.read_bytes()
    path = tmp_path / "r.npz"
    path.symlink_to(outside)
    record = Record(path, settings, n=N)
    record.add(**{name: column[:1] for name, column in rows().items()} | {"repeat": 2})
    assert outside.read_bytes() == before
    assert not path.is_symlink()
    assert len(np.load(path)["example"]) == 2 * N + 1
