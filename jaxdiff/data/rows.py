"""Tables of numbers in files: named columns of one length, as `.csv`, `.npy` or `.npz`.

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
    path, suffix = _table_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a table: a file that ends in {', '.join(SUFFIXES)}")
    check_file(path)
    names, values = _from_csv(path) if suffix == ".csv" else _from_arrays(path)
    if double := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{path} has more than one column {double[0]!r}; give each a name of its own")
    if not values.size:
        raise ValueError(f"{path} has {len(values)} rows of {len(names)} columns; expected at least one of each")
    return names, values


def write_rows(path: str | os.PathLike, names: Sequence[str], values) -> None:
    """Write a table that `read_rows` reads back to the bit: values [n, columns], as float64; the suffix says in what.

    Raises ValueError for another suffix, and for values of another shape.
    """
    path, suffix = _table_path(path)
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"values have shape {values.shape}; expected [n, {len(names)}], a column for each name")
    with atomic_write(path) as file:
        if suffix == ".csv":
            text = io.TextIOWrapper(file, "utf-8", newline="")
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow(names)
            lines.writerows(values.tolist())  # by their repr, which is exact
            text.flush()
            text.detach()
        elif suffix == ".npy":
            np.save(file, values, allow_pickle=False)
        else:  # not by numpy.savez, which keeps some names for itself
            with zipfile.ZipFile(file, "w") as archive:
                for name, column in zip(names, values.T):
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


def _from_csv(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(path, file.readline())
            file.seek(0)
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            names = tuple(name.strip() for name in next(lines))
            _check_header(path, names)
            return names, _values(path, lines, names, delimiter)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} is no table of cells ({error}); look at its quotation marks") from None


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


def _values(path: Path, lines, names: tuple[str, ...], delimiter: str) -> np.ndarray:
    values = []
    for cells in lines:
        if not cells:  # an empty line
            continue
        if len(cells) != len(names):
            raise ValueError(
                f"{path}, line {lines.line_num} has {len(cells)} cells between {delimiter!r}; expected {len(names)}, "
                f"one for each of the columns {listed(names)}"
            )
        try:
            row = [*map(float, cells)]
            plain = max(map(abs, row)) < LARGEST and not any(map(math.isnan, row)) and "_" not in "".join(cells)
        except ValueError:
            row, plain = [], False
        if not plain:
            for name, cell in zip(names, cells):
                if reason := _reason(cell):
                    raise ValueError(f"{path}, line {lines.line_num}, column {name!r}: {reason}")
        values.append(np.array(row))
    return np.stack(values) if values else np.empty((0, len(names)))


def _reason(cell: str) -> str | None:
    """What is wrong with a cell; None for a finite number."""
    text = cell.strip()
    if not text:
        return "the cell is empty; fill it in, or remove the row or the column"
    try:
        number = float("_" if "_" in text else text)
    except ValueError:
        fix = "write 1.5 for 1,5" if "," in text else "remove the column or the row, or put numbers in place of words"
        return f"{text!r:.80} is not a number; {fix}"
    if not math.isfinite(number):
        return f"{text!r} is not a finite number; fill it in, or remove the row or the column"
    if text.lstrip("+-").isdecimal() and int(number) != int(text):
        return f"{text} is a whole number beyond 2^53, which float64 does not hold; subtract a number or leave it out"
    return None


def _from_arrays(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
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
    values = np.empty((len(arrays[0]), len(columns)))
    for i, (name, array) in enumerate(columns.items()):
        values[:, i] = _column(path, name, array)
    return tuple(columns), values


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
