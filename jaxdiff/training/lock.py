"""A run's folder is held by one process at a time."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jaxdiff.arrays import own_folder, sweep
from jaxdiff.training.hosts import first


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold the folder of a run; the system lets go of it when the process ends, however it does.

    What killed writers left there is removed.

    Raises ValueError where another process holds it, and for a `lock` in it that is no file.
    """
    if not first():
        yield
        return
    path = own_folder(folder) / "lock"
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is a link, a folder or a pipe; expected a file that a run made: remove it")
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise ValueError(f"{folder} is in use by {holder}; stop that run, or give another folder") from None
        if os.fstat(file.fileno()).st_nlink == 1:  # otherwise it is also a file elsewhere
            file.truncate(0)
            file.write(f"process {os.getpid()} of {os.uname().nodename}")
            file.flush()
        sweep(folder)
        yield
