"""Batches of samples that are kept in a folder: whole files of other samples, and links in their place, are refused."""

import os

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.samplers import batches


def draw(keep, **more):
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(3), np.diag([0.1, 0.2, 0.4]))
    settings = {"batch_size": 2, "steps": 3, "keep": keep, **more}
    return jd.samplers.draw(jax.random.key(0), denoiser, (6, 3), **settings)


@pytest.fixture(scope="module")
def whole():
    return draw(None)


@pytest.fixture
def kept(tmp_path):
    """The second of three files, whose samples are 2 and 3."""
    draw(tmp_path)
    (path,) = tmp_path.glob("*/2.npz")
    return path


X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("index", "x", "message"),
    [
        ([2, 6], X, "it holds sample 6; expected 0 to 5"),
        ([-1, 2], X, "it holds sample -1"),
        ([2, 2], X, "twice"),
        ([1, 2], X, "twice"),
        ([2.0, 3.0], X, r"index is float64\[2\]; expected int64 \[n\]"),
        ([[2, 3]], X, r"index is int64\[1, 2\]"),
        ([2, 3], X.astype(np.float64), r"x is float64\[2, 3\]; expected float32\[2, 3\]"),
        ([2, 3], X.astype(">f4"), "x is >f4"),
        ([2, 3], X[:1], r"x is float32\[1, 3\]"),
        ([2, 3], X[:, :2], r"x is float32\[2, 2\]"),
    ],
)
def test_a_file_of_other_samples_is_refused_by_name(kept, index, x, message):
    np.savez(kept, index=np.array(index), x=x)
    with pytest.raises(ValueError, match=rf"2.npz does not belong to these samples: .*{message}.*Remove it"):
        draw(kept.parents[1])


def test_samples_in_bfloat16_and_trajectories_are_kept_and_read_again(tmp_path):
    for number, more in enumerate(({"x_start": jax.numpy.ones((6, 3), "bfloat16")}, {"trajectory": True})):
        folder = tmp_path / str(number)
        first = draw(folder, **more)
        os.unlink(next(folder.glob("*/2.npz")))
        again = draw(folder, **more)
        assert again.dtype == first.dtype
        np.testing.assert_array_equal(again, first)


def test_samples_of_another_precision_are_no_part_of_these(kept, monkeypatch):
    """As on a GPU, where "highest" was asked for before."""
    monkeypatch.setattr(batches, "reduced", lambda precision, mesh: "default precision on gpu")
    draw(kept.parents[1])
    assert not kept.exists()


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(kept):
    kept.unlink()
    os.mkfifo(kept)
    with pytest.raises(ValueError, match=r"2.npz is a pipe.*expected a file"):
        draw(kept.parents[1])


def test_links_are_never_written_or_deleted_through(kept, tmp_path_factory, whole):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "thesis").write_text("mine")
    (outside / "2.npz").write_bytes(b"mine")
    kept.unlink()
    kept.symlink_to(outside / "2.npz")
    np.testing.assert_array_equal(draw(kept.parents[1]), whole)
    assert not kept.is_symlink()

    other = kept.parents[1] / "0123456789abcdef"
    other.symlink_to(outside)
    with pytest.raises(ValueError, match="0123456789abcdef is a symbolic link"):
        draw(kept.parents[1])
    other.unlink()
    kept.parent.rename(kept.parents[1] / "elsewhere")
    kept.parent.symlink_to(outside)
    with pytest.raises(ValueError, match=f"{kept.parent.name} is a symbolic link"):
        draw(kept.parents[1])
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"thesis": b"mine", "2.npz": b"mine"}


def test_a_folder_of_the_home_folder_is_expanded(tmp_path, monkeypatch, whole):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(draw("~/kept"), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size = 0; expected at least one"),
        ({"batch_size": 2.5}, TypeError, "batch_size = 2.5; expected a whole number"),
        ({"precision": "tf32"}, ValueError, "precision = 'tf32'; expected None, or default, high, highest"),
        ({"keep": 3}, TypeError, "keep = 3; expected a path"),
        ({"keep": ""}, ValueError, "keep = ''; expected a path"),
    ],
)
def test_settings_of_batches_are_checked(tmp_path, more, error, message):
    with pytest.raises(error, match=message):
        draw(**{"keep": tmp_path / "a"} | more)
    assert not (tmp_path / "a").exists()


def test_more_samples_than_memory_holds_are_refused_before_any_is_drawn():
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="an array of samples of shape .* takes .* GiB, more than the"):
        jd.samplers.draw(jax.random.key(0), denoiser, (10**13, 3))
