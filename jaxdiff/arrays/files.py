"""Safe files: what is written is whole or absent, and no link leads a write or a removal elsewhere.

A folder that somebody handed over may hold links that lead out of it. A file is therefore written under a new name,
which no link can have, and takes its own by a rename, which replaces a link and does not follow it. Folders are made
and removed one by one, and refused where a link stands in their place. What is read must be a file: a pipe of that name
would wait for a writer for ever.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def check_path(name: str, value) -> Path:
    """`value` as a path, its `~` replaced by the home folder. Raises TypeError for what is no path, or ValueError."""
    try:
        path = Path(os.fspath(value))
    except TypeError:
        raise TypeError(f"{name} = {value!r}; expected a path, as a string or a pathlib.Path") from None
    if not os.fspath(value) or "\0" in os.fspath(value):
        raise ValueError(f"{name} = {os.fspath(value)!r}; expected a path of one character or more, none of them NUL")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} = {str(value)!r} has no home folder ({error}); give the whole path") from None


def check_file(path: str | os.PathLike) -> Path:
    """`path`, a regular file or a link to one; FileNotFoundError where nothing is, ValueError for anything else."""
    path = Path(path)
    if not stat.S_ISREG(mode := path.stat().st_mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise ValueError(f"{path} is {kind}; expected a file: remove it, or put back the file")
    return path


def read_json(path: str | os.PathLike) -> dict:
    """The JSON object that a file holds; FileNotFoundError where there is none, ValueError for anything else."""
    path = check_file(path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {_kind(value)}; expected a JSON object, {{...}}")
    return value


def _kind(value) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "a truth value"}.get(type(value), "a number")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` on leaving, once it is on the disk: whatever stops it, the old one or the new.

    with atomic_write("x.npy") as file:
        np.save(file, x)
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with open(_made(draft), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _made(draft: Path) -> int:
    """A descriptor of `draft`, a new file, which is locked: while it is written `sweep` leaves it."""
    while True:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks, where none is swept
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # swept before it was locked


def is_leftover(path: Path) -> bool:
    """Whether `path` is what a killed `atomic_write` left."""
    return _LEFTOVER.fullmatch(path.name) is not None


def sweep(folder: str | os.PathLike) -> None:
    """Remove what killed writers left in `folder`: regular files of it, no link followed, that nobody writes."""
    for path in filter(is_leftover, Path(folder).iterdir()):
        with contextlib.suppress(OSError):  # a link, a folder, a file that is locked or not ours
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    path.unlink()
            finally:
                os.close(descriptor)


def own_folder(root: str | os.PathLike, *names: str) -> Path:
    """The folder `root`/`names`, made where it is missing; ValueError for a link or a file below `root`."""
    folder = Path(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder} cannot be a folder: it, or what it lies in, is a file; give another path") from None
    for name in names:
        folder /= name
        _refuse_link(folder)
        folder.mkdir(exist_ok=True)
    return folder


def remove_folder(folder: str | os.PathLike) -> None:
    """Remove a folder and all it holds, no link followed; ValueError where it is a link itself."""
    _refuse_link(Path(folder))
    shutil.rmtree(folder)


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a symbolic link" if folder.is_symlink() else "no folder"
        raise ValueError(f"{folder} is {kind}; expected a folder of this run: remove it, or give another run")
