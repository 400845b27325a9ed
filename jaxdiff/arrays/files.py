"""Files that are whole or not there, written where they are asked for and nowhere else.

A folder that somebody handed over may hold links that lead out of it. A file is therefore written under a new name,
which no link can have, and takes its own by a rename, which replaces a link and does not follow it. Folders are made
and removed one by one, and refused where a link stands in their place.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` on leaving, once it is on the disk: whatever stops it, the old one or the new.

    with atomic_write("x.npy") as file:
        np.save(file, x)
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def is_leftover(path: Path) -> bool:
    """Whether `path` is what a killed `atomic_write` left."""
    return _LEFTOVER.fullmatch(path.name) is not None


def own_folder(root: str | os.PathLike, *names: str) -> Path:
    """The folder `root`/`names`, made where it is missing; ValueError for a link or a file below `root`."""
    folder = Path(root)
    folder.mkdir(parents=True, exist_ok=True)
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
