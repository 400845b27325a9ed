"""A lock on a run's folder: one process uses it at a time."""

import contextlib
import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path

from jaxdiff.arrays import own_folder, sweep
from jaxdiff.arrays.locks import lock
from jaxdiff.training.hosts import first


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Lock the folder of a run and remove what killed writers left in it.

    The operating system releases the lock when the process ends, however it ends.

    Raises ValueError if another process holds the lock, or if `lock` is not a plain file.
    """
    if not first():
        yield
        return
    path = own_folder(folder) / "lock"
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is a link, a folder or a pipe; expected a file that a run made: remove it")
    with open(path, "a+") as file:
        try:
            lock(file.fileno())
        except OSError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise ValueError(f"{folder} is in use by {holder}; stop that run, or give another folder") from None
        if os.fstat(file.fileno()).st_nlink == 1:  # a hard link to another file is not overwritten
            file.truncate(0)
            file.write(f"process {os.getpid()} of {platform.node()}")
            file.flush()
        sweep(folder)
        yield
