"""Several processes as one run: connect them, compare their settings, and end all of them when one fails.

`jax.distributed` connects the processes, reports a preemption and notices a host that is gone; Orbax and
`multihost_utils` synchronise them. This module adds two things: a run whose processes were started with different
settings is refused, and the cause of the first failure is in the log of every host.

After `connect`, a process that fails or is interrupted by Ctrl-C sends the cause to all others over a socket and exits
at once, and so do they; JAX would wait five minutes for it. A process that leaves by sys.exit, or at the end of its
program, sends how many regions of `failing_together` it has entered. A process that enters a later region would wait
for it forever, and ends all instead.
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
START = 60  # seconds within which all processes must connect
_line: Line | None = None  # the connection to the other processes
_together: Path | None = None  # where a failure is written, while inside `failing_together`
_regions = 0  # how many regions of `failing_together` this process has entered
_left: dict[int, int] = {}  # how many regions each process that has left had entered
_ending = threading.Lock()  # held by the thread that ends this process


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the processes of a run. Call it before any other use of JAX.

    With None for all three JAX finds them out from the cluster (SLURM, TPU pods, ...). If not all processes connect
    within a minute, those that have end with a message. Raises ConnectionError for an address that cannot be used,
    RuntimeError where JAX is initialised already.
    """
    fix = (
        "start all of them, each with the same --coordinator HOST:PORT and --processes, and with a --process-id of its "
        "own, from 0 on"
    )
    late = f"jaxdiff: the processes have not found each other within {START} s; {fix}"
    told = threading.Timer(START - 1, lambda: print(late, file=sys.stderr, flush=True))
    told.daemon = True
    told.start()  # before JAX ends the process itself, without returning to Python
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
    """Connect to the other processes, and arrange that this one tells them how it ends."""
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
    """End all processes where one has left that this process would wait for."""
    for process, regions in _left.items():
        if regions < _regions:
            end("left by sys.exit, or by the end of its program, before the others", FAILED, process)


def barrier(name: str) -> None:
    """Wait until every process has called it."""
    if several():
        multihost_utils.sync_global_devices(name)


def from_first(number: int) -> int:
    """`number` as process 0 has it. A collective: every process must call it."""
    return int(multihost_utils.broadcast_one_to_all(np.int64(number))) if several() else number


def agree(folder: Path, settings: dict) -> None:
    """Raise ValueError where a process has other `settings`, or another folder, than process 0. A collective."""
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
    """Inside this context, whatever ends one process ends all: an error, sys.exit or Ctrl-C. Every log has the cause.

    The failure is kept in `folder` as failure.json until the next run starts there. Every process must enter equally
    many of these contexts; they may be nested.
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
    """Whether `error` ends every process alike, after all have saved the same step."""
    return isinstance(error, SystemExit | KeyboardInterrupt) and hasattr(error, "step")


def _cause(error: BaseException) -> tuple[str, int]:
    """The message and the exit code for an exception that ends this process; never 0, as the others are not done."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)", INTERRUPTED
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else FAILED
        return f"left by sys.exit({error.code!r}) before the others", code & 0xFF or FAILED
    return str(error).strip() or type(error).__name__, FAILED


def end(cause: str, code: int, process: int | None = None) -> NoReturn:
    """End all processes at once with the exit code `code`. `cause` is what ended `process`, by default this one."""
    if _line is None:
        _end(cause, code, time.time())
    time.sleep(0.0 if process is not None else 0.3)  # so that another's failure, which caused this one, arrives first
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
    """Print the cause, wait until every process can have printed it, and exit, whatever other threads are doing."""
    print(f"\njaxdiff: {cause}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if _line is not None:
        last = 0.5 if _line.process == 0 else 0.0  # the coordinator last: without it the others are aborted
        time.sleep(min(max(since + 1.0 + last - time.time(), 0.0), 2.0))
    os._exit(code)
