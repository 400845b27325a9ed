"""A run of several processes: how it starts, what all must agree on, and how all learn why it ended.

`jax.distributed` connects them, tells of a preemption and notices a host that is gone; Orbax and `multihost_utils` wait
for one another. What is added here is what neither does: a run whose processes were started differently is refused,
and the first failure is in the log of every host.

A process that fails, or leaves by sys.exit or Ctrl-C, says so in a file of the run's folder and ends at once (JAX would
wait five minutes for it); a thread in each of the others looks there every second, says the same and ends too.
"""

import contextlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff.arrays import atomic_write, check_path, fingerprint, own_folder, read_json

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT
HEARTBEAT = 20  # seconds without a sign of life after which a process counts as gone
_together: Path | None = None  # the file of a failure, while this run fails together
START = 60  # seconds in which all must have come


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the processes of a run, before anything else of JAX; those of a cluster (SLURM, TPU pods, ...) know where.

    Where they have not all come within a minute, every one that has says so and ends. Raises ConnectionError for an
    address that cannot be used; RuntimeError where JAX has begun already.
    """
    fix = (
        "start all of them, each with the same --coordinator HOST:PORT and --processes, and with a --process-id of its "
        "own, from 0 on"
    )
    late = f"jaxdiff: the processes have not found each other within {START} s; {fix}"
    told = threading.Timer(START - 1, lambda: print(late, file=sys.stderr, flush=True))
    told.daemon = True
    told.start()  # JAX itself ends the process, without coming back to Python
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=START, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        if "before any JAX" in str(error):
            raise
        raise ConnectionError(f"the processes cannot connect ({str(error).strip().splitlines()[0]}); {fix}") from error
    finally:
        told.cancel()


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if several():
        multihost_utils.sync_global_devices(name)


def from_first(number: int) -> int:
    """The number that process 0 has."""
    return int(multihost_utils.broadcast_one_to_all(np.int64(number))) if several() else number


def agree(folder: Path, settings: dict) -> None:
    """Raise ValueError where the processes have other `settings`, or another folder, than process 0."""
    if not several():
        return
    names = sorted(settings)
    own = np.array([int(fingerprint(settings[name]), 16) for name in names], np.uint64).view(np.uint32)
    nonce = np.frombuffer(secrets.token_bytes(4), np.uint32)
    token = multihost_utils.broadcast_one_to_all(nonce)
    shared = folder / f".shared-{token[0]:08x}"
    if first():
        own_folder(folder)
        with atomic_write(shared):
            pass
    barrier("jaxdiff: a shared folder")
    seen = shared.exists()
    everyone = multihost_utils.process_allgather(np.append(own, np.uint32(seen)))
    if first():
        shared.unlink()
    barrier("jaxdiff: agreed")
    if not everyone[:, -1].all():
        blind = np.flatnonzero(everyone[:, -1] == 0)
        raise ValueError(
            f"process {', '.join(map(str, blind))} does not see what process 0 writes into {folder}: give all of them "
            "one folder on a file system that they share"
        )
    differ = (everyone[:, :-1] != everyone[:1, :-1]).reshape(len(everyone), len(names), 2).any((0, 2))
    if differ.any():
        what = ", ".join(name for name, other in zip(names, differ) if other)
        raise ValueError(f"the processes were started with different settings: {what}; start all with the same command")


@contextlib.contextmanager
def failing_together(folder: str | os.PathLike) -> Iterator[None]:
    """While inside, whatever ends one process ends all, each with its cause in the log: sys.exit and Ctrl-C as well.

    The file of a failure stays in `folder` until the next run starts there. Inside another it does nothing.
    """
    global _together
    folder = check_path("folder", folder)
    if not several() or _together:
        yield
        return
    path = own_folder(folder) / "failure.json"  # by all, so that all raise where it cannot be
    if path.is_dir() and not path.is_symlink():
        raise ValueError(f"{path} is a folder; remove it, or give another run")
    _together = path
    if first():
        path.unlink(missing_ok=True)
    barrier("jaxdiff: together")
    done = threading.Event()

    def look():
        while not done.wait(1.0):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                failure = read_json(path)
                _end(f"process {failure['process']} ended: {failure['cause']}", failure["code"], failure["time"])

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except BaseException as error:
        done.set()
        if isinstance(error, SystemExit | KeyboardInterrupt) and hasattr(error, "step"):
            raise  # as in all the others, which have saved after the same step
        end(*_cause(error))
    finally:
        done.set()
        _together = None


def _cause(error: BaseException) -> tuple[str, int]:
    """What to say of an exception that ends this process, and the exit code, never 0: the others are not done."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)", INTERRUPTED
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else FAILED
        return f"left by sys.exit({error.code!r}) before the others", code & 0xFF or FAILED
    return str(error).strip() or type(error).__name__, FAILED


def end(cause: str, code: int) -> NoReturn:
    """End this process at once with an exit code, and with it all that fail together."""
    now = time.time()
    if _together is not None and not _together.exists():
        failure = {"process": jax.process_index(), "cause": cause, "code": code, "time": now}
        with contextlib.suppress(OSError), atomic_write(_together) as file:
            file.write(json.dumps(failure).encode())
    _end(f"process {jax.process_index()} ended: {cause}" if several() else cause, code, now)


def _end(cause: str, code: int, since: float) -> NoReturn:
    """Say why, wait until all have had the time to, and end whatever the threads of this process are doing."""
    print(f"\njaxdiff: {cause}", file=sys.stderr, flush=True)
    if _together is not None:
        last = 0.5 if first() else 0.0  # without the process that coordinates the others are aborted
        time.sleep(min(max(since + 2.0 + last - time.time(), 0.0), 3.0))
    os._exit(code)
