"""Pair plots of tables: a histogram of each column, and a scatter plot of each two."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdiff.arrays import check_instance, check_real
from jaxdiff.plotting.picture import BLUE, FAINT, GREY, HUES, INK, PathLike, Picture

MOST = 6  # columns shown
CROWD = 2000  # points shown
LABELS, LETTERS = 10, 12  # words on an axis, and letters of a word


def pairs(
    sets: Mapping[str, np.ndarray],
    columns: Sequence[str],
    path: PathLike = None,
    title: str | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
) -> Picture:
    """Plot the columns of tables against each other: histograms on the diagonal, scatter plots below it.

    The first set, such as the data, is grey, and the next one blue. At most the first six columns are shown, and in
    scatter plots 2,000 random rows. A column of categories has a bar for each word, and its points are spread around
    the word at random.

    Args:
        sets: tables {name: `[n, columns]`} that are drawn over each other.
        columns: the names of the columns.
        path: file to save the picture in, if any.
        title: title of the picture.
        words: for each column of categories, by its name, the words. Its values are their indices.

    Raises:
        ValueError: for sets of another shape, with a NaN, or with a value that is not the index of a word.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> data, samples = np.random.default_rng(0).normal(size=(2, 100, 2))
        >>> picture = jd.plotting.pairs({"data": data, "samples": samples}, ["age", "income"])
        >>> len(picture.axes)  # two histograms and one scatter plot
        3
    """
    check_instance("sets", sets, Mapping, "{name: rows [n, columns]}")
    words = {} if words is None else words
    check_instance("words", words, Mapping, "{column: its words}")
    if unknown := [name for name in words if name not in columns]:
        raise ValueError(f"words has {unknown[0]!r}; expected some of the columns {', '.join(columns)}")
    rows = {name: np.asarray(check_real(name, values), np.float64) for name, values in sets.items()}
    for name, values in rows.items():
        if values.ndim != 2 or values.shape[1] != len(columns) or not len(values) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} has shape {values.shape}; expected [n, {len(columns)}] of finite numbers, a column each"
            )
    if not rows:
        raise ValueError("sets is empty; expected {name: rows}, for example {'data': x, 'samples': y}")
    for name, values in rows.items():
        for column, known in words.items():
            found = values[:, list(columns).index(column)]
            if (wrong := found[~np.isin(found, np.arange(len(known)))]).size:
                raise ValueError(
                    f"{name} has {column} = {wrong[0]:g}; expected indices of its words, below {len(known)}"
                )
    shown = min(len(columns), MOST)
    aside = 0.45 if words.keys() & set(columns[:shown]) else 0.0  # words are longer than numbers
    side, left, above, below = 1.7, 0.75 + aside, 0.45, 0.55 + aside  # inches
    width, height = left + shown * side + 0.15, above + shown * side + below
    picture = Picture(width, height)
    colors = [GREY, BLUE, *HUES[1:]] if len(rows) > 1 else [BLUE]
    first = next(iter(rows.values()))
    crowds = [_crowd(values, [name in words for name in columns]) for values in rows.values()]
    for i in range(shown):
        for j in range(i + 1):
            known = {axis: words[columns[k]] for axis, k in (("x", j), ("y", i)) if columns[k] in words}
            box = (left + j * side, height - above - (i + 1) * side, side * 0.9, side * 0.9)
            axes = picture.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            low, high = np.quantile(first[:, [j, i]], [0.001, 0.999], axis=0)
            spread = high - low
            margin = np.where(
                spread > 1e-12 * np.abs(high), 0.15 * spread, np.maximum(np.abs(high), 1.0)
            )  # a constant column
            low, high = low - margin, high + margin
            for k, axis in enumerate("xy"):
                if axis in known:
                    low[k], high[k] = -0.5, len(known[axis]) - 0.5
            for color, values, crowd in zip(colors, rows.values(), crowds):
                if i == j:
                    bins = len(known["x"]) if "x" in known else 40
                    axes.hist(
                        values[:, i], bins=bins, range=(low[0], high[0]), density=True, histtype="step", color=color
                    )
                else:
                    axes.scatter(crowd[:, j], crowd[:, i], s=3, alpha=0.4, color=color, linewidths=0)
            axes.set_xlim(low[0], high[0])
            axes.set_yticks([]) if i == j else axes.set_ylim(low[1], high[1])
            if "x" in known:
                axes.set_xticks(*_ticks(known["x"]), rotation=90)
            if "y" in known and i != j:
                axes.set_yticks(*_ticks(known["y"]))
            axes.set_xlabel(columns[j] if i == shown - 1 else "", color=INK, size=9)
            axes.set_ylabel(columns[i] if j == 0 else "", color=INK, size=9)
            axes.tick_params(colors=GREY, labelsize=7, length=0, labelbottom=i == shown - 1, labelleft=j == 0 < i)
            axes.spines[:].set_color(FAINT)
    names = list(rows) if len(rows) > 1 else []
    for k, (name, color) in enumerate(zip(names, colors)):
        picture.text((left + 1.2 * k) / width, 1 - 0.2 / height, name, va="center", color=color, size=10)
    if title:
        place = (left + 1.2 * len(names)) / width
        picture.text(place, 1 - 0.2 / height, title, va="center", color=INK, size=10)
    return picture.saved(path)


def _crowd(values: np.ndarray, of_words: Sequence[bool]) -> np.ndarray:
    """The rows of a scatter plot, with columns of words spread at random so that points do not hide each other."""
    rng = np.random.default_rng(0)
    crowd = values[rng.permutation(len(values))[:CROWD]]
    return crowd + np.where(of_words, rng.uniform(-0.3, 0.3, crowd.shape), 0.0)


def _ticks(words: Sequence[str]) -> tuple[list[int], list[str]]:
    """The ticks of an axis of words: at most `LABELS`, evenly spaced, and shortened to `LETTERS` letters."""
    places = list(range(0, len(words), -(-len(words) // LABELS)))
    shorter = lambda word: word if len(word) <= LETTERS else f"{word[: LETTERS - 1]}…"
    return places, [shorter(words[place]) for place in places]
