"""Curves: the loss of a training run, and several curves on logarithmic axes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from jaxdiff.arrays import check_instance, check_scalar, check_whole
from jaxdiff.plotting.picture import BLUE, FAINT, GREY, HUES, INK, PathLike, Picture


def training_curve(metrics: Sequence[Mapping], path: PathLike = None, title: str | None = None) -> Picture:
    """Plot the loss over the steps, raw and smoothed by a Gaussian window with a std of a sixtieth of the run.

    The axis is logarithmic if the smoothed loss changes more than threefold.

    Args:
        metrics: records {"step", "loss", ...}, as `jaxdiff.training` writes them; other records, and those whose loss
            is not finite, are left out.
        path: file to save the picture in, if any.
        title: title; None is "training loss".

    Raises:
        ValueError: if no record is left.

    Examples:
        >>> import pathlib, tempfile
        >>> import jaxdiff as jd
        >>> metrics = [{"step": step, "loss": 1 / step} for step in range(1, 100)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "loss.png")
        ...     picture = jd.plotting.training_curve(metrics, path)
        ...     print(path.exists())
        True
    """
    check_instance("metrics", metrics, (list, tuple), "a list of records, as jaxdiff.training.read_metrics gives")
    for record in metrics:
        check_instance("a record of metrics", record, Mapping, '{"step": ..., "loss": ...}')
    records = [(r["step"], r["loss"]) for r in metrics if "step" in r and np.isfinite(r.get("loss", np.nan))]
    if not records:
        raise ValueError(f'none of {len(metrics)} records has a "step" and a finite "loss"; train for a step first')
    step, loss = np.array(sorted(records), float).T
    at, smooth = _smoothed(step, loss)

    picture = Picture(6.4, 3.4)
    axes = picture.add_axes((0.11, 0.16, 0.79, 0.7))
    axes.plot(step, loss, color=BLUE, alpha=0.3, linewidth=0.8, marker="." if len(step) == 1 else None)
    axes.plot(at, smooth, color=BLUE, linewidth=2.0)
    last = axes.annotate(f"{smooth[-1]:.3g}", (at[-1], smooth[-1]), (6, 0), textcoords="offset points")
    last.set(color=BLUE, size=9, va="center")
    if loss.min() > 0 and smooth.max() > 3 * smooth.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(0, step[0]), step[-1] + (step[-1] == step[0]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.set_xlabel("step", color=GREY, size=9)
    axes.set_ylabel("loss (log scale)" if axes.get_yscale() == "log" else "loss", color=GREY, size=9)
    axes.set_title(title or "training loss", loc="left", color=INK, size=11, pad=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(which="both", colors=GREY, labelsize=9, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return picture.saved(path)


def lines(
    panels: Mapping[str, Mapping[str, tuple]],
    path: PathLike = None,
    x: str = "",
    y: str = "",
    floors: Mapping[str, float] | None = None,
    columns: int = 2,
) -> Picture:
    """Plot curves on logarithmic axes, in panels; a name has the same colour and marker in all of them.

    Args:
        panels: {panel: {name: (x, y)}}, arrays `[n]` of positive numbers.
        path: file to save the picture in, if any.
        x: label of the x axes.
        y: label of the y axes.
        floors: {panel: y}, the level that no curve can pass, drawn as a dashed line.
        columns: panels in a row.

    Raises:
        ValueError: for no panels, a curve whose arrays differ in length or hold a value that is not above 0, or a floor
            of an unknown panel.

    Examples:
        >>> import jaxdiff as jd
        >>> steps = [5, 10, 20]
        >>> panels = {"error": {"DDIM": (steps, [0.2, 0.1, 0.05]), "Heun": (steps, [0.04, 0.01, 0.0025])}}
        >>> picture = jd.plotting.lines(panels, x="steps", floors={"error": 0.001})
        >>> [axes.get_title("left") for axes in picture.axes]
        ['error']
    """
    check_instance("panels", panels, Mapping, "{panel: {name: (x, y)}}")
    check_whole("columns", columns)
    for title, curves in panels.items():
        check_instance(f"panels[{title!r}]", curves, Mapping, "{name: (x, y)}")
    if floors is not None:
        check_instance("floors", floors, Mapping, "{panel: y}")
        for title, floor in floors.items():
            check_scalar(f"floors[{title!r}]", floor, above=0)
    if not panels or not all(panels.values()):
        raise ValueError("panels or one of them is empty; expected {panel: {name: (x, y)}}")
    level = dict(floors or {})
    if unknown := set(level) - set(panels):
        raise ValueError(f"floors has {sorted(unknown)}; expected names among {sorted(panels)}")
    picture, places, style = _laid_out(panels, columns)
    for (title, curves), (axes, left, bottom) in zip(panels.items(), places):
        axes.set(xscale="log", yscale="log")
        for name, (at, value) in curves.items():
            at, value = np.asarray(at, float), np.asarray(value, float)
            if at.shape != value.shape or at.ndim != 1 or not ((at > 0).all() and (value > 0).all()):
                raise ValueError(f"{title}, {name}: {at} and {value}; expected two arrays [n] of numbers above 0")
            color, mark = style[name]
            axes.plot(at, value, color=color, marker=mark, markersize=3.5, linewidth=1.4)
        if title in level:
            axes.axhline(level[title], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xlabel(f"{x} (log scale)".lstrip() if bottom else "", color=GREY, size=9)
        axes.set_ylabel(f"{y} (log scale)".lstrip() if left else "", color=GREY, size=9)
        for axis in (axes.xaxis, axes.yaxis):
            _number(axis)
    return picture.saved(path)


def estimates(panels: Mapping[str, Mapping[str, tuple]], path: PathLike = None, columns: int = 2) -> Picture:
    """Plot estimates with bars of one standard error, in panels; a name has the same colour and marker in all of them.

    The x axis is logarithmic, the y axis linear.

    Args:
        panels: {panel: {name: (x, y, standard error)}}, arrays `[n]`.
        path: file to save the picture in, if any.
        columns: panels in a row.

    Raises:
        ValueError: for no panels, and for a name whose three arrays differ in length, or hold an x that is not above 0,
            an error below 0, or a value that is not finite.

    Examples:
        >>> import jaxdiff as jd
        >>> steps = [5, 10, 20]
        >>> samples, floor = (steps, [0.4, 0.2, 0.1], [0.02] * 3), (steps, [0.05] * 3, [0.01] * 3)
        >>> picture = jd.plotting.estimates({"Fréchet distance": {"samples": samples, "floor": floor}})
        >>> [axes.get_title("left") for axes in picture.axes]
        ['Fréchet distance']
    """
    check_instance("panels", panels, Mapping, "{panel: {name: (x, y, standard error)}}")
    check_whole("columns", columns)
    for title, curves in panels.items():
        check_instance(f"panels[{title!r}]", curves, Mapping, "{name: (x, y, standard error)}")
    if not panels or not all(panels.values()):
        raise ValueError("panels or one of them is empty; expected {panel: {name: (x, y, standard error)}}")
    picture, places, style = _laid_out(panels, columns)
    for (title, curves), (axes, _, _) in zip(panels.items(), places):
        axes.set_xscale("log")
        for name, given in curves.items():
            at, value, error = (np.asarray(array, float) for array in given)
            shapes = {at.shape, value.shape, error.shape}
            if shapes != {(len(value),)} or not (np.isfinite([at, value, error]).all() and min(at) > 0 <= min(error)):
                raise ValueError(f"{title}, {name}: {given}; expected three arrays [n], x above 0, no error below 0")
            color, mark = style[name]
            axes.errorbar(at, value, error, color=color, marker=mark, markersize=3.5, linewidth=1.4, elinewidth=1.0)
        _number(axes.xaxis)
    return picture.saved(path)


def _laid_out(panels: Mapping[str, Mapping], columns: int) -> tuple[Picture, list[tuple], dict[str, tuple[str, str]]]:
    """A picture, (axes, is in the left column, is in the bottom row) for each panel, and the style of each name."""
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    style = {name: (HUES[i % len(HUES)], "os^Dv"[i // len(HUES) % 5]) for i, name in enumerate(names)}
    columns = min(columns, len(panels))
    width, height = 4.2 * columns + 2.4, 3.1 * (rows := math.ceil(len(panels) / columns))
    picture, places = Picture(width, height), []
    for i, title in enumerate(panels):
        row, column = divmod(i, columns)
        box = ((4.2 * column + 0.7) / width, (height - 3.1 * row - 2.65) / height, 3.4 / width, 2.25 / height)
        axes = picture.add_axes(box)
        axes.set_title(title, loc="left", color=INK, size=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(which="both", colors=GREY, labelsize=8, length=0)
        axes.grid(color=FAINT, linewidth=0.8)
        places.append((axes, column == 0, row == rows - 1))
    entries = [Line2D([], [], color=c, marker=m, markersize=4, linewidth=1.4) for c, m in style.values()]
    picture.legend(entries, names, loc="center left", bbox_to_anchor=(4.2 * columns / width, 0.5), frameon=False)
    return picture, places, style


def _number(axis) -> None:
    """Label a logarithmic axis with plain numbers."""
    decades = np.ptp(np.log10(axis.get_view_interval()))
    subs = (1,) if decades >= 2.5 else (1, 2, 5) if decades >= 0.6 else tuple(range(1, 10))
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _smoothed(step, loss, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the loss there under a Gaussian window whose standard deviation is a sixtieth of the run."""
    at = np.linspace(step[0], step[-1], points)
    width = max((step[-1] - step[0]) / 60, 1)
    return at, np.array([np.average(loss, weights=np.exp(-(((step - s) / width) ** 2) / 2)) for s in at])
