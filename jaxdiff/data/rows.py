"""Tables in files: named columns of one length, as `.csv`, `.npy` or `.npz`; of numbers, and of words where asked.

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
LARGEST = 2**53  # up to which float64 holds every whole number


def read_rows(path: str | os.PathLike) -> tuple[tuple[str, ...], np.ndarray]:
    """(names, values): the columns of a table and its rows, float64 [n, columns].

    - `.csv`: a line of names, then a line for each row; commas, semicolons or tabs lie between the cells.
    - `.npy`: an array [n, columns], or [n] of one column; the columns are named "0", "1", ...
    - `.npz`: one such array, or an array [n] for each column, under its name.

    Raises ValueError for anything else: another suffix, cells that are missing, text, NaN or infinite, whole numbers
    beyond 2^53 that float64 does not hold, complex numbers, Python objects, rows or columns of different lengths, names
    that are missing or double, a table without rows. FileNotFoundError where there is no file.
    """
    columns = read_columns(path)
    return tuple(columns), np.stack(list(columns.values()), axis=1)


def read_columns(path: str | os.PathLike, words: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The columns of a table by name, each [n]: float64, or text of those that `words` names, without space around it.

    Files and errors are those of `read_rows`; of arrays a column of words may hold text, whole numbers or truth values.
    Raises ValueError also for a name in `words` that is no column, and for an empty word.
    """
    path, suffix = _table_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a table: a file that ends in {', '.join(SUFFIXES)}")
    check_file(path)
    return (_from_csv if suffix == ".csv" else _from_arrays)(path, words)


def write_rows(path: str | os.PathLike, names: Sequence[str], values) -> None:
    """Write a table that `read_rows` reads back to the bit: values [n, columns], as float64; the suffix says in what.

    Raises ValueError for another suffix, and for values of another shape.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"values have shape {values.shape}; expected [n, {len(names)}], a column for each name")
    write_columns(path, dict(zip(names, values.T, strict=True)))


def write_columns(path: str | os.PathLike, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns [n] of numbers or text by name, as `read_columns` reads them back; the suffix says in what.

    Raises ValueError for another suffix, and where a `.npy` would hold text.
    """
    path, suffix = _table_path(path)
    with atomic_write(path) as file:
        if suffix == ".csv":
            text = io.TextIOWrapper(file, "utf-8", newline="")
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow(columns)
            lines.writerows(zip(*(column.tolist() for column in columns.values())))  # numbers by their repr, exact
            text.flush()
            text.detach()
        elif suffix == ".npy":
            np.save(file, np.stack([column.astype(np.float64) for column in columns.values()], 1), allow_pickle=False)
        else:  # not by numpy.savez, which keeps some names for itself
            with zipfile.ZipFile(file, "w") as archive:
                for name, column in columns.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(column), allow_pickle=False)


def listed(names: Sequence[str], most: int = 8) -> str:
    """The names as a message shows them, the first `most` and how many there are beside."""
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
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} is no table of cells ({error}); look at its quotation marks") from None


def _check_size(path: Path, rows: int, columns: int) -> None:
    """Raise ValueError for a table without rows or columns."""
    if not rows or not columns:
        raise ValueError(f"{path} has {rows} rows of {columns} columns; expected at least one of each")


def _check_names(path: Path, names: Sequence[str], words: Sequence[str]) -> None:
    """Raise ValueError for a name that is there twice, and for one in `words` that is not there."""
    if double := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{path} has more than one column {double[0]!r}; give each a name of its own")
    if unknown := [name for name in words if name not in names]:
        raise ValueError(f"{path} has no column {listed(unknown)}; expected some of {listed(names)}")


def _delimiter(path: Path, header: str) -> str:
    """The one that cuts the header into the most cells."""
    if not header.strip():
        raise ValueError(f"{path} begins with an empty line; expected the names of its columns, such as a,b,c")
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))


def _check_header(path: Path, names: tuple[str, ...]) -> None:
    if all(_reason(name) is None for name in names):
        raise ValueError(
            f"{path} begins with numbers, {listed(names)}, where the names of the columns are due; put a line of names "
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
                if reason := _reason(cell, name in words):
                    raise ValueError(f"{path}, line {lines.line_num}, column {name!r}: {reason}")
        values.append(np.array(row))
        texts.append(text)
    _check_size(path, len(values), len(names))
    columns = dict(zip((names[i] for i in of_numbers), np.stack(values, 1)))
    columns |= dict(zip((names[i] for i in of_words), np.array(texts, str).T))
    return {name: columns[name] for name in names}


def _reason(cell: str, word: bool = False) -> str | None:
    """What is wrong with a cell; None for a finite number, or for any text where a word is due."""
    text = cell.strip()
    if not text:
        return "the cell is empty; fill it in, or remove the row or the column"
    if word:
        return None
    try:
        number = float("_" if "_" in text else text)
    except ValueError:
        fix = "write 1.5 for 1,5" if "," in text else "remove the column, or take its words as categories (MixedTable)"
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
    return {name: (_words if name in words else _column)(path, name, array) for name, array in columns.items()}


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


def _column(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "biuf":
        raise ValueError(f"{path}, column {name!r} has dtype {column.dtype}; expected real numbers: convert or drop it")
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
