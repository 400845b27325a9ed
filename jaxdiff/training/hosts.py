"""Several processes as one run: connect them, compare their settings, and end all of them when one fails.

`jax.distributed` connects the processes, reports a preemption and notices a host that is gone; Orbax and
`multihost_utils` synchronise them. This module adds two things: it rejects a run whose processes were started with
different settings, and it logs the cause of the first failure on every host.

After `connect`, a process that fails or is interrupted by Ctrl-C sends the cause to all others over a socket, and all
of them exit at once; JAX would wait five minutes for it. A process that exits by sys.exit, or at the end of its
program, sends how many `failing_together` contexts it has entered. A process that enters a later context would wait for
it forever, and ends all processes instead.
"""

import atexit
import contextlib
import json
import logging
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
HEARTBEAT = 20  # seconds without a heartbeat after which a process counts as dead
START = 60  # seconds within which all processes must connect
_log = logging.getLogger(__name__)
_line: Line | None = None  # the connection to the other processes
_together: Path | None = None  # the file for a failure, while inside `failing_together`
_regions = 0  # how many `failing_together` contexts this process has entered
_left: dict[int, int] = {}  # how many of them each process that has exited had entered
_ending = threading.Lock()  # held by the thread that ends this process


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this is process 0, which writes the files of a run."""
    return jax.process_index() == 0


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connect the processes of a run. Call it before any other use of JAX.

    With None for all three arguments JAX reads them from the cluster (SLURM, TPU pods, ...). If SLURM started one
    process per node, it uses all GPUs of its node, otherwise one; JAX_LOCAL_DEVICE_IDS="0,1" in the environment chooses
    others. If some processes do not connect within a minute, the others log an error and end.

    Args:
        coordinator: the address of process 0, "HOST:PORT".
        processes: how many processes the run has.
        process: the index of this one, from 0.

    Raises:
        ConnectionError: if the address cannot be used.
        RuntimeError: if JAX is initialised already.

    Examples:
        >>> from jaxdiff.training import connect
        >>> connect("host-0:1234", processes=2, process=0)  # doctest: +SKIP
        >>> connect(None, None, None)  # doctest: +SKIP
    """
    fix = (
        "start all of them, each with the same --coordinator HOST:PORT and --processes, and its own --process-id, "
        "counted from 0"
    )
    late = f"the processes have not found each other within {START} s; {fix}"
    timer = threading.Timer(START - 1, _log.error, [late])
    timer.daemon = True
    timer.start()  # JAX would end the process itself, without returning to Python
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=START, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        if "before any JAX" in str(error):
            raise
        raise ConnectionError(f"the processes cannot connect ({str(error).strip().splitlines()[0]}); {fix}") from error
    finally:
        timer.cancel()
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    if nodes and nodes == os.environ.get("SLURM_NTASKS") and not os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, "all")  # JAX gives every SLURM task one GPU, also the only task of a node
    _listen()
    _log.info("%d processes, %d devices", jax.process_count(), jax.device_count())


def _listen() -> None:
    """Connect to the other processes, and register that this one sends them the cause of its end."""
    global _line
    try:
        _line = Line(_hear)
    except OSError as error:
        _log.warning("no connection to process 0 (%s); if another process ends, only JAX will report it", error)
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
    """End all processes if one has exited that this process would wait for."""
    for process, regions in _left.items():
        if regions < _regions:
            end("left by sys.exit, or by the end of its program, before the others", FAILED, process)


def barrier(name: str) -> None:
    """Wait until every process has called it."""
    if several():
        multihost_utils.sync_global_devices(name)


def from_first(number: int) -> int:
    """`number` of process 0. A collective: every process must call it."""
    return int(multihost_utils.broadcast_one_to_all(np.int64(number))) if several() else number


def agree(folder: Path, settings: dict) -> None:
    """Raise ValueError if a process has other `settings`, or another folder, than process 0. A collective."""
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
            "one folder on a shared file system"
        )
    differ = (everyone[:, :-1] != everyone[:1, :-1]).reshape(len(everyone), len(names), 2).any((0, 2))
    if differ.any():
        what = ", ".join(name for name, other in zip(names, differ) if other)
        raise ValueError(f"the processes were started with different settings: {what}; start all with the same command")


@contextlib.contextmanager
def failing_together(folder: str | os.PathLike) -> Iterator[None]:
    """End all processes of a run when one of them ends inside this context, by an error, sys.exit or Ctrl-C.

    Every process logs the cause, and `folder`/failure.json keeps it until the next run starts there. Every process must
    enter the same number of these contexts; they may be nested. With one process the context does nothing.

    Args:
        folder: the run's folder, on a file system that all processes share.

    Examples:
        >>> import tempfile
        >>> from jaxdiff.training import failing_together
        >>> with tempfile.TemporaryDirectory() as run, failing_together(run):
        ...     steps = sum(1 for _ in range(3))  # train here
        >>> steps
        3
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
    """Whether `error` ends every process, after all have saved the same step."""
    return isinstance(error, SystemExit | KeyboardInterrupt) and hasattr(error, "step")


def _cause(error: BaseException) -> tuple[str, int]:
    """The message and the exit code for an exception that ends this process; the code is never 0."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)", INTERRUPTED
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else FAILED
        return f"left by sys.exit({error.code!r}) before the others", code & 0xFF or FAILED
    return str(error).strip() or type(error).__name__, FAILED


def end(cause: str, code: int, process: int | None = None) -> NoReturn:
    """End all processes at once with the exit code `code`; `cause` is why `process` ended, by default this one."""
    if _line is None:
        _end(cause, code, time.time())
    time.sleep(0.0 if process is not None else 0.3)  # if another's failure caused this one, it arrives first
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
    """Log the cause, wait until every process has had time to log it, and exit, whatever other threads are doing."""
    with contextlib.suppress(Exception):
        _log.error("%s", cause)
        sys.stdout.flush()
    if _line is not None:
        last = 0.5 if _line.process == 0 else 0.0  # the coordinator exits last: without it JAX aborts the others
        time.sleep(min(max(since + 1.0 + last - time.time(), 0.0), 2.0))
    os._exit(code)
