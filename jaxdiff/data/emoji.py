"""The pictures in a font of emoji: Debian's package fonts-noto-color-emoji.

Such a font has one PNG per glyph in its table CBDT, indexed by the table CBLC (OpenType 1.9). If it has its pictures in
several sizes, the largest is read. A picture is composed on a white square and resized to 32 x 32 pixels by Lanczos'
filter.
"""

import functools
import io
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxdiff.arrays import check_file, require

FONT = "NotoColorEmoji.ttf"
DEBIAN = Path("/usr/share/fonts/truetype/noto")
SIZE = 32
EVERY_GLYPH, SMALL_PNG = 1, 17  # the index format and the image format of such fonts
LARGEST = 256  # the most pixels along a side of a glyph


@functools.lru_cache(maxsize=1)
def read_emoji(folder: Path) -> np.ndarray:
    """Every emoji of the font in `folder`, in its order: uint8 [n, 32, 32, 3], cached and read-only.

    Raises FileNotFoundError if the font is missing, ValueError if it has no such pictures.
    """
    path = folder / FONT
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; on Debian and Ubuntu: apt-get install fonts-noto-color-emoji, or give the folder "
            f"where {FONT} is"
        )
    font = check_file(path).read_bytes()
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            emoji = np.stack([*pool.map(_square, _pngs(font))])
    except Exception as error:  # a damaged file raises whatever its parser does
        raise ValueError(f"{path} is not a font with a picture per emoji ({error}); install it again") from error
    emoji.flags.writeable = False
    return emoji


def _pngs(font: bytes) -> Iterator[bytes]:
    """The PNG of each glyph that has one in the largest size, in the order of the glyphs."""
    (count,) = struct.unpack_from(">H", font, 4)
    tables = {font[at : at + 4]: struct.unpack_from(">I", font, at + 8)[0] for at in range(12, 12 + 16 * count, 16)}
    index, pictures = tables[b"CBLC"], tables[b"CBDT"]
    (sizes,) = struct.unpack_from(">I", font, index + 4)
    largest = max(range(index + 8, index + 8 + 48 * sizes, 48), key=lambda at: font[at + 45])  # pixels per em
    within, _, ranges = struct.unpack_from(">III", font, largest)
    for i in range(ranges):
        first, last, further = struct.unpack_from(">HHI", font, index + within + 8 * i)
        at = index + within + further
        kind, picture, start = struct.unpack_from(">HHI", font, at)
        if (kind, picture) != (EVERY_GLYPH, SMALL_PNG):
            raise ValueError(f"its pictures are of kind {kind}, {picture}; expected {EVERY_GLYPH}, {SMALL_PNG}")
        offsets = struct.unpack_from(f">{last - first + 2}I", font, at + 8)
        for begin, end in zip(offsets, offsets[1:]):
            if end > begin:
                (size,) = struct.unpack_from(">I", font, pictures + start + begin + 5)
                begin += pictures + start + 9
                yield font[begin : begin + size]


def _square(png: bytes) -> np.ndarray:
    require("PIL")
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if not 1 <= min(image.size) <= max(image.size) <= LARGEST:
            raise ValueError(f"a glyph has {image.size} pixels; expected at most {LARGEST} along a side")
        side, glyph = max(image.size), image.convert("RGBA")
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return np.asarray(canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))
