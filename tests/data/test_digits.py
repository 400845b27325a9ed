import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from jaxdiff.data import builders, load_digits


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    load_digits("train", path)
    return path


@pytest.mark.parametrize(
    ("split", "first", "last"),
    [("train", 0, 1000), ("validation", 1000, 1350), ("test", 1350, 1797)],
)
def test_each_split_is_its_slice_of_the_published_order(data_dir, split, first, last):
    digits, published = load_digits(split, data_dir), sklearn_digits()
    assert (digits.image.dtype, digits.label.dtype) == (np.uint8, np.int32)
    assert digits.image.shape == (last - first, 8, 8, 1)
    np.testing.assert_array_equal(digits.image[..., 0], published.images[first:last])
    np.testing.assert_array_equal(digits.label, published.target[first:last])
    assert digits.levels == len(np.unique(published.images))
    assert digits.classes == len(published.target_names)


def test_a_second_call_reads_what_the_first_prepared(data_dir, monkeypatch):
    def prepare_again(self, **_):
        raise AssertionError("prepared a second time")

    monkeypatch.setattr(builders.Digits, "download_and_prepare", prepare_again)
    assert len(load_digits("test", data_dir)) == 447


@pytest.mark.slow
def test_preparing_is_silent_and_two_processes_may_do_it_at_once(tmp_path):
    code = "import sys; from jaxdiff.data import load_digits; assert len(load_digits('test', sys.argv[1]))"
    warnings = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *warnings, "-c", code, str(tmp_path)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], printed
    assert printed == [b"", b""]
    assert os.listdir(tmp_path / "sklearn_digits") == ["1.1.0"]


def test_losing_the_race_to_prepare_is_not_an_error(tmp_path, monkeypatch):
    prepare = builders.Digits.download_and_prepare

    def be_overtaken(self):
        prepare(self)
        raise OSError("Directory not empty")

    monkeypatch.setattr(builders.Digits, "download_and_prepare", be_overtaken)
    assert len(load_digits("train", tmp_path)) == 1000


def _flip_a_bit(folder):
    with open(folder / "sklearn_digits-train.array_record-00000-of-00001", "r+b") as file:
        file.seek(20_000)
        byte = file.read(1)[0]
        file.seek(20_000)
        file.write(bytes([byte ^ 1]))


def _swap_splits(folder):
    os.replace(
        folder / "sklearn_digits-validation.array_record-00000-of-00001",
        folder / "sklearn_digits-train.array_record-00000-of-00001",
    )


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_bit,
        _swap_splits,
        lambda folder: os.truncate(folder / "sklearn_digits-train.array_record-00000-of-00001", 100_000),
        lambda folder: os.remove(folder / "sklearn_digits-train.array_record-00000-of-00001"),
        lambda folder: os.remove(folder / "dataset_info.json"),
        lambda folder: (folder / "dataset_info.json").write_text("{"),
    ],
    ids=["bit", "swapped", "truncated", "missing", "without info", "torn info"],
)
def test_a_damaged_folder_is_named(tmp_path, data_dir, damage):
    folder = tmp_path / "sklearn_digits" / "1.1.0"
    folder.mkdir(parents=True)
    for file in (data_dir / "sklearn_digits" / "1.1.0").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    with pytest.raises(ValueError, match=f"{folder} is damaged .*remove that folder"):
        load_digits("train", tmp_path)


def test_an_unknown_split_is_refused_before_anything_is_prepared(tmp_path):
    with pytest.raises(ValueError, match=r"split = 'valid'; expected one of 'train', 'validation', 'test'"):
        load_digits("valid", tmp_path)
    assert not os.listdir(tmp_path)


def test_the_builders_may_be_imported_twice():
    importlib.reload(builders)


def test_importing_the_data_layer_loads_no_data_library():
    heavy = "{'grain', 'tensorflow_datasets', 'sklearn', 'tensorflow', 'requests'}"
    code = f"import sys, jaxdiff.data; loaded = {heavy} & sys.modules.keys(); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_in_the_home_folder_is_found_and_what_is_no_path_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    load_digits("test", "~/sets")
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]
    with pytest.raises(TypeError, match="data_dir = 3; expected a path"):
        load_digits("test", 3)
