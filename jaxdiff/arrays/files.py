"""Safe file operations: writes are atomic, and neither writes nor removals follow symbolic links.

A folder from somebody else may hold links that lead out of it. A file is therefore written under a new random name and
then renamed, which replaces a link and does not follow it. Folders are created and removed one by one, and a link in
place of a folder is an error. Only regular files are read: reading from a pipe would wait for a writer forever.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxdiff.arrays.locks import WINDOWS, lock

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def check_path(name: str, value) -> Path:
    """`value` as a path with `~` expanded. Raises TypeError unless it is a path, ValueError for an invalid one."""
    try:
        path = Path(os.fspath(value))
    except TypeError:
        raise TypeError(f"{name} = {value!r}; expected a path, as a string or a pathlib.Path") from None
    if not os.fspath(value) or "\0" in os.fspath(value):
        raise ValueError(f"{name} = {os.fspath(value)!r}; expected a path that is not empty and has no NUL character")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} = {str(value)!r} has no home folder ({error}); give the full path") from None


def check_file(path: str | os.PathLike) -> Path:
    """`path` if it is a regular file or a link to one; FileNotFoundError if it is missing, otherwise ValueError."""
    path = Path(path)
    if not stat.S_ISREG(mode := path.stat().st_mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise ValueError(f"{path} is {kind}; expected a file: remove it, or restore the file")
    return path


def read_json(path: str | os.PathLike) -> dict:
    """The JSON object in a file; FileNotFoundError if the file is missing, ValueError for anything else."""
    path = check_file(path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {_kind(value)}; expected a JSON object, {{...}}")
    return value


def _kind(value) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "a truth value"}.get(type(value), "a number")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Write a file atomically: the `with` block writes a new file, which replaces `path` once it is on the disk.

    If the block raises or the process is killed, the old file stays: `with atomic_write("x.npy") as file:
    np.save(file, x)`.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with open(_made(draft), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if WINDOWS:
                file.close()
            os.replace(draft, path)
        except BaseException:
            if WINDOWS:
                with contextlib.suppress(OSError):
                    file.close()
            draft.unlink(missing_ok=True)
            raise


def _made(draft: Path) -> int:
    """A descriptor of the new file `draft`, locked so that `sweep` does not remove it while it is written."""
    while True:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o666)
        if WINDOWS:
            return descriptor
        with contextlib.suppress(OSError):  # without locks on the file system, `sweep` removes nothing either
            lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # swept before it was locked


def is_leftover(path: Path) -> bool:
    """Whether `path` is a temporary file that a killed `atomic_write` left behind."""
    return _LEFTOVER.fullmatch(path.name) is not None


def sweep(folder: str | os.PathLike) -> None:
    """Remove the temporary files that killed writers left in `folder`, except links and files being written."""
    for path in filter(is_leftover, Path(folder).iterdir()):
        with contextlib.suppress(OSError):  # a link, a folder, or a file that is locked or has another owner
            if WINDOWS:
                path.unlink()
                continue
            descriptor = os.open(path, os.O_WRONLY | NOFOLLOW | os.O_NONBLOCK)
            try:
                lock(descriptor)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    path.unlink()
            finally:
                os.close(descriptor)


def own_folder(root: str | os.PathLike, *names: str) -> Path:
    """The folder `root`/`names`, created if it is missing; ValueError for a link or a file below `root`."""
    folder = Path(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder} cannot be a folder: it or a parent of it is a file; give another path") from None
    for name in names:
        folder /= name
        _refuse_link(folder)
        folder.mkdir(exist_ok=True)
    return folder


def remove_folder(folder: str | os.PathLike) -> None:
    """Remove a folder and its contents without following links; ValueError if it is itself a link."""
    _refuse_link(Path(folder))
    shutil.rmtree(folder)


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a symbolic link" if folder.is_symlink() else "not a folder"
        raise ValueError(f"{folder} is {kind}; expected a folder of this run: remove it, or give another run")
