"""A run of several processes: how it starts, what all must agree on, and how all learn why it ended.

`jax.distributed` connects them, tells of a preemption and notices a host that is gone; Orbax and `multihost_utils` wait
for one another. What is added here is what neither does: a run whose processes were started differently is refused,
and the first failure is in the log of every host.

From `connect` on a process that fails, or leaves by Ctrl-C, says so on a line to all others and ends at once (JAX would
wait five minutes for it), and so do they. Of one that leaves by sys.exit, or at the end of its program, they know how
many regions of `failing_together` it took part in: whoever is in a later one waits for nobody, and ends all.
"""

import atexit
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

from jaxdiff.arrays import atomic_write, check_path, fingerprint, own_folder
from jaxdiff.training.line import Line

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT
HEARTBEAT = 20  # seconds without a sign of life after which a process counts as gone
START = 60  # seconds in which all must have come
_line: Line | None = None  # to the other processes
_together: Path | None = None  # the file of a failure, inside of `failing_together`
_regions = 0  # of `failing_together` that this process has entered
_left: dict[int, int] = {}  # of processes that have left: the regions that they had entered
_ending = threading.Lock()  # held by the thread that ends this process


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
    _listen()


def _listen() -> None:
    """Open the line to the other processes, and say on it how this one ends."""
    global _line
    try:
        _line = Line(_hear)
    except OSError as error:
        print(f"jaxdiff: no line to process 0 ({error}); how another process ends only JAX will say", file=sys.stderr)
        return
    atexit.register(lambda: _line and _line.say(left=_regions))
    hook = sys.excepthook

    def last_words(kind, error, trace):
        hook(kind, error, trace)
        if not _saved(error):
            end(*_cause(error))

    sys.excepthook = last_words


def _hear(message: dict) -> None:
    process = message["process"]
    if "cause" in message:
        _end(f"process {process} ended: {message['cause']}", message["code"], message["time"])
    elif "left" in message:
        _left[process] = message["left"]
        _check_none_left()
    elif process not in _left:
        end("ended without a word: killed, or its machine is gone", FAILED, process)


def _check_none_left() -> None:
    """End all where a process has left that this one would wait for."""
    for process, regions in _left.items():
        if regions < _regions:
            end("left by sys.exit, or by the end of its program, before the others", FAILED, process)


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

    The failure is kept in `folder` as failure.json until the next run starts there. All processes enter it equally
    often, one inside another too.
    """
    global _together, _regions
    folder = check_path("folder", folder)
    if not several():
        yield
        return
    if _line is None:
        _listen()
    _regions += 1
    _check_none_left()
    if _together:
        yield
        return
    try:
        path = own_folder(folder) / "failure.json"
        if path.is_dir() and not path.is_symlink():
            raise ValueError(f"{path} is a folder; remove it, or give another run")
        if first():
            path.unlink(missing_ok=True)
        barrier("jaxdiff: together")
        _together = path
        yield
    except BaseException as error:
        if not _saved(error):
            end(*_cause(error))
        raise
    finally:
        _together = None


def _saved(error: BaseException) -> bool:
    """Whether all processes leave in this way, having saved after the same step."""
    return isinstance(error, SystemExit | KeyboardInterrupt) and hasattr(error, "step")


def _cause(error: BaseException) -> tuple[str, int]:
    """What to say of an exception that ends this process, and the exit code, never 0: the others are not done."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)", INTERRUPTED
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else FAILED
        return f"left by sys.exit({error.code!r}) before the others", code & 0xFF or FAILED
    return str(error).strip() or type(error).__name__, FAILED


def end(cause: str, code: int, process: int | None = None) -> NoReturn:
    """End all processes at once with an exit code: for `cause`, which is that of this `process` or another."""
    if _line is None:
        _end(cause, code, time.time())
    time.sleep(0.0 if process is not None else 0.3)  # that of another, which is the cause of this one, is heard first
    with _ending:
        failure = {"process": _line.process if process is None else process, "cause": cause, "code": code}
        failure["time"] = time.time()
        _line.say(**failure)
        if _together is not None:
            with contextlib.suppress(OSError), atomic_write(_together) as file:
                file.write(json.dumps(failure).encode())
        _leave(f"process {failure['process']} ended: {cause}", code, failure["time"])


def _end(cause: str, code: int, since: float) -> NoReturn:
    with _ending:
        _leave(cause, code, since)


def _leave(cause: str, code: int, since: float) -> NoReturn:
    """Say why, wait until all have had the time to, and end whatever the threads of this process are doing."""
    print(f"\njaxdiff: {cause}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if _line is not None:
        last = 0.5 if _line.process == 0 else 0.0  # without the process that coordinates the others are aborted
        time.sleep(min(max(since + 1.0 + last - time.time(), 0.0), 2.0))
    os._exit(code)
