"""Tables of mixed columns as a data set: numbers are standardised for a model, words become categories.

Each column is a part of its own, so that a joint model has one noise level per column and can be conditioned on any:

    "age"    float32 [n, 1]    (value - mean)/scale
    "job"    int32 [n]         the index of the word among the words of the column, in alphabetical order

`values`, float64 [n, columns], has the same rows in the order of the file: numbers in the user's units, and words as
indices.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdiff.arrays import check_instance
from jaxdiff.data.rows import listed, read_columns
from jaxdiff.data.splits import Split, check_split, split_of
from jaxdiff.data.table import Columns, check_names, learned

MOST = 1000  # the most words of a column


@dataclasses.dataclass(frozen=True)
class MixedColumns:
    """The columns of a mixed table as a model knows them: names, means, scales and words.

    `dataclasses.asdict(columns)` is JSON, and `MixedColumns(**that)` the same columns again.

    Args:
        names: the names of all columns, in the table's order.
        numbers: the columns of numbers, with mean and scale; None if there are none.
        words: for each column of categories, in the table's order, all of its words.

    Raises:
        TypeError: if a field has another type.
        ValueError: if a column is in neither or both of `numbers` and `words`, or has fewer than two words.

    Examples:
        >>> from jaxdiff import data
        >>> ages = data.Columns(("age",), mean=(40.0,), scale=(10.0,))
        >>> columns = data.MixedColumns(("age", "job"), ages, words=(("cook", "nurse"),))
        >>> parts = columns.parts([[50, 1], [40, 0]])  # the rows as a model sees them
        >>> parts["age"].tolist(), parts["job"].tolist()
        ([[1.0], [0.0]], [1, 0])
        >>> columns.restored(columns.values(parts))["job"].tolist()
        ['nurse', 'cook']
    """

    names: tuple[str, ...]
    numbers: Columns | None
    words: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        object.__setattr__(self, "names", check_names("names", self.names))
        if isinstance(self.numbers, dict):
            object.__setattr__(self, "numbers", Columns(**self.numbers))
        if self.numbers is not None:
            check_instance("numbers", self.numbers, Columns, "the Columns of numbers, or None")
        check_instance("words", self.words, (tuple, list), "the words of each column of categories")
        words = tuple(check_names(f"words[{i}]", words) for i, words in enumerate(self.words))
        object.__setattr__(self, "words", words)
        if len(self.categories) != len(words) or not set(self.of_numbers) <= set(self.names):
            raise ValueError(
                f"names are {listed(self.names)}, numbers {listed(self.of_numbers) or 'none'}, and words those of "
                f"{len(words)} columns; expected each column in either numbers or words"
            )
        for name, known in zip(self.categories, words):
            if not 2 <= len(known) <= MOST:
                raise ValueError(
                    f"column {name!r} has {len(known)} words, {listed(known, 3)}; expected 2 to {MOST}: leave out a "
                    "column that does not vary, or that is different in every row"
                )

    @property
    def of_numbers(self) -> tuple[str, ...]:
        """The names of the columns of numbers."""
        return () if self.numbers is None else self.numbers.names

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of the columns of categories, in the order of `words`."""
        return tuple(name for name in self.names if name not in self.of_numbers)

    def parts(self, values) -> dict[str, np.ndarray]:
        """`values` [n, columns] as a model sees them: one part per column."""
        values = self._checked(values)
        index = self.names.index
        parts = {name: values[:, index(name)].astype(np.int32) for name in self.categories}
        if self.numbers is not None:
            x, _ = self.numbers.standardised(values[:, [index(name) for name in self.of_numbers]])
            parts |= {name: column[:, None] for name, column in zip(self.of_numbers, x.T)}
        return {name: parts[name] for name in self.names}

    def values(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Values [n, columns] of parts that a model sees or draws: the inverse of `parts`."""
        if sorted(parts) != sorted(self.names):
            raise ValueError(f"parts are {listed(list(parts))}; expected the columns {listed(self.names)}")
        columns = {name: np.asarray(parts[name], np.float64) for name in self.names}
        if self.numbers is not None:
            z = np.concatenate([columns[name] for name in self.of_numbers], axis=1)
            columns |= dict(zip(self.of_numbers, self.numbers.restored(z).T))
        return np.stack([columns[name] for name in self.names], axis=1)

    def restored(self, values) -> dict[str, np.ndarray]:
        """Values [n, columns] as the columns of a table by name: numbers and words."""
        columns = dict(zip(self.names, self._checked(values).T))
        return columns | {
            name: np.array(words)[columns[name].astype(int)] for name, words in zip(self.categories, self.words)
        }

    def read(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Values [n, columns] of a table's columns by name, in any order; ValueError for unknown names or words."""
        missing, unknown = set(self.names) - set(columns), set(columns) - set(self.names)
        if missing or unknown:
            wrong = [f"lack {listed(sorted(missing))}"] * bool(missing)
            wrong += [f"have {listed(sorted(unknown))}, which the model does not know: leave it out"] * bool(unknown)
            raise ValueError(f"the rows {' and '.join(wrong)}; expected the columns {listed(self.names)}")
        values = [self.place(name, columns[name]) for name in self.names]
        return np.stack(values, axis=1)

    def place(self, name: str, column) -> np.ndarray:
        """A column as in `values`, float64 [n]: numbers, or the indices of words; ValueError for an unknown word."""
        if name not in self.categories:
            return np.asarray(column, np.float64)
        known = np.array(self.words[self.categories.index(name)])
        order = np.argsort(known)
        found = order[np.searchsorted(known, column, sorter=order).clip(max=len(known) - 1)]
        if (wrong := known[found] != column).any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"column {name!r}, row {row} is {str(column[row])!r:.80}, unknown to the model; expected one "
                f"of {listed(known.tolist())}"
            )
        return found.astype(np.float64)

    def _checked(self, values) -> np.ndarray:
        values = np.asarray(values, np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise ValueError(
                f"values have shape {values.shape}; expected [n, {len(self.names)}], the columns {listed(self.names)}"
            )
        return values


class MixedTable:
    """A table with columns of numbers and of categories, from a `.csv`, `.npy` or `.npz` file.

    Args:
        path: the file.
        categories: the names of the columns of categories, whose values are words, or whole numbers such as codes. All
            others are numbers.
        split: "train", "validation" or "test" for about 90, 5 or 5 % of the rows; None for all. The split of a row
            depends on its values alone, as in a `Table`.

    Attributes:
        columns: names, means, scales and words: `MixedColumns`. Means and scales are those of the split "train", or of
            all rows if the split is None; words are those of the whole file.
        values: the rows of the split in the file's order, float64 `[n, columns]`, words as indices.
        suffix: the suffix of the file.

    Raises:
        TypeError: if `categories` is not a tuple of names.
        ValueError: if the file is not a table (`read_rows`), one of `categories` is not a column or has not 2 to 1,000
            words, or the split has no rows.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "people.csv")
        ...     _ = path.write_text("age,job\\n30,nurse\\n50,cook\\n")
        ...     table = data.MixedTable(path, categories=("job",))
        >>> table.columns.words, table.columns.parts(table.values)["age"].tolist()
        ((('cook', 'nurse'),), [[-1.0], [1.0]])
    """

    def __init__(self, path: str | os.PathLike, categories: Sequence[str] = (), split: Split | None = None):
        check_split(split)
        self._path = path
        categories = check_names("categories", categories)
        self._raw = read_columns(path, categories)
        names, n = tuple(self._raw), len(next(iter(self._raw.values())))
        self._numbers = tuple(name for name in names if name not in categories)
        of_words = [self._raw[name] for name in names if name in categories]
        self._words = tuple(tuple(np.unique(column).tolist()) for column in of_words)
        self._train = self._chosen = np.ones(n, bool)
        if split is not None:
            numbers = np.array([self._raw[name] for name in self._numbers]).reshape(-1, n).T + 0.0  # turns -0 into 0
            words = np.array(of_words, str).reshape(-1, n).T.tolist()
            rows = zip(numbers, words, strict=True)
            splits = np.array([split_of(row.tobytes() + "\0".join(text).encode()) for row, text in rows])
            self._train, self._chosen = splits == "train", splits == split
        if not self._chosen.any():
            raise ValueError(f"{path} has too few rows: {n}, and none in its split {split!r}; expected more")
        self.suffix = Path(path).suffix.lower()

    def __len__(self) -> int:
        return int(self._chosen.sum())

    @functools.cached_property
    def columns(self) -> MixedColumns:
        """Names, means, scales and words."""
        numbers = None
        if self._numbers:
            rows = np.stack([self._raw[name][self._train] for name in self._numbers], axis=1)
            if len(rows) < 2:
                raise ValueError(f"{self._path} has too few rows: {len(rows)} for training; expected more")
            numbers = learned(self._path, self._numbers, rows)
        try:
            return MixedColumns(tuple(self._raw), numbers, self._words)
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from None

    @property
    def raw(self) -> dict[str, np.ndarray]:
        """The columns of the rows of the split, as in the file: numbers and words."""
        return {name: column[self._chosen] for name, column in self._raw.items()}

    @property
    def values(self) -> np.ndarray:
        """The rows of the split, float64 [n, columns]."""
        return self.columns.read(self.raw)
