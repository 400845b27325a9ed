"""Tables in files: named columns of one length, of numbers or of words, as `.csv`, `.npy` or `.npz`.

Pickles are never loaded. An error for a value that is not a finite number names the column, the line or row, and the
value.
"""

import csv
import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdiff.arrays import atomic_write, check_file, check_path

SUFFIXES = (".csv", ".npy", ".npz")
DELIMITERS = ",;\t"
LARGEST = 2**53  # float64 holds every whole number up to it


def read_rows(path: str | os.PathLike) -> tuple[tuple[str, ...], np.ndarray]:
    """Read a table of numbers from a file.

    - `.csv`: a line of names, then one line per row; cells are separated by commas, semicolons or tabs.
    - `.npy`: an array `[n, columns]`, or `[n]` for one column; the columns are named "0", "1", ...
    - `.npz`: one such array, or one array `[n]` per column under its name.

    Args:
        path: the file.

    Returns:
        (names, values): the names of the columns, and the rows, float64 `[n, columns]`.

    Raises:
        ValueError: if the suffix is another, or the table has no rows, missing or repeated names, rows or columns of
            different lengths, or cells that are empty, text, complex, objects, not finite, or whole numbers beyond 2^53
            that float64 does not hold.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "mine.csv")
        ...     _ = path.write_text("x,y\\n1,2\\n3,4\\n")
        ...     data.read_rows(path)
        (('x', 'y'), array([[1., 2.],
               [3., 4.]]))
    """
    columns = read_columns(path)
    return tuple(columns), np.stack(list(columns.values()), axis=1)


def read_columns(path: str | os.PathLike, words: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read the columns of a table of numbers and words from a file, as `read_rows` describes it.

    Args:
        path: the file.
        words: the names of the columns of words. In `.npy` and `.npz` they may hold text, whole numbers or truth
            values.

    Returns:
        Arrays `[n]` by name: float64, or text without surrounding space for columns of words.

    Raises:
        ValueError: as `read_rows` does, and if a name in `words` is not a column, or a word is empty.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "people.csv")
        ...     _ = path.write_text("age,job\\n30,nurse\\n50,cook\\n")
        ...     columns = data.read_columns(path, words=("job",))
        >>> columns["age"].tolist(), columns["job"].tolist()
        ([30.0, 50.0], ['nurse', 'cook'])
    """
    path, suffix = _table_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a table: a file that ends in {', '.join(SUFFIXES)}")
    check_file(path)
    return (_from_csv if suffix == ".csv" else _from_arrays)(path, words)


def write_rows(path: str | os.PathLike, names: Sequence[str], values) -> None:
    """Write a table of numbers, which `read_rows` reads back bitwise.

    Args:
        path: the file, which ends in `.csv`, `.npy` or `.npz`.
        names: the names of the columns; `.npy` does not keep them.
        values: the rows `[n, columns]`, written as float64.

    Raises:
        ValueError: if the suffix is another, or `values` have another shape.

    Examples:
        >>> import tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data.write_rows(f"{folder}/mine.csv", ("x", "y"), [[1, 2], [3, 4]])
        ...     data.read_rows(f"{folder}/mine.csv")[0]
        ('x', 'y')
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"values have shape {values.shape}; expected [n, {len(names)}], a column for each name")
    write_columns(path, dict(zip(names, values.T, strict=True)))


def write_columns(path: str | os.PathLike, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns of numbers and words, which `read_columns` reads back.

    Args:
        path: the file, which ends in `.csv`, `.npy` or `.npz`.
        columns: arrays `[n]` of numbers or text by name.

    Raises:
        ValueError: if the suffix is another, or a `.npy` would hold text.

    Examples:
        >>> import numpy as np, tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/people.csv"
        ...     data.write_columns(path, {"age": np.array([30.0]), "job": np.array(["nurse"])})
        ...     data.read_columns(path, words=("job",))["job"].tolist()
        ['nurse']
    """
    path, suffix = _table_path(path)
    with atomic_write(path) as file:
        if suffix == ".csv":
            text = io.TextIOWrapper(file, "utf-8", newline="")
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow(columns)
            lines.writerows(zip(*(column.tolist() for column in columns.values())))  # the repr of a number is exact
            text.flush()
            text.detach()
        elif suffix == ".npy":
            np.save(file, np.stack([column.astype(np.float64) for column in columns.values()], 1), allow_pickle=False)
        else:  # numpy.savez would reserve some names
            with zipfile.ZipFile(file, "w") as archive:
                for name, column in columns.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(column), allow_pickle=False)


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first `most` names for a message, and how many more there are."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _table_path(path: str | os.PathLike) -> tuple[Path, str]:
    path = check_path("path", path)
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}; expected a table, which ends in {', '.join(SUFFIXES)}")
    return path, suffix


def _from_csv(path: Path, words: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(path, file.readline())
            file.seek(0)
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            names = tuple(name.strip() for name in next(lines))
            _check_header(path, names)
            _check_names(path, names, words)
            return _values(path, lines, names, words, delimiter)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a table of cells ({error}); check its quotation marks") from None


def _check_size(path: Path, rows: int, columns: int) -> None:
    """Raise ValueError for a table without rows or columns."""
    if not rows or not columns:
        raise ValueError(f"{path} has {rows} rows of {columns} columns; expected at least one of each")


def _check_names(path: Path, names: Sequence[str], words: Sequence[str]) -> None:
    """Raise ValueError for a repeated name, and for a name in `words` that is not a column."""
    if double := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{path} has more than one column {double[0]!r}; give each its own name")
    if unknown := [name for name in words if name not in names]:
        raise ValueError(f"{path} has no column {listed(unknown)}; expected some of {listed(names)}")


def _delimiter(path: Path, header: str) -> str:
    """The delimiter that splits the header into the most cells."""
    if not header.strip():
        raise ValueError(f"{path} begins with an empty line; expected the names of its columns, such as a,b,c")
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))


def _check_header(path: Path, names: tuple[str, ...]) -> None:
    if all(_reason(name) is None for name in names):
        raise ValueError(
            f"{path} begins with numbers, {listed(names)}; expected the names of the columns: put a line of names "
            "above, such as a,b,c"
        )
    if "" in names:
        raise ValueError(
            f"{path} has no name for column {names.index('') + 1} of {len(names)}; name it, or leave it out (pandas: "
            "to_csv(index=False))"
        )


def _values(path: Path, lines, names: tuple[str, ...], words: Sequence[str], delimiter: str) -> dict[str, np.ndarray]:
    of_words = [i for i, name in enumerate(names) if name in words]
    of_numbers = [i for i, name in enumerate(names) if name not in words]
    values, texts = [], []
    for cells in lines:
        if not cells:  # an empty line
            continue
        if len(cells) != len(names):
            raise ValueError(
                f"{path}, line {lines.line_num} has {len(cells)} cells between {delimiter!r}; expected {len(names)}, "
                f"one for each of the columns {listed(names)}"
            )
        numbers = [cells[i] for i in of_numbers] if of_words else cells
        text = [cells[i].strip() for i in of_words]
        try:
            row = [*map(float, numbers)]
            plain = max(map(abs, row), default=0) < LARGEST and not any(map(math.isnan, row))
            plain = plain and "_" not in "".join(numbers) and all(text)
        except ValueError:
            row, plain = [], False
        if not plain:
            for name, cell in zip(names, cells):
                if reason := _reason(cell, name in words, _mixed(path, words, name)):
                    raise ValueError(f"{path}, line {lines.line_num}, column {name!r}: {reason}")
        values.append(np.array(row))
        texts.append(text)
    _check_size(path, len(values), len(names))
    columns = dict(zip((names[i] for i in of_numbers), np.stack(values, 1)))
    columns |= dict(zip((names[i] for i in of_words), np.array(texts, str).T))
    return {name: columns[name] for name in names}


def _mixed(path: Path, words: Sequence[str], name: str) -> str:
    """The call that reads the column `name` as one of words, too."""
    return f"mixed_table({str(path)!r}, categories={(*words, name)!r})"


def _reason(cell: str, word: bool = False, mixed: str = "") -> str | None:
    """What is wrong with a cell; None for a finite number, or for any text if `word`."""
    text = cell.strip()
    if not text:
        return "the cell is empty; fill it in, or remove the row or the column"
    if word:
        return None
    try:
        number = float("_" if "_" in text else text)
    except ValueError:
        fix = "write 1.5 for 1,5" if "," in text else f"remove the column, or take its words as categories: {mixed}"
        return f"{text!r:.80} is not a number; {fix}"
    if not math.isfinite(number):
        return f"{text!r} is not a finite number; fill it in, or remove the row or the column"
    if text.lstrip("+-").isdecimal() and int(number) != int(text):
        return f"{text} is a whole number beyond 2^53, which float64 does not hold; subtract a number or leave it out"
    return None


def _from_arrays(path: Path, words: Sequence[str]) -> dict[str, np.ndarray]:
    found = _loaded(path)
    shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in found.items())
    arrays = list(found.values())
    if len(found) == 1 and arrays[0].ndim == 2:
        columns = {str(i): column for i, column in enumerate(arrays[0].T)}
    elif found and all(array.ndim == 1 and len(array) == len(arrays[0]) for array in arrays):
        columns = found
    else:
        raise ValueError(
            f"{path} holds {shapes or 'nothing'}; expected one array [n, columns], or arrays [n] of one length in an "
            ".npz, a named one for each column"
        )
    _check_names(path, list(columns), words)
    _check_size(path, len(arrays[0]), len(columns))
    return {
        name: _words(path, name, array) if name in words else _column(path, name, array, words)
        for name, array in columns.items()
    }


def _words(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    """A column of text, truth values or whole numbers as text."""
    if column.dtype.kind == "f" and (np.isfinite(column) & (column == np.round(column))).all():
        column = column.astype(np.int64)
    if column.dtype.kind not in "Ubiu":
        raise ValueError(
            f"{path}, column {name!r} has dtype {column.dtype}; expected text, whole numbers or truth values"
        )
    text = np.array([word.strip() for word in column.astype(str).tolist()], str)
    if (text == "").any():
        raise ValueError(f"{path}, column {name!r}, row {int((text == '').argmax())}: the word is empty; fill it in")
    return text


def _loaded(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            return {"0": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except OSError:
        raise
    except Exception as error:  # a damaged file raises whatever its parser does
        why = "Python objects, which are never loaded" if "pickle" in str(error) else f"no arrays ({error})"
        raise ValueError(f"{path} holds {why}; save plain numbers: numpy.save(path, array.astype(float))") from None


def _column(path: Path, name: str, column: np.ndarray, words: Sequence[str]) -> np.ndarray:
    if column.dtype.kind not in "biuf":
        fix = f", or take its words as categories: {_mixed(path, words, name)}" if column.dtype.kind == "U" else ""
        raise ValueError(
            f"{path}, column {name!r} has dtype {column.dtype}; expected real numbers: convert or drop it{fix}"
        )
    values = column.astype(np.float64)
    bad = ~np.isfinite(values)
    if column.dtype.kind in "iu":
        bad = (column > LARGEST) | (column < -LARGEST)
    if bad.any():
        row = int(bad.argmax())
        why = "a whole number beyond 2^53" if column.dtype.kind in "iu" else "no finite number"
        raise ValueError(
            f"{path}, column {name!r}, row {row} is {column[row]}, {why}, one of {bad.sum()} in that column; repair or "
            "remove them"
        )
    return values
