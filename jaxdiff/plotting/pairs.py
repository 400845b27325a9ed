"""Pair plots of tables: a histogram of each column, and a scatter plot of each two."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdiff.arrays import check_instance, check_real
from jaxdiff.plotting.picture import BLUE, FAINT, GREY, HUES, INK, PathLike, Picture

MOST = 6  # columns shown
CROWD = 2000  # points shown


def pairs(
    sets: Mapping[str, np.ndarray], columns: Sequence[str], path: PathLike = None, title: str | None = None
) -> Picture:
    """Plot the columns of tables against each other: histograms on the diagonal, scatter plots below it.

    The first set, such as the data, is grey, and the next one blue. At most the first six columns are shown, and in
    scatter plots 2,000 random rows.

    Args:
        sets: tables {name: `[n, columns]`} that are drawn over each other.
        columns: the names of the columns.
        path: file to save the picture in, if any.
        title: title of the picture.

    Raises:
        ValueError: for sets of another shape, or with a NaN.

    Examples:
        >>> import numpy as np
        >>> import jaxdiff as jd
        >>> data, samples = np.random.default_rng(0).normal(size=(2, 100, 2))
        >>> picture = jd.plotting.pairs({"data": data, "samples": samples}, ["age", "income"])
        >>> len(picture.axes)  # two histograms and one scatter plot
        3
    """
    check_instance("sets", sets, Mapping, "{name: rows [n, columns]}")
    rows = {name: np.asarray(check_real(name, values), np.float64) for name, values in sets.items()}
    for name, values in rows.items():
        if values.ndim != 2 or values.shape[1] != len(columns) or not len(values) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} has shape {values.shape}; expected [n, {len(columns)}] of finite numbers, a column each"
            )
    if not rows:
        raise ValueError("sets is empty; expected {name: rows}, for example {'data': x, 'samples': y}")
    side, left, above = 1.7, 0.75, 0.45  # inches
    shown = min(len(columns), MOST)
    width, height = left + shown * side + 0.15, above + shown * side + 0.55
    picture = Picture(width, height)
    colors = [GREY, BLUE, *HUES[1:]] if len(rows) > 1 else [BLUE]
    first = next(iter(rows.values()))
    crowds = [values[np.random.default_rng(0).permutation(len(values))[:CROWD]] for values in rows.values()]
    for i in range(shown):
        for j in range(i + 1):
            box = (left + j * side, height - above - (i + 1) * side, side * 0.9, side * 0.9)
            axes = picture.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            low, high = np.quantile(first[:, [j, i]], [0.001, 0.999], axis=0)
            spread = high - low
            margin = np.where(
                spread > 1e-12 * np.abs(high), 0.15 * spread, np.maximum(np.abs(high), 1.0)
            )  # a constant column
            low, high = low - margin, high + margin
            for color, values, crowd in zip(colors, rows.values(), crowds):
                if i == j:
                    axes.hist(
                        values[:, i], bins=40, range=(low[0], high[0]), density=True, histtype="step", color=color
                    )
                else:
                    axes.scatter(crowd[:, j], crowd[:, i], s=3, alpha=0.4, color=color, linewidths=0)
            axes.set_xlim(low[0], high[0])
            axes.set_yticks([]) if i == j else axes.set_ylim(low[1], high[1])
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
