"""Fashion-MNIST and CIFAR-10 from small files of the published formats; test_digits.py has what all sets share."""

import gzip
import hashlib
import io
import tarfile
import time
from unittest import mock

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from jaxdiff.data import builders, images, load_cifar10, load_fashion_mnist

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


def test_cifar10_in_published_order(tmp_path, monkeypatch):
    pixels = RNG.integers(0, 256, (14, 3, 32, 32)).astype(np.uint8)
    records = np.concatenate([LABELS[:, None], pixels.reshape(14, -1)], 1)
    parts = {"test_batch": records[12:]} | {
        f"data_batch_{i + 1}": b for i, b in enumerate(np.split(records[:12], (3, 4, 7, 9)))
    }
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for name, part in parts.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = part.nbytes
            archive.addfile(member, io.BytesIO(part.tobytes()))
    monkeypatch.setattr(builders, "_download", lambda *_: {"archive": tmp_path / "cifar.tar.gz"})
    monkeypatch.setattr(builders.Cifar10, "SPLITS", SPLITS)
    for split, of in SPLITS.items():
        data = load_cifar10(split, tmp_path)
        np.testing.assert_array_equal(data.image, pixels[of.start : of.stop].transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(data.label, LABELS[of.start : of.stop])


def test_splits_are_all_of_the_published_sets():
    for kind, n in ((builders.FashionMNIST, 70_000), (builders.Cifar10, 60_000)):
        assert [i for split in ("train", "validation", "test") for i in kind.SPLITS[split]] == list(range(n))
        assert len(kind.SPLITS["test"]) == 10_000


def test_mock_data(tmp_path, monkeypatch):
    """TFDS's own stand-in, whose `__getitems__` cannot be called (4.9.10)."""
    monkeypatch.setattr(images, "_read", lambda builder, split: list(builder.as_data_source(split)))
    for load, kind in ((load_fashion_mnist, builders.FashionMNIST), (load_cifar10, builders.Cifar10)):
        monkeypatch.setattr(kind, "SPLITS", {"train": range(5)})
        with tfds.testing.mock_data(num_examples=5):
            data = load("train", data_dir=tmp_path)
        assert data.image.shape == (5, *kind.SHAPE)
        assert data.image.std() > 10
