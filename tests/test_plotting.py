import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxdiff import plotting
from jaxdiff.plotting import Density, Field, Paths, Points, lines, panels, plane, sample_grid, strip, training_curve


def _pixels(path):
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"), float)


def _tile_of(pixels, image, scale):
    """Where `image`, each pixel `scale` wide, stands in the picture: its top and left, or None."""
    want = np.kron((np.clip(image, -1, 1) + 1) / 2 * 255, np.ones((scale, scale, 1)))
    want = np.broadcast_to(want, (*want.shape[:2], 3))
    for top in range(pixels.shape[0] - want.shape[0] + 1):
        matches = np.abs(pixels[top, :, 0] - want[0, 0, 0]) < 1
        for left in np.flatnonzero(matches[: pixels.shape[1] - want.shape[1] + 1]):
            if np.abs(pixels[top : top + want.shape[0], left : left + want.shape[1]] - want).max() < 1:
                return top, left
    return None


@pytest.mark.parametrize(("channels", "size", "scale"), [(1, 8, 7), (3, 8, 7), (3, 64, 1)])
def test_every_image_of_a_grid_is_there_pixel_for_pixel_and_in_reading_order(tmp_path, channels, size, scale):
    images = np.random.default_rng(0).uniform(-1.5, 1.5, (5, size, size, channels))
    sample_grid(images, tmp_path / "grid.png", columns=3)
    pixels = _pixels(tmp_path / "grid.png")
    places = [_tile_of(pixels, image, scale) for image in images]
    assert None not in places
    assert places == sorted(places)
    tops, lefts = zip(*places)
    assert len(set(tops)) == 2
    assert len(set(lefts)) == 3


def test_the_strip_shows_every_frame_under_its_t(tmp_path):
    frames = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1))
    figure = strip(frames, tmp_path / "strip.png", times=[0, 0.25, 0.5, 1])
    pixels = _pixels(tmp_path / "strip.png")
    places = [_tile_of(pixels, frame, 10) for frame in frames]
    assert places == sorted(places)
    assert len({top for top, _ in places}) == 1
    assert [text.get_text() for text in figure.axes[0].texts] == ["t = 0", "0.25", "0.5", "1"]


def test_a_strip_of_rows_names_them():
    figure = strip(np.zeros((2, 3, 8, 8, 1)), names=["noising", "denoising"], title="both ways")
    assert {text.get_text() for text in figure.axes[0].texts} == {"noising", "denoising", "both ways"}


@pytest.mark.parametrize("dpi", [72, 144])
@pytest.mark.parametrize("name", ["WMWMWMWM WMWM", "DPMSolverPP(order=2), 20 steps", "i", ""])
def test_no_name_of_a_row_is_cut(name, dpi):
    file = io.BytesIO()
    strip(np.zeros((2, 3, 8, 8, 1)), names=[name, "x"]).savefig(file, format="png", dpi=dpi)
    picture = np.asarray(Image.open(file).convert("L"))
    assert (picture[:, :4] == 255).all()
    assert (picture[:, 4:] < 255).any()


def test_a_grid_names_its_rows():
    figure = sample_grid(np.zeros((5, 8, 8, 1)), columns=3, names=["cat", "dog"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["cat", "dog"]
    with pytest.raises(ValueError, match="names has 1 entries; expected 2, one for each row"):
        sample_grid(np.zeros((5, 8, 8, 1)), columns=3, names=["cat"])


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (
            lambda: sample_grid(np.zeros((2, 8, 8, 1), np.uint8)),
            TypeError,
            "images have dtype uint8; .*levels - 1",
        ),
        (
            lambda: sample_grid(np.zeros((2, 8, 8))),
            ValueError,
            r"images have shape \(2, 8, 8\); .*\[n, H, W, C\]",
        ),
        (lambda: sample_grid(np.zeros((2, 8, 8, 2))), ValueError, r"\(2, 8, 8, 2\); .*C = 1 or 3"),
        (lambda: sample_grid(np.zeros((0, 8, 8, 1))), ValueError, r"\(0, 8, 8, 1\)"),
        (
            lambda: sample_grid(np.full((2, 8, 8, 1), np.nan)),
            ValueError,
            r"images\[0\] holds a NaN .*2 of 2 do",
        ),
        (
            lambda: sample_grid(np.zeros((2, 8, 8, 1)), columns=0),
            ValueError,
            "columns = 0; expected at least 1",
        ),
        (lambda: strip(np.zeros((8, 8, 1))), ValueError, r"trajectory have shape \(8, 8, 1\)"),
        (
            lambda: strip(np.zeros((3, 8, 8, 1)), times=[0, 1]),
            ValueError,
            r"times has shape \(2,\); expected \(3,\)",
        ),
        (
            lambda: strip(np.zeros((3, 8, 8, 1)), names=["a", "b"]),
            ValueError,
            "names has 2 entries; expected 1",
        ),
        (lambda: training_curve([]), ValueError, 'none of 0 records has a "step"'),
        (lambda: training_curve([{"step": 1, "loss": np.nan}]), ValueError, "none of 1 records"),
        (lambda: panels({}), ValueError, "panels is empty"),
        (lambda: panels({"x": np.zeros((3, 2))}), TypeError, "panel 'x' holds a ndarray"),
        (
            lambda: panels({"x": Points(np.zeros((3, 3)))}),
            ValueError,
            r"points has shape \(3, 3\); expected \[n, 2\]",
        ),
        (lambda: panels({"x": Points(np.full((3, 2), np.inf))}), ValueError, "points holds 6 values"),
        (lambda: panels({"x": Paths(np.zeros((3, 2)))}), ValueError, r"paths has shape \(3, 2\)"),
        (lambda: panels({"x": Density(lambda at: np.zeros(3))}), ValueError, r"log-density has shape \(3,\)"),
        (lambda: panels({"x": Density(np.zeros((2, 8)))}), ValueError, r"log-density has shape \(2, 8\)"),
        (lambda: panels({"x": Field(lambda at: at[:, 0])}), ValueError, r"the field has shape"),
        (lambda: plane(0.0, 10), ValueError, "extent = 0.0"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_the_training_curve_shows_what_was_recorded_and_its_trend():
    rng = np.random.default_rng(0)
    step = np.arange(10, 5001, 10)
    trend = 0.3 + step / 1e5
    metrics = [{"step": int(s), "loss": float(x)} for s, x in zip(step, trend + 0.05 * rng.standard_normal(500))]
    metrics += [{"step": 77, "bits_per_dim": 3.0}, {"step": 78, "loss": float("nan")}]
    axes = training_curve(metrics[::-1]).axes[0]
    raw, smooth = axes.lines
    np.testing.assert_array_equal(raw.get_xdata(), step)
    np.testing.assert_array_equal(raw.get_ydata(), [m["loss"] for m in metrics[:500]])
    # A Gaussian window of 83 steps averages about 29 records inside the run and half of them at its ends.
    assert np.abs(smooth.get_ydata() - (0.3 + smooth.get_xdata() / 1e5)).max() < 4 * 0.05 / np.sqrt(29 / 2)
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(("last", "scale"), [(0.5, "linear"), (0.01, "log"), (-0.5, "linear")])
def test_the_loss_is_logarithmic_where_it_spans_decades_and_is_positive(last, scale):
    metrics = [{"step": step, "loss": last if step > 500 else 1.0} for step in range(1, 1001)]
    axes = training_curve(metrics).axes[0]
    assert axes.get_yscale() == scale
    assert axes.get_ylabel() == {"linear": "loss", "log": "loss (log scale)"}[scale]


def test_one_record_is_a_curve():
    (raw, _) = training_curve([{"step": 10, "loss": 1.0}]).axes[0].lines
    assert raw.get_marker() == "."


def test_the_plane_is_the_midpoints_of_equal_cells():
    at = plane(2.0, 4)
    np.testing.assert_allclose(at[:4], [[-1.5, -1.5], [-0.5, -1.5], [0.5, -1.5], [1.5, -1.5]])
    cell = (2 * 3.0 / 200) ** 2
    density = np.exp(-np.sum(plane(3.0, 200) ** 2, axis=1) / (2 * 0.3**2)) / (2 * np.pi * 0.3**2)
    assert abs(density.sum() * cell - 1) < 1e-6


def _log_normal(mean, std):
    return lambda at: -np.sum((at - np.array(mean)) ** 2, axis=1) / (2 * std**2) - np.log(2 * np.pi * std**2)


def test_a_density_lies_where_it_should_and_two_share_one_scale(tmp_path):
    narrow, wide = _log_normal([1.5, -1.0], 0.2), _log_normal([0.0, 0.0], 0.6)
    figure = panels({"narrow": Density(narrow), "wide": Density(wide(plane(2.5, 50)), resolution=50)})
    *panes, bar = figure.axes
    first, second = (axes.images[0] for axes in panes)
    row, column = np.unravel_index(np.argmax(first.get_array()), first.get_array().shape)
    x, y = plane(2.5, 160).reshape(160, 160, 2)[row, column]
    assert np.hypot(x - 1.5, y + 1.0) < 5 / 160
    assert first.origin == "lower"
    assert first.get_extent() == [-2.5, 2.5, -2.5, 2.5]
    peak = 1 / (2 * np.pi * 0.2**2)
    assert first.get_clim() == second.get_clim()
    np.testing.assert_allclose(first.get_clim(), (0, peak), rtol=0.01)
    assert bar.get_ylabel() == "density"
    assert bar.get_ylim() == first.get_clim()


def test_a_density_is_evaluated_once():
    calls = []

    def log_prob(at):
        calls.append(len(at))
        return np.zeros(len(at))

    panels({"a": Density(log_prob, resolution=20)})
    assert calls == [400]


def test_arrows_keep_their_direction_and_the_order_of_their_lengths():
    figure = panels({"score": Field(lambda at: -np.exp(2 * np.abs(at)) * at, arrows=9)})
    (arrows,) = figure.axes[0].collections
    at = plane(2.5, 9)
    vectors = -np.exp(2 * np.abs(at)) * at
    shown = np.stack([arrows.U, arrows.V], axis=1)
    length, true = np.linalg.norm(shown, axis=1), np.linalg.norm(vectors, axis=1)
    away = true > 0
    np.testing.assert_allclose(shown[away] / length[away, None], vectors[away] / true[away, None], atol=1e-6)
    by_length = np.argsort(true)
    assert (np.diff(length[by_length]) > -1e-9).all()
    np.testing.assert_allclose(length.max(), 5 / 9)
    np.testing.assert_array_equal(arrows.get_offsets(), at)


def test_paths_end_in_dots():
    paths = np.random.default_rng(0).standard_normal((7, 3, 2))
    lines, dots = panels({"paths": Paths(paths)}).axes[0].collections
    np.testing.assert_allclose(lines.get_segments(), paths.swapaxes(0, 1))
    np.testing.assert_allclose(dots.get_offsets(), paths[-1])


def test_panels_stand_in_rows_and_hold_several_layers(tmp_path):
    points = np.zeros((4, 2))
    layers = {"a": Points(points), "b": [Points(points), Points(points)], "c": Points(points)}
    figure = panels(layers, tmp_path / "panels.png", columns=2, extent=3.0, title="three")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c"]
    assert len(figure.axes[1].collections) == 2
    assert {axes.get_xlim() for axes in figure.axes} == {(-3, 3)}
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y1
    assert boxes[0].x1 < boxes[1].x0
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == [("", "x₂"), ("x₁", ""), ("x₁", "x₂")]
    assert (tmp_path / "panels.png").stat().st_size > 0


def test_lines_keep_a_names_colour_and_mark_across_panels():
    n = np.array([10.0, 20.0, 40.0])
    first = {"a": (n, 1 / n), "b": (n, 1 / n**2)}
    figure = lines({"one": first, "two": {"b": (n, 1 / n)}}, x="evaluations", y="error", floors={"two": 0.01})
    one, two = figure.axes
    assert [line.get_color() for line in one.lines][1] == two.lines[0].get_color() != one.lines[0].get_color()
    assert one.lines[1].get_marker() == two.lines[0].get_marker()
    np.testing.assert_array_equal(one.lines[1].get_xydata(), np.stack([n, 1 / n**2], 1))
    assert list(two.lines[-1].get_ydata()) == [0.01, 0.01]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert (one.get_xscale(), one.get_yscale()) == ("log", "log")
    assert (one.get_xlabel(), one.get_ylabel()) == ("evaluations (log scale)", "error (log scale)")


@pytest.mark.parametrize(
    ("panels", "floors", "message"),
    [
        ({}, None, "panels or one of them is empty"),
        ({"one": {}}, None, "panels or one of them is empty"),
        ({"one": {"a": ([1, 2], [1])}}, None, "one, a: .*expected two arrays"),
        ({"one": {"a": ([1, 2], [1, 0])}}, None, "numbers above 0"),
        ({"one": {"a": ([1], [1])}}, {"two": 1.0}, r"floors has \['two'\]; expected names among \['one'\]"),
    ],
)
def test_lines_that_cannot_be_drawn_are_an_error(panels, floors, message):
    with pytest.raises(ValueError, match=message):
        lines(panels, floors=floors)


def test_estimates_have_bars_of_their_standard_errors():
    n, y, error = np.array([10.0, 20.0]), np.array([-1.0, 2.0]), np.array([0.5, 0.25])
    figure = plotting.estimates({"one": {"a": (n, y, error)}, "two": {"b": (n, y, error), "a": (n, 2 * y, error)}})
    (line, _, (bars,)), *_ = figure.axes[0].containers
    np.testing.assert_array_equal(line.get_xydata(), np.stack([n, y], 1))
    np.testing.assert_array_equal([bar[:, 1] for bar in bars.get_segments()], [[-1.5, -0.5], [1.75, 2.25]])
    assert line.get_color() == figure.axes[1].containers[1].lines[0].get_color()
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "linear")


def test_nothing_drawn_needs_pyplot_or_a_display(tmp_path):
    code = (
        "import sys, numpy as np; from jaxdiff import plotting;"
        "plotting.sample_grid(np.zeros((4, 8, 8, 1)), sys.argv[1]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "grid.png")], check=True, env={"PATH": ""})


def test_a_notebook_shows_a_picture_as_png():
    png = plotting.sample_grid(np.zeros((1, 8, 8, 1)))._repr_png_()
    assert re.match(rb"\x89PNG\r\n", png)


def test_columns_of_words_have_bars_and_points_at_their_words():
    rows = np.array([[5.0, 0], [6.0, 2], [7.0, 2], [8.0, 1]])
    words = {"job": ("cook", "nurse", "a very long profession")}
    figure = plotting.pairs({"samples": rows}, ("age", "job"), words=words)
    _, points, bars = figure.axes
    assert [label.get_text() for label in points.get_yticklabels()] == ["cook", "nurse", "a very long…"]
    at = points.collections[0].get_offsets()
    assert {(x, round(y)) for x, y in at} == {*map(tuple, rows)}
    (outline,) = bars.patches
    assert sorted(set(outline.get_xy()[:, 1])) == [0, 0.25, 0.5]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["cook", "nurse", "a very long…"]


@pytest.mark.parametrize("rows", [[[0.0, 5.0]], [[1e30, -1e30], [1e30, -1e30]], [[1e5 + 1e-3, 1.0], [1e5, 2.0]]])
def test_rows_of_one_value_have_a_picture_by_pairs(tmp_path, rows):
    plotting.pairs({"samples": np.array(rows)}, ("a", "b"), tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").stat().st_size > 0
