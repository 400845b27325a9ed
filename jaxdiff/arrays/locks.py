"""Locks of open files. The system releases a lock when the file is closed or the process ends, however it ends."""

import importlib
import os
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

WINDOWS = fcntl is None  # there an open file can be neither renamed nor removed
FAR = 2**30  # Windows locks bytes against reading too; this one is past the end of every file that is locked


def lock(file: int, wait: bool = False) -> None:
    """Lock an open file, given by its descriptor. Raises OSError if another process holds it, unless `wait` is set."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    msvcrt: Any = importlib.import_module("msvcrt")
    before = os.lseek(file, 0, os.SEEK_CUR)
    os.lseek(file, FAR, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    finally:
        os.lseek(file, before, os.SEEK_SET)
