"""Checks that an array fits into memory, before an allocation kills the process."""

import contextlib
import math
import os
import sys
from pathlib import Path

import jax


def check_room(what: str, *shape: int, itemsize: int = 4, on_device: bool = True) -> None:
    """Raise ValueError if an array of `shape` is larger than the memory of the device, or of the machine."""
    needed = math.prod(shape) * itemsize
    if needed < 2**28:  # 256 MiB fit everywhere
        return
    stats = jax.local_devices()[0].memory_stats() or {} if on_device else {}
    there = stats.get("bytes_limit") or _memory()
    if needed > there:
        raise ValueError(
            f"{what} of shape {shape} takes {needed / 2**30:.3g} GiB, more than the {there / 2**30:.3g} GiB there are; "
            "ask for less at a time"
        )


def _memory() -> int:
    """The memory of this machine in bytes, or the limit of its container."""
    if not hasattr(os, "sysconf"):  # Windows, where it is not measured
        return sys.maxsize
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or "max"
        there = min(there, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return there
