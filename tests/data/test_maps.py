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


def font_of(pictures, kind=17):
    """A font with these PNGs; every second glyph of two ranges has none."""
    cbdt, subtables = struct.pack(">HH", 3, 0), []
    halves = [pictures[: len(pictures) // 2], pictures[len(pictures) // 2 :]]
    first = 3
    for half in halves:
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
    size = struct.pack(">IIII", 56, len(arrays + bodies), len(subtables), 0) + bytes(32)
    cblc = struct.pack(">HHI", 3, 0, 1) + size + arrays + bodies
    tables = {b"CBDT": cbdt, b"CBLC": cblc}
    head, body = struct.pack(">IHHHH", 0x00010000, len(tables), 0, 0, 0), b""
    for name, content in tables.items():
        head += name + struct.pack(">III", 0, 12 + 16 * len(tables) + len(body), len(content))
        body += content
    return head + body


@pytest.fixture
def folder(tmp_path):
    """Forty glyphs, red and blue in turn, twice as wide as they are high."""
    pictures = [png((*(RED if i % 2 == 0 else SKY), 255), 128, 64) for i in range(40)]
    (tmp_path / emoji.FONT).write_bytes(font_of(pictures))
    return tmp_path


def test_emoji_are_the_font_s_pictures_on_white_in_the_nearest_colours(folder):
    found = {split: maps("emoji", split, folder) for split in ("train", "validation", "test", None)}
    assert [len(one) for one in found.values()] == [34, 2, 4, 40]
    palette = np.array(found[None].palette)
    colours = palette[found[None].tokens]
    assert colours.shape == (40, 32, 32, 3)
    assert (colours[:, :7] == palette[0]).all()
    assert (colours[:, -7:] == palette[0]).all()
    for i, one in enumerate(colours):
        assert (one[9:23] == (RED if i % 2 == 0 else SKY)).all()
    np.testing.assert_array_equal(found["test"].tokens, found[None].tokens[9::10])
    np.testing.assert_array_equal(found["validation"].tokens, found[None].tokens[4::20])
    assert found["train"].categories == 8


@pytest.mark.parametrize("content", [b"", b"no font at all", font_of([png((*RED, 255), 300, 300)] * 2),
    font_of([png((*RED, 255), 8, 8)] * 2, kind=18), font_of([b"GIF89a"] * 2)])  # fmt: skip
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
