"""Folders of pictures: what each kind of file becomes, and what is refused. Pictures are made by Pillow."""

import hashlib
import io
import os
import pickle
import signal
import struct
import time
import zlib

import grain
import numpy as np
import pytest
import tqdm.auto
from PIL import Image

from jaxdiff.data import ImageFolder, Images, batches, fingerprint, pixel_moments
from jaxdiff.data import folder as folders

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, mode=None, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **settings)


def one(tmp_path, *args, size=8, channels=3, suffix=".png", **settings):
    """What a folder makes of one picture."""
    save(tmp_path / f"x{suffix}", *args, **settings)
    return ImageFolder(tmp_path, size, channels)[0]["image"]


@pytest.fixture
def animals(tmp_path):
    """(folder, {path: pixels}): two classes, of which one has a folder within."""
    pixels = {name: noise(8, 8, 3) for name in ("cat/b.PNG", "cat/a.bmp", "dog/more/c.png", "dog/Z.Webp", "dog/d.png")}
    for name, array in pixels.items():
        save(tmp_path / name, array, **({"lossless": True} if name.endswith("Webp") else {}))
    (tmp_path / "README.txt").write_text("not a picture")
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "a.png").write_bytes(b"")
    return tmp_path, pixels


def test_pictures_come_in_the_order_of_their_names_with_their_folders_as_labels(animals):
    folder, pixels = animals
    data = ImageFolder(folder, 8)
    assert data.paths == ["cat/a.bmp", "cat/b.PNG", "dog/Z.Webp", "dog/d.png", "dog/more/c.png"]
    assert (data.names, data.classes, data.levels, data.skipped) == (["cat", "dog"], 2, 256, [])
    assert data.label.tolist() == [0, 0, 1, 1, 1]
    loaded = data.load(progress=False)
    assert (loaded.image.dtype, loaded.label.dtype, loaded.levels, loaded.classes) == (np.uint8, np.int32, 256, 2)
    for i, example in enumerate(data):
        assert (example["label"], example["label"].dtype) == (data.label[i], np.int32)
        for image in (example["image"], loaded.image[i]):
            np.testing.assert_array_equal(image, pixels[data.paths[i]])


def test_without_sub_folders_there_is_one_class(tmp_path):
    save(tmp_path / "a.png", noise(4, 4, 3))
    data = ImageFolder(tmp_path, 4)
    assert (data.names, data.classes, data.label.tolist()) == ([], 1, [0])


def test_batches_of_a_folder_are_those_of_its_pictures_in_memory(animals):
    data = ImageFolder(animals[0], 8)
    loaded = data.load(progress=False)
    arrays = {"image": loaded.image, "label": loaded.label}
    for count in (1, 2):
        shard = grain.sharding.ShardOptions(count - 1, count)
        streamed, held = (batches(of, 4, 0, shard) for of in (pickle.loads(pickle.dumps(data)), arrays))
        for step in range(3):
            for name in arrays:
                np.testing.assert_array_equal(streamed[step][name], held[step][name])
                assert streamed[step][name].dtype == held[step][name].dtype


def test_a_picture_is_halved_and_cut_to_its_centre(tmp_path):
    pixels = noise(32, 72, 3)
    means = pixels.reshape(8, 4, 18, 4, 3).mean((1, 3))  # Pillow rounds after each axis of each halving: 4 halves
    np.testing.assert_allclose(one(tmp_path, pixels), means[:, 5:13], atol=2)


@pytest.mark.parametrize(  # the longer side: 31 -> 15 -> 12, 7 -> 11, 100 -> 80
    ("shape", "longer"), [((9, 9), 8), ((20, 31), 12), ((5, 7), 11), ((100, 10), 80)]
)
def test_any_size_becomes_the_size_about_the_same_centre(tmp_path, shape, longer):
    """A ramp along the longer side is found where it lay, to half a pixel of it: by that much Pillow's box wanders."""
    n, wide = max(shape), shape[1] >= shape[0]
    ramp = np.linspace(40, 210, n)
    found = one(tmp_path, np.broadcast_to(ramp if wide else ramp[:, None], shape).astype(np.uint8), channels=1)[..., 0]
    places = ((longer - 8) // 2 + np.arange(8) + 0.5) * n / longer - 0.5
    step = 170 / (n - 1)
    lines = (found if wide else found.T).astype(float)
    np.testing.assert_allclose(lines[:, 1:-1], np.tile(40 + step * places[1:-1], (8, 1)), atol=0.5 * step + 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (500, 7)])
def test_the_smallest_and_the_longest_pictures_fit_too(tmp_path, shape):
    np.testing.assert_array_equal(one(tmp_path, np.full(shape, 77, np.uint8)), np.full((8, 8, 3), 77))


def test_what_a_file_holds_becomes_eight_bits_of_colour_or_grey(tmp_path):
    grey = noise(8, 8)
    deep = (grey.astype(np.uint16) << 8) + noise(8, 8)
    np.testing.assert_array_equal(one(tmp_path, deep, channels=1)[..., 0], grey)
    np.testing.assert_array_equal(one(tmp_path, deep), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(one(tmp_path, grey, channels=1)[..., 0], grey)
    np.testing.assert_array_equal(one(tmp_path, grey > 99), 255 * np.stack([grey > 99] * 3, -1))
    palette = Image.fromarray(noise(8, 8, 3)).quantize(16)
    np.testing.assert_array_equal(one(tmp_path, palette), np.asarray(palette.convert("RGB")))
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (8, 8, 3))
    luma = 0.299 * 255  # ITU-R 601
    np.testing.assert_allclose(one(tmp_path, red, channels=1), luma, atol=1)
    cmyk = one(tmp_path, red, "CMYK", suffix=".jpg", quality=100, subsampling=0)  # two pictures: x.jpg comes first
    np.testing.assert_allclose(cmyk.astype(int), red, atol=3)


def png_of_16_bits(path, values):
    """Grey [h, w], or with alpha, colours, or both [h, w, 2 to 4], as the PNG specification has it."""
    height, width, *bands = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands[0] if bands else 1]
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_in_a_file_of_sixteen_are_refused(tmp_path, bands, bits):
    values = RNG.integers(0, 2**bits, (8, 8, bands))
    values[0] = 2**bits - 1
    if bands % 2 == 0:
        values[..., -1] = 65_535  # opaque
    png_of_16_bits(tmp_path / "x.png", values.squeeze())
    with pytest.raises(
        ValueError, match=rf"x.png .*upper {16 - bits} are unused.*multiply the values by {2 ** (16 - bits)}"
    ):
        ImageFolder(tmp_path, 8)[0]
    with pytest.raises(ValueError, match="upper"):
        ImageFolder(tmp_path, 8).load()
    values[..., : bands - (bands % 2 == 0)] *= 2 ** (16 - bits)  # as it says: then the upper 8 bits are the picture
    png_of_16_bits(tmp_path / "x.png", values.squeeze())
    expected = (values[..., :1] if bands < 3 else values[..., :3]) >> 8
    np.testing.assert_array_equal(ImageFolder(tmp_path, 8)[0]["image"], np.broadcast_to(expected, (8, 8, 3)))


def test_black_is_black_in_sixteen_bits(tmp_path):
    png_of_16_bits(tmp_path / "x.png", np.zeros((8, 8), int))
    assert not ImageFolder(tmp_path, 8)[0]["image"].any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, :3], pixels[:4, :, 3], pixels[4:, :, 3] = 100, 255, 0
    pixels[4:, :, :3] = 7  # what lies hidden there
    if mode == "P":
        save(tmp_path / "x.png", Image.fromarray((np.arange(64) // 32).astype(np.uint8).reshape(8, 8)))
        image = Image.open(tmp_path / "x.png").convert("P")
        image.putpalette([100] * 3 + [7] * 3)
        found = one(tmp_path, image, transparency=1)
    elif mode == "PA":
        image = Image.fromarray(pixels).quantize(4)
        found = one(tmp_path, image)
    else:
        found = one(tmp_path, Image.fromarray(pixels).convert(mode))
    np.testing.assert_array_equal(found[:4], 100)
    np.testing.assert_array_equal(found[4:], 255)


def test_splits_depend_on_a_path_alone_and_are_all_of_them(tmp_path):
    for i in range(400):
        save(tmp_path / f"{i % 3}" / f"{i}.png", np.zeros((1, 1), np.uint8))
    splits = {split: ImageFolder(tmp_path, 1, split=split) for split in ("train", "validation", "test")}
    paths = {split: set(data.paths) for split, data in splits.items()}
    assert sorted(path for part in paths.values() for path in part) == ImageFolder(tmp_path, 1).paths
    for split, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
        assert abs(len(paths[split]) - 400 * share) < 4 * np.sqrt(400 * share * (1 - share))
        assert splits[split].classes == 3
    for path in paths["test"]:  # the rule that is documented
        assert int(hashlib.sha256(path.encode()).hexdigest()[:16], 16) % 100 >= 95
    os.remove(tmp_path / sorted(paths["train"])[0])
    save(tmp_path / "0" / "another.png", np.zeros((1, 1), np.uint8))
    assert set(ImageFolder(tmp_path, 1, split="test").paths) - {"0/another.png"} == paths["test"]


def png(width, height, body=b""):
    """A PNG whose header says so, whatever it holds."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def jpeg(width, height, before=b""):
    """A JPEG whose frame says that it is so large, behind a comment."""
    file = io.BytesIO()
    Image.fromarray(noise(8, 8, 3)).save(file, "JPEG", comment=before)
    body = file.getvalue()
    at = body.index(b"\xff\xc0\x00\x11\x08") + 5
    return body[:at] + struct.pack(">HH", height, width) + body[at + 4 :]


def cut(pixels, path):
    save(path, pixels)
    path.write_bytes(path.read_bytes()[:-200])


NO_PICTURES = {  # name: (make it, whether its header shows it)
    "empty": (lambda path: path.write_bytes(b""), True),
    "a page": (lambda path: path.write_text("<html>404</html>"), True),
    "postscript": (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), True),
    "a gif": (lambda path: save(path.with_suffix(".gif"), noise(8, 8)) or path.with_suffix(".gif").rename(path), True),
    "a bomb": (lambda path: path.write_bytes(png(40_000, 40_000)), True),
    "half a bomb": (lambda path: path.write_bytes(png(10_000, 10_000)), True),
    "a bomb in JPEG": (lambda path: path.write_bytes(jpeg(40_000, 40_000)), True),
    "a bomb behind a comment": (lambda path: path.write_bytes(jpeg(40_000, 40_000, b"." * 999)), True),
    "without width": (lambda path: path.write_bytes(png(0, 8)), True),
    "a thread": (lambda path: path.write_bytes(png(1, 80_000_000)), True),
    "cut": (lambda path: cut(noise(30, 30, 3), path), False),
    "without pixels": (lambda path: path.write_bytes(png(8, 8)), False),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("make", "header"), NO_PICTURES.values(), ids=NO_PICTURES)
def test_a_file_that_is_no_picture_is_named_or_left_out(tmp_path, make, header):
    for name in ("a", "c"):
        save(tmp_path / "k" / f"{name}.png", noise(8, 8, 3))
    make(tmp_path / "k" / "b.png")
    message = rf"^{tmp_path}/k/b.png is damaged or not a picture \(.+\)[^\n]*$"
    total = message[:-1] + r", the first of 1 such files among 3; .*on_corrupt=\"skip\""
    if header:
        with pytest.raises(ValueError, match=total):
            ImageFolder(tmp_path, 8)
    else:
        streamed = ImageFolder(tmp_path, 8)
        with pytest.raises(ValueError, match=message):
            streamed[1]
        with pytest.raises(ValueError, match=message):
            batches(streamed, 3, 0)[0]
        for read in (streamed.load, streamed.checked):
            with pytest.raises(ValueError, match=total):
                read(progress=False)
    checked = ImageFolder(tmp_path, 8, on_corrupt="skip").checked(progress=False)
    loaded = ImageFolder(tmp_path, 8, on_corrupt="skip")
    images = loaded.load(progress=False)
    assert len(images.image) == len(images.label) == len(checked) == len(loaded) == 2
    for data in (checked, loaded):
        assert [path for path, _ in data.skipped] == ["k/b.png"]
        assert data.skipped[0][1]
    np.testing.assert_array_equal(images.image[1], checked[1]["image"])
    os.remove(tmp_path / "k" / "b.png")
    assert fingerprint(ImageFolder(tmp_path, 8), 1, 0) == fingerprint(checked, 1, 0)


def test_pictures_in_png_and_jpeg_are_told_by_their_first_bytes(tmp_path, monkeypatch):
    """Pillow, whose look at a header takes four times as long, opens none before it is read."""
    save(tmp_path / "a.png", noise(8, 8, 3))
    save(tmp_path / "b.jpg", noise(8, 8, 3), progressive=True, comment=b"." * 99)
    save(tmp_path / "c.jpeg", noise(8, 8))
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, open=Image.open, **how: opened.append(path) or open(path, **how))
    data = ImageFolder(tmp_path, 8)
    assert not opened
    os.remove(tmp_path / "c.jpeg")
    assert len(fingerprint(data, 1, 0)) == 64  # which looks at no file again
    assert {os.path.basename(path) for path in opened} == {"a.png"}  # the first example, which says what examples are


def test_few_pictures_are_held_in_memory_and_many_are_read_as_they_are_asked_for(tmp_path, monkeypatch):
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(8, 8, 3))
    cut(noise(8, 8, 3), tmp_path / "3.png")
    of = lambda **how: ImageFolder(tmp_path, 8, on_corrupt="skip", **how)
    held = of().held(progress=False)
    assert isinstance(held, Images)
    for name, bound in (("HELD", 3), ("HELD_BYTES", 4 * 8 * 8 * 3 - 1)):
        with monkeypatch.context() as patched:
            patched.setattr(folders, name, bound)
            streamed = of().held(progress=False)
            assert isinstance(streamed, ImageFolder)
            assert [path for path, _ in streamed.skipped] == ["3.png"]
            assert isinstance(of(channels=1).held(progress=False), Images if name == "HELD_BYTES" else ImageFolder)
            assert len(ImageFolder(tmp_path, 8).held(progress=False)) == 4  # whose damage is named when it is read
    np.testing.assert_array_equal(held.image, np.stack([example["image"] for example in streamed]))


class Examples(list):
    """A source that counts what is read of it."""

    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)


class Many(Examples):
    """One that reads many at once, and no one alone."""

    def __getitems__(self, indices):
        return [list.__getitem__(self, i) for i in indices]

    def __getitem__(self, index):
        raise AssertionError


def test_moments_of_pixels_are_those_of_all_images_or_of_a_seeded_sample(tmp_path):
    for i in range(40):
        save(tmp_path / f"{i:02}.png", noise(8, 8, 3) // (1 + i % 4))
    data = ImageFolder(tmp_path, 8)
    held = data.load(progress=False)
    expected = held.image.mean(), held.image.std()
    for images in (data, held, *(of({"image": image} for image in held.image) for of in (Examples, Many))):
        np.testing.assert_allclose(pixel_moments(images), expected, rtol=1e-12)
    for n in (1, 33):
        sampled, source = pixel_moments(held, n, seed=1), Examples({"image": image} for image in held.image)
        assert pixel_moments(source, n, seed=1) == pixel_moments(data, n, seed=1) == sampled
        assert source.read == n
        assert sampled != pixel_moments(held, n, seed=2)
    spread = [pixel_moments(held, 33, seed)[0] for seed in range(20)]  # means of 33 of 40, without repeats
    means = held.image.mean((1, 2, 3))
    error = means.std() * np.sqrt((1 / 33) * (40 - 33) / (40 - 1))
    assert abs(np.mean(spread) - means.mean()) < 4 * error / np.sqrt(20)
    assert 0.4 < np.std(spread) / error < 1.6  # 4 / sqrt(2 * 20) = 0.6


def test_a_reading_that_is_interrupted_does_not_go_on_to_its_end(tmp_path, monkeypatch):
    for i in range(60):
        save(tmp_path / f"{i}.png", noise(8, 8, 3))
    pictures, seen = ImageFolder(tmp_path, 8), []
    monkeypatch.setattr(folders, "AT_A_TIME", 1)
    monkeypatch.setattr(pictures, "_read", lambda path: seen.append(path) or time.sleep(0.02))
    monkeypatch.setattr(tqdm.auto.tqdm, "update", lambda bar, n: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        pictures.checked(progress=False)
    assert len(seen) < 20


def test_a_disk_that_fails_is_not_taken_for_a_damaged_picture(tmp_path):
    save(tmp_path / "a.png", noise(8, 8, 3))
    data = ImageFolder(tmp_path, 8, on_corrupt="skip")
    os.remove(tmp_path / "a.png")
    for read in (lambda: data[0], lambda: data.load(progress=False)):
        with pytest.raises(FileNotFoundError):
            read()


def link_out(folder):
    save(folder.parent / "secret.png", noise(8, 8, 3))
    (folder / "x.png").symlink_to("../secret.png")


def link_folder(folder):
    (folder.parent / "elsewhere").mkdir()
    (folder / "class").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (link_out, r"x.png is not a file in .*, or a link that leads out of it; remove it"),
        (link_folder, r"class is a link to a folder, which is not followed"),
        (lambda folder: os.mkfifo(folder / "x.png"), r"x.png is not a file in"),
        (lambda folder: (folder / "x.png").symlink_to("nothing.png"), r"x.png is not a file in"),
        (
            lambda folder: save(folder / "k" / "b.png", noise(8, 8)),
            r"1 pictures next to its classes k, the first a.png",
        ),
        (lambda folder: os.remove(folder / "a.png"), r"has no pictures; expected files that end in .bmp, .jpeg"),
        (lambda folder: (folder / "a.png").write_bytes(b""), r"all 1 files in .* were skipped; .*a.png is damaged"),
    ],
)
def test_a_folder_that_is_not_what_it_seems_is_refused(tmp_path, make, message):
    folder = tmp_path / "set"
    save(folder / "a.png", noise(8, 8, 3))
    make(folder)
    with pytest.raises(ValueError, match=message):
        ImageFolder(folder, 8, on_corrupt="skip")


def test_a_link_that_stays_inside_is_followed(tmp_path):
    save(tmp_path / "a.png", noise(8, 8, 3))
    (tmp_path / "b.png").symlink_to("a.png")
    data = ImageFolder(tmp_path, 8)
    np.testing.assert_array_equal(data[0]["image"], data[1]["image"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"folder": "nowhere"}, FileNotFoundError, "nowhere is not a folder"),
        ({"size": 0}, ValueError, "size = 0; expected at least 1"),
        ({"channels": 4}, ValueError, "channels = 4; expected 3 for colours or 1 for grey"),
        ({"split": "valid"}, ValueError, "split = 'valid'; expected None or one of 'train', 'validation', 'test'"),
        ({"on_corrupt": "ignore"}, ValueError, "on_corrupt = 'ignore'; expected 'raise' or 'skip'"),
        ({"split": "test"}, ValueError, "has no pictures in its split 'test'"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, settings, error, message):
    save(tmp_path / "a.png", noise(8, 8, 3))
    with pytest.raises(error, match=message):
        ImageFolder(**{"folder": tmp_path, "size": 8} | settings)


def test_the_fingerprint_is_that_of_names_sizes_and_settings(animals):
    folder, _ = animals
    of = lambda **settings: fingerprint(ImageFolder(folder, **{"size": 8} | settings), 2, 0)
    reference = of()
    assert reference == of()
    found = [reference, of(size=4), of(channels=1)]
    save(folder / "cat" / "a.bmp", noise(9, 8, 3))
    found.append(of())
    os.rename(folder / "cat" / "a.bmp", folder / "cat" / "b.bmp")
    found.append(of())
    assert len(set(found)) == 5


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"folder": 3}, TypeError, "folder = 3; expected a path"),
        ({"folder": ""}, ValueError, "folder = ''; expected a path"),
        ({"size": 8.0}, TypeError, "size = 8.0; expected a whole number"),
        ({"size": True}, TypeError, "size = True"),
        ({"size": 10**7}, ValueError, r"a picture of shape \(10000000, 10000000, 3\) takes .* GiB"),
        ({"channels": "RGB"}, TypeError, "channels = 'RGB'"),
    ],
)
def test_settings_of_another_kind_are_refused_by_their_name(animals, settings, error, message):
    with pytest.raises(error, match=message):
        ImageFolder(**{"folder": animals[0], "size": 8} | settings)


def test_a_folder_in_the_home_folder_is_found(animals, monkeypatch):
    monkeypatch.setenv("HOME", str(animals[0].parent))
    assert len(ImageFolder(f"~/{animals[0].name}", 8)) == len(ImageFolder(animals[0], 8))
