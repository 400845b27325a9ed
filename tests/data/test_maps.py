"""Maps of categories: silhouettes, and the emoji of a font that is made here by the letter of OpenType 1.9."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import Images, category_maps, emoji, maps

RED, SKY = (222, 57, 45), (52, 125, 196)


def png(colour, width, height):
    file = io.BytesIO()
    Image.new("RGBA", (width, height), colour).save(file, "png")
    return file.getvalue()


def font_of(*strikes, kind=17):
    """A font with these PNGs, for each strike (pixels per em, PNGs); every second glyph of two ranges has none."""
    cbdt, sizes, bodies = struct.pack(">HH", 3, 0), b"", b""
    for ppem, pictures in strikes:
        cbdt, count, body = strike_of(cbdt, pictures, kind)
        start = 8 + 48 * len(strikes) + len(bodies)
        sizes += struct.pack(">IIII", start, len(body), count, 0) + bytes(28) + bytes([ppem, ppem, 32, 1])
        bodies += body
    tables = {b"CBDT": cbdt, b"CBLC": struct.pack(">HHI", 3, 0, len(strikes)) + sizes + bodies}
    head, body = struct.pack(">IHHHH", 0x00010000, len(tables), 0, 0, 0), b""
    for name, content in tables.items():
        head += name + struct.pack(">III", 0, 12 + 16 * len(tables) + len(body), len(content))
        body += content
    return head + body


def strike_of(cbdt, pictures, kind):
    """CBDT with further PNGs, the number of their subtables in CBLC, and these."""
    first, subtables = 3, []
    for half in (pictures[: len(pictures) // 2], pictures[len(pictures) // 2 :]):
        start, offsets = len(cbdt), [0]
        for picture in half:
            cbdt += bytes([0] * 5) + struct.pack(">I", len(picture)) + picture
            offsets += [len(cbdt) - start] * 2  # the next glyph is empty
        subtables.append((first, first + len(offsets) - 2, struct.pack(">HHI", 1, kind, start), offsets))
        first += len(offsets) + 5
    arrays, bodies = b"", b""
    for begin, end, header, offsets in subtables:
        arrays += struct.pack(">HHI", begin, end, 8 * len(subtables) + len(bodies))
        bodies += header + struct.pack(f">{len(offsets)}I", *offsets)
    return cbdt, len(subtables), arrays + bodies


@pytest.fixture
def folder(tmp_path):
    """Forty glyphs, red and blue in turn, twice as wide as they are high."""
    pictures = [png((*(RED if i % 2 == 0 else SKY), 255), 128, 64) for i in range(40)]
    (tmp_path / emoji.FONT).write_bytes(font_of((109, pictures)))
    return tmp_path


def test_emoji_are_the_font_s_pictures_on_white_in_the_nearest_colours(folder):
    numbers = {"validation": [4, 24], "test": [9, 19, 29, 39]}
    numbers["train"] = [i for i in range(40) if i not in numbers["validation"] + numbers["test"]]
    for split, wanted in numbers.items():
        found = maps("emoji", split, folder)
        assert (len(found), found.categories) == (len(wanted), 8)
        palette = np.array(found.palette)
        colours = palette[found.tokens]
        assert colours.shape == (len(wanted), 32, 32, 3)
        assert (colours[:, :7] == palette[0]).all()
        assert (colours[:, -7:] == palette[0]).all()
        for i, one in zip(wanted, colours):
            assert (one[9:23] == (RED if i % 2 == 0 else SKY)).all()


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_sizes_the_largest_is_read(tmp_path, order):
    strikes = (32, [png((*SKY, 255), 32, 32)] * 12), (109, [png((*RED, 255), 128, 128)] * 11)
    (tmp_path / emoji.FONT).write_bytes(font_of(*strikes[::order]))
    found = maps("emoji", "test", tmp_path)
    assert (np.array(found.palette)[found.tokens] == RED).all()
    assert len(found) == 1


@pytest.mark.parametrize("name", ["fashion", "emoji"])
def test_maps_are_of_one_split(name, folder):
    with pytest.raises(ValueError, match='split = None; expected "train" or "validation" or "test"'):
        maps(name, None, folder)


@pytest.mark.parametrize("content", [b"", b"no font at all", font_of((99, [png((*RED, 255), 300, 300)] * 2)),
    font_of((9, [png((*RED, 255), 8, 8)] * 2), kind=18), font_of((9, [b"GIF89a"] * 2)), font_of()])  # fmt: skip
def test_a_font_without_such_pictures_is_refused_by_name(tmp_path, content):
    (tmp_path / emoji.FONT).write_bytes(content)
    with pytest.raises(ValueError, match="NotoColorEmoji.ttf is not a font with a picture per emoji"):
        maps("emoji", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install fonts-noto-color-emoji"):
        maps("emoji", folder=tmp_path / "nowhere")


def test_silhouettes_are_the_class_where_a_pixel_is_light(monkeypatch):
    image = np.array([[[31, 32], [255, 0]], [[0, 200], [10, 33]]], np.uint8)[..., None]
    clothes = Images(image, np.array([0, 9], np.int32), 256, 10)
    monkeypatch.setattr(category_maps, "load_fashion_mnist", lambda *given: clothes)
    found = maps("fashion", "test")
    assert found.tokens.tolist() == [[[0, 1], [1, 0]], [[0, 10], [0, 10]]]
    assert found.categories == 11
    assert len(set(found.palette)) == 11
    assert list(found.examples) == ["x", "label"]


@pytest.mark.slow
@pytest.mark.skipif(not (emoji.DEBIAN / emoji.FONT).exists(), reason="needs fonts-noto-color-emoji")
def test_the_colours_are_the_means_of_the_pixels_that_are_nearest_to_them():
    pixels = emoji.read_emoji(emoji.DEBIAN)
    at = np.arange(len(pixels))
    pixels = pixels[(at % 10 != 9) & (at % 20 != 4)].reshape(-1, 3)
    nearest = maps("emoji", "train").tokens.ravel()
    means = [pixels[nearest == i].mean(0) for i in range(8)]
    np.testing.assert_allclose(category_maps.COLOURS, means, atol=0.6)
    shares = np.bincount(nearest)
    assert (np.diff(shares) <= 0).all()
