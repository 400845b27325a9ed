"""Files are whole or not there, and nothing is written, read or deleted where a link, a pipe or a folder leads."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdiff
from jaxdiff.arrays import (
    atomic_write,
    check_file,
    check_path,
    is_leftover,
    own_folder,
    read_json,
    remove_folder,
)

PACKAGE = Path(jaxdiff.__file__).parent


def test_a_file_is_the_old_one_or_the_new_one_whatever_stops_the_writing(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write(b"new" * file.write(b"n") + "no bytes")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_what_a_killed_writer_leaves_is_known_by_its_name(tmp_path):
    code = "import os, sys; from jaxdiff.arrays import atomic_write\n"
    code += "with atomic_write(sys.argv[1]) as file: os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "config.json")])
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert is_leftover(left)
    assert not any(is_leftover(tmp_path / name) for name in ("config.json", "a.tmp", ".a.tmp", "samples.npy"))


def test_writing_replaces_a_link_and_does_not_follow_it(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    for link in (os.symlink, os.link):
        path = tmp_path / "run"
        link(outside, path)
        with atomic_write(path) as file:
            file.write(b"new")
        assert not path.is_symlink()
        assert (path.read_bytes(), outside.read_bytes()) == (b"new", b"mine")
        path.unlink()


def test_a_folder_below_the_root_is_no_link_but_the_root_may_be_one(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    assert own_folder(tmp_path / "run", "checkpoints", "40").is_dir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis").write_text("mine")
    (tmp_path / "run" / "samples.partial").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "file").write_text("mine")
    for name in ("samples.partial", "file"):
        with pytest.raises(ValueError, match=f"{name} is .*; expected a folder of this run: remove it"):
            own_folder(tmp_path / "run", name, "x")
        with pytest.raises(ValueError, match=f"{name} is .*; expected a folder"):
            remove_folder(tmp_path / "run" / name)
    with pytest.raises(ValueError, match="file cannot be a folder: it or a parent of it is a file"):
        own_folder(tmp_path / "run" / "file")
    with pytest.raises(ValueError, match="cannot be a folder"):
        own_folder(tmp_path / "run" / "file" / "below")
    (tmp_path / "run" / "checkpoints" / "40" / "link").symlink_to(tmp_path / "elsewhere")
    remove_folder(tmp_path / "run" / "checkpoints")
    assert (tmp_path / "elsewhere" / "thesis").read_text() == "mine"


def test_a_path_is_a_string_or_a_path_and_its_home_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert check_path("folder", "~/runs/a") == Path("/home/me/runs/a") == check_path("folder", Path("~/runs/a"))
    assert check_path("folder", "runs/~a") == Path("runs/~a")
    for value in (None, 3, b"runs", ["runs"]):
        with pytest.raises(TypeError, match=r"folder = .*; expected a path"):
            check_path("folder", value)
    for value in ("", "a\0b"):
        with pytest.raises(ValueError, match=r"folder = .*; expected a path that is not empty"):
            check_path("folder", value)
    with pytest.raises(ValueError, match=r"folder = '~nobody-here/a' has no home folder"):
        check_path("folder", "~nobody-here/a")


def test_what_is_read_is_a_file_and_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, kind in (("pipe", "a pipe"), ("folder", "a folder")):
        with pytest.raises(ValueError, match=f"{name} is {kind}.*; expected a file"):
            check_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: it is not JSON"),
        (b"\xff\xfe", "is damaged: it is not JSON"),
        (b'{"a": ', "is damaged: it is not JSON"),
        (b"[" * 100_000, "is damaged: it is not JSON"),
        (b'{"a":' * 100_000, "is damaged: it is not JSON"),
        (b"9" * 10_000, "is damaged: it is not JSON"),
        (b"[]", r"holds a list; expected a JSON object"),
        (b"3", "holds a number"),
        (b"null", "holds null"),
        (b'"a"', "holds a string"),
    ],
)
def test_json_that_is_no_object_is_refused_by_the_name_of_its_file(tmp_path, content, message):
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"summary\.json {message}") as error:
        read_json(path)
    assert len(str(error.value)) < 400


# How else something could be written; where it may be, for what reason.
WRITERS = {
    "write_text",
    "write_bytes",
    "touch",
    "savefig",
    "copyfile",
    "copy",
    "copytree",
    "move",
    "rmtree",
    "removedirs",
}
WRITERS |= {
    "savez_compressed",
    "save_file",
    "to_csv",
    "tofile",
    "symlink_to",
    "hardlink_to",
    "symlink",
    "link",
    "truncate",
}
ELSEWHERE = {
    ("arrays/files.py", "rmtree"): "the one place",
    ("arrays/files.py", "open"): "the one place",
    ("training/checkpoints.py", "rmtree"): "of a draft that this process made, errors ignored",
    ("training/lock.py", "open"): "held open and locked; refused where it is no file",
    ("training/lock.py", "truncate"): "the same",
    ("training/log.py", "open"): "appended to, without following a link",
    ("data/rows.py", "open"): "a member of an archive in the one writer's file",
    ("plotting/picture.py", "savefig"): "into the one writer's file, or memory",
}


def writings(path):
    """Calls that write, or delete whole folders, by their last name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "move" and not ast.unparse(node.func).startswith("shutil."):  # a sampler's
            continue
        strings = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        if name in WRITERS:
            yield name
        if (
            name in ("save", "savez")
            and ast.unparse(node.func).startswith("np.")
            and ast.unparse(node.args[0]) != "file"
        ):
            yield name
        if name == "open" and any(
            isinstance(s, str) and set(s) <= set("rwaxbt+") and set(s) & set("wax+") for s in strings
        ):
            yield name


def test_the_package_writes_by_the_one_writer():
    found = {(str(path.relative_to(PACKAGE)), name) for path in PACKAGE.rglob("*.py") for name in writings(path)}
    assert found == ELSEWHERE.keys()


@pytest.mark.parametrize(
    "code",
    [
        "open(p, 'w')",
        "p.open('ab')",
        "open(p, mode='x')",
        "p.write_text('a')",
        "import numpy as np\nnp.save(p, x)",
        "figure.savefig(p)",
        "import shutil\nshutil.rmtree(p)",
    ],
)
def test_the_search_for_writers_finds(tmp_path, code):
    (tmp_path / "a.py").write_text(code)
    assert list(writings(tmp_path / "a.py"))
