"""Image sets from small files of the published formats, and others; test_digits.py has what all sets share."""

import gzip
import hashlib
import io
import tarfile
import time
import tracemalloc
import weakref
from unittest import mock

import grain
import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from jaxdiff.data import batches, builders, images, load_cifar10, load_fashion_mnist, load_imagenet64

SPLITS = {"train": range(0, 11), "validation": range(11, 12), "test": range(12, 14)}
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 14).astype(np.uint8)


def idx(array):
    """The IDX format: two zeros, the type, the number of axes, the lengths, the values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    """(folder, images): 12 training images and 2 test images, gzipped with a name and a time."""
    pixels = RNG.integers(0, 256, (14, 28, 28)).astype(np.uint8)
    folder = tmp_path / "files"
    folder.mkdir()
    hashes = {}
    for part, of in (("train", slice(0, 12)), ("t10k", slice(12, 14))):
        for kind, array in (("images-idx3", pixels[of]), ("labels-idx1", LABELS[of])):
            name, content = f"{part}-{kind}-ubyte.gz", idx(array)
            with gzip.GzipFile(folder / name, "wb", mtime=1504176606) as file:
                file.write(content)
            hashes[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(builders, "FASHION_MNIST_SHA256", hashes)
    monkeypatch.setattr(builders.FashionMNIST, "SPLITS", SPLITS)
    return folder, pixels[..., None]


def refuse(*_, **__):
    raise AssertionError("not to be called")


def unreachable(*_, **__):
    raise requests.ConnectionError("no route to host")


@pytest.mark.parametrize("where", ["given", "debian", "downloaded"])
def test_fashion_mnist_in_published_order(clothes, tmp_path, monkeypatch, where):
    folder, pixels = clothes
    if where == "debian":  # packed without name and time
        for path in folder.iterdir():
            path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=0))
    monkeypatch.setattr(images, "DEBIAN", folder if where == "debian" else tmp_path / "not installed")
    monkeypatch.setattr(requests, "get", refuse)
    if where == "downloaded":
        monkeypatch.setattr(requests, "get", mock.MagicMock())
        monkeypatch.setattr(
            tfds.download.DownloadManager, "download", lambda self, urls: {name: folder / name for name in urls}
        )
    given = folder if where == "given" else None
    for split, of in SPLITS.items():
        data = load_fashion_mnist(split, given, tmp_path)
        np.testing.assert_array_equal(data.image, pixels[of.start : of.stop])
        np.testing.assert_array_equal(data.label, LABELS[of.start : of.stop])
        assert (data.image.dtype, data.label.dtype, data.levels, data.classes) == (np.uint8, np.int32, 256, 10)
        given = None  # prepared by now
        monkeypatch.setattr(requests, "get", refuse)


def test_a_wrong_file_is_named(clothes, tmp_path):
    folder, _ = clothes
    path = folder / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for content, error, message in (
        (gzip.compress(idx(LABELS[:2] ^ 1)), ValueError, f"{path} unpacks to SHA-256 .*; expected .*: fetch"),
        (whole[:-12], ValueError, f"{path} is damaged"),
        (b"<html>", ValueError, f"{path} is damaged"),
        (None, FileNotFoundError, f"{path} is missing; expected a folder with train-images"),
    ):
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(error, match=message):
            load_fashion_mnist("train", folder, tmp_path)
    path.write_bytes(whole)
    assert len(load_fashion_mnist("train", folder, tmp_path)) == 11


def test_without_network_the_error_is_quick_and_names_the_fixes(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "not installed")
    monkeypatch.setattr(requests, "get", unreachable)
    began = time.perf_counter()
    with pytest.raises(ConnectionError) as error:
        load_fashion_mnist("train", data_dir=tmp_path)
    for words in ("cannot be reached", "connect to the network", "dataset-fashion-mnist", "folder=..."):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ConnectionError, match=f"connect to the network, or copy {tmp_path}/jaxdiff_cifar10 from"):
        load_cifar10("train", tmp_path)
    assert time.perf_counter() - began < 10


def test_tfds_has_a_checksum_for_every_download():
    registered = checksums.get_all_url_infos()
    for name in builders.FASHION_MNIST_SHA256:
        assert registered[builders.FASHION_MNIST_URL + name].filename == name
    assert builders.CIFAR10_URL in registered


def cifar_archive(path, members):
    """A gzipped tar of (name, content), or of (TarInfo, content) where more is to be said."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, str(target)
    return member, b""


CIFAR10 = [f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """(archive, its members, pixels): two images in each of the six files."""
    pixels = RNG.integers(0, 256, (12, 3, 32, 32)).astype(np.uint8)
    records = np.concatenate([LABELS[:12, None], pixels.reshape(12, -1)], 1)
    path = tmp_path / "cifar.tar.gz"
    monkeypatch.setattr(builders, "_download", lambda *_: {"archive": path})
    monkeypatch.setattr(builders.Cifar10, "IMAGES_IN_A_FILE", 2)
    monkeypatch.setattr(
        builders.Cifar10, "SPLITS", {"train": range(0, 9), "validation": range(9, 10), "test": range(10, 12)}
    )
    return path, [(name, part.tobytes()) for name, part in zip(CIFAR10, np.split(records, 6))], pixels


def test_cifar10_in_published_order(photographs, tmp_path):
    path, members, pixels = photographs
    cifar_archive(path, [("cifar-10-batches-bin/readme.html", b"<html>"), *members[::-1]])
    for split, of in builders.Cifar10.SPLITS.items():
        data = load_cifar10(split, tmp_path)
        np.testing.assert_array_equal(data.image, pixels[of.start : of.stop].transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(data.label, LABELS[of.start : of.stop])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members, secret: [link(CIFAR10[0], secret), *members[1:]], "is no file; expected one file of 6146"),
        (lambda members, secret: [link(CIFAR10[0], secret, tarfile.LNKTYPE), *members[1:]], "is no file"),
        (lambda members, secret: [(CIFAR10[0], members[0][1] + b"0"), *members[1:]], "is a file of 6147 bytes"),
        (lambda members, secret: [(CIFAR10[0], members[0][1][:-1]), *members[1:]], "is a file of 6145 bytes"),
        (lambda members, secret: [members[0], *members], "is a file of 6146 bytes; expected one"),
        (lambda members, secret: members[:-1], r"test_batch.bin is missing or incomplete"),
        (
            lambda members, secret: [(f"../{secret.name}", b"overwritten"), *members[1:]],
            "data_batch_1.bin is missing",
        ),
        (lambda members, secret: [("zeros", bytes(2**22)), *members], "unpacks to more than 1085452 bytes"),
    ],
    ids=["symlink", "hard link", "larger", "smaller", "twice", "missing", "traversal", "bomb"],
)
def test_an_archive_of_cifar10_that_is_not_as_published_is_refused_and_touches_nothing(
    photographs, tmp_path, change, message
):
    path, members, _ = photographs
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(6146))
    cifar_archive(path, change(members, secret))
    with pytest.raises(ValueError, match=message) as error:
        load_cifar10("train", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert secret.read_bytes() == bytes(6146)
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_a_member_that_is_cut_short_is_refused(photographs, tmp_path):
    path, members, _ = photographs
    cifar_archive(path, members)
    content = gzip.decompress(path.read_bytes())
    for cut, message in ((6 * 512 + 5 * 6146 + 6000, "test_batch.bin is not in it|unexpected end"), (100, "damaged")):
        path.write_bytes(gzip.compress(content[:cut]))
        with pytest.raises(ValueError, match=message):
            load_cifar10("train", tmp_path / "data")
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="cifar.tar.gz is damaged"):
        load_cifar10("train", tmp_path / "data")


def test_a_bomb_in_place_of_fashion_mnist_is_not_inflated(clothes, tmp_path, monkeypatch):
    folder, _ = clothes
    monkeypatch.setattr(builders, "FASHION_MNIST_BYTES", 16 + 12 * 28 * 28)
    assert len(load_fashion_mnist("train", folder, tmp_path / "sound")) == 11
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(2**26)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz unpacks to more than 9424 bytes"):
        load_fashion_mnist("train", folder, tmp_path / "data")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """(folder, images, labels): ten archives of two images but for the last, of three, and one of four."""
    folder = tmp_path / "archives"
    folder.mkdir()
    pixels, labels = RNG.integers(0, 256, (25, 3, 64, 64)).astype(np.uint8), RNG.integers(1, 1001, 25)
    parts = np.split(np.arange(25), [2, 4, 6, 8, 10, 12, 14, 16, 18, 21])
    for i, part in enumerate(parts):
        name = f"train_data_batch_{i + 1}.npz" if i < 10 else "val_data.npz"
        np.savez(folder / name, data=pixels[part].reshape(-1, 12288), labels=labels[part], mean=np.zeros(12288))
    splits = {"train": range(0, 17), "validation": range(17, 21), "test": range(21, 25)}
    monkeypatch.setattr(builders.ImageNet64, "SPLITS", splits)
    return folder, pixels.transpose(0, 2, 3, 1), labels - 1


def test_imagenet64_in_published_order_and_read_from_disk(imagenet, tmp_path):
    folder, pixels, labels = imagenet
    given = folder
    for split, of in builders.ImageNet64.SPLITS.items():
        data = load_imagenet64(split, given, tmp_path)
        assert (len(data), data.levels, data.classes) == (len(of), 256, 1000)
        for example, i in zip(data, of, strict=True):
            np.testing.assert_array_equal(example["image"], pixels[i])
            assert (example["label"], example["label"].dtype) == (labels[i], np.int32)
        given = None  # prepared by now
    records = batches(data, 2, 0, grain.sharding.ShardOptions(1, 2))
    arrays = {"image": pixels[of.start :], "label": labels[of.start :].astype(np.int32)}
    whole = batches(arrays, 2, 0)
    for step in range(4):
        for name, array in records[step].items():
            np.testing.assert_array_equal(array, whole[step][name][1:])
            assert array.dtype == arrays[name].dtype


def test_one_archive_of_imagenet64_is_in_memory_at_a_time(imagenet, tmp_path, monkeypatch):
    alive = []

    def read(self, path, labels):
        pixels, labels = original(self, path, labels)
        assert sum(array() is not None for array in alive) == 0
        alive.append(weakref.ref(pixels.base))
        return pixels, labels

    original = builders.ImageNet64._read
    monkeypatch.setattr(builders.ImageNet64, "_read", read)
    load_imagenet64("train", imagenet[0], tmp_path)
    assert len(alive) == 12  # the last two training archives are parts of two splits


def test_without_imagenet64s_archives_the_error_says_which_and_where_from(imagenet, tmp_path):
    folder, *_ = imagenet
    (folder / "val_data.npz").unlink()
    for given in (None, folder):
        with pytest.raises(FileNotFoundError) as error:
            load_imagenet64("train", given, tmp_path)
        for words in (
            "train_data_batch_1.npz",
            "train_data_batch_10.npz",
            "val_data.npz",
            "image-net.org",
            "folder=...",
        ):
            assert words in str(error.value)
        assert "\n" not in str(error.value)


def pixels(n, kind=np.uint8):
    return np.zeros((n, 12288), kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": pixels(2), "labels": np.array([1, 1001])}, "labels are 1 to 1001; expected 1 to 1000"),
        ({"data": pixels(2), "labels": np.array([0, 1])}, "labels are 0 to 1; expected 1 to 1000"),
        ({"data": pixels(2), "labels": np.array([1.0, 2.0])}, r"labels are float64\[2\]; expected whole numbers"),
        ({"data": pixels(2), "labels": np.ones(900, int)}, "labels is larger than 200 bytes"),
        ({"data": pixels(2), "labels": np.array([1])}, "data has 24704 bytes; expected 12288, one for each"),
        ({"data": pixels(2, np.float32), "labels": np.array([1, 2])}, "data has .* bytes; expected 24576"),
        (
            {"data": pixels(2).reshape(4, -1), "labels": np.array([1, 2])},
            r"data is uint8\[4, 6144\]; expected uint8\[2, 1",
        ),
        (
            {"data": pixels(3), "labels": np.array([1, 2, 3])},
            "has 22 training and 4 validation images; expected 21 and 4",
        ),
        ({"data": pixels(2)}, "is not an archive of ImageNet-64 .*labels"),
        ({"labels": np.array([1, 2])}, "data has 0 bytes"),
        (b"<html>", "train_data_batch_3.npz is not an archive of ImageNet-64"),
        (b"", "train_data_batch_3.npz is not an archive of ImageNet-64"),
    ],
)
def test_an_archive_of_imagenet64_that_is_not_as_published_is_named(imagenet, tmp_path, content, message):
    folder, *_ = imagenet
    path = folder / "train_data_batch_3.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(ValueError, match=message) as error:
        load_imagenet64("train", folder, tmp_path)
    assert "\n" not in str(error.value)


def test_a_compressed_archive_of_imagenet64_does(imagenet, tmp_path):
    folder, images, _ = imagenet
    with np.load(folder / "train_data_batch_1.npz") as file:
        np.savez_compressed(folder / "train_data_batch_1.npz", **file)
    np.testing.assert_array_equal(load_imagenet64("train", folder, tmp_path)[0]["image"], images[0])


def test_a_damaged_folder_of_imagenet64_is_named(imagenet, tmp_path):
    folder, *_ = imagenet
    load_imagenet64("train", folder, tmp_path)
    prepared = tmp_path / "jaxdiff_imagenet64" / "1.1.0"
    part = next(prepared.glob("*train*00002-of*"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=f"{prepared} is damaged .*remove that folder"):
        list(load_imagenet64("train", data_dir=tmp_path))
    part.unlink()
    with pytest.raises(ValueError, match=f"{prepared} is damaged .*remove that folder"):
        load_imagenet64("train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="split = 'val'; expected one of"):
        load_imagenet64("val", folder, tmp_path)


def test_splits_are_all_of_the_published_sets():
    for kind, n in ((builders.FashionMNIST, 70_000), (builders.Cifar10, 60_000), (builders.ImageNet64, 1_331_167)):
        assert [i for split in ("train", "validation", "test") for i in kind.SPLITS[split]] == list(range(n))
        assert len(kind.SPLITS["validation"]) == (10_000 if n > 70_000 else 5_000)


def test_mock_data(tmp_path, monkeypatch):
    """TFDS's own stand-in, whose `__getitems__` cannot be called (4.9.10)."""
    monkeypatch.setattr(images, "_read", lambda builder, split: list(builder.as_data_source(split)))
    for load, kind in ((load_fashion_mnist, builders.FashionMNIST), (load_cifar10, builders.Cifar10)):
        monkeypatch.setattr(kind, "SPLITS", {"train": range(5)})
        with tfds.testing.mock_data(num_examples=5):
            data = load("train", data_dir=tmp_path)
        assert data.image.shape == (5, *kind.SHAPE)
        assert data.image.std() > 10
