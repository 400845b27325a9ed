"""A run of several processes: how it starts, what all must agree on, and how all learn why it ended.

`jax.distributed` connects them, tells of a preemption and notices a host that is gone; Orbax and `multihost_utils` wait
for one another. What is added here is what neither does: a run whose processes were started differently is refused,
and the first failure is in the log of every host.

A process that fails says so in a file of the run's folder and ends at once (JAX would wait five minutes for it); a
thread in each of the others looks there every second, says the same and ends too.
"""

import contextlib
import hashlib
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

FAILED = 1
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
    """Raise ValueError where the processes have other `settings` (JSON), or another folder, than process 0."""
    if not several():
        return
    names = sorted(settings)
    digests = [hashlib.sha256(json.dumps(settings[name], default=str).encode()).digest()[:8] for name in names]
    own = np.array([int.from_bytes(digest) for digest in digests], np.uint64).view(np.uint32)
    nonce = np.frombuffer(secrets.token_bytes(4), np.uint32)
    token = multihost_utils.broadcast_one_to_all(nonce)
    shared = folder / f".shared-{token[0]:08x}"
    if first():
        folder.mkdir(parents=True, exist_ok=True)
        shared.touch()
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
def failing_together(folder: Path) -> Iterator[None]:
    """While inside, a failure of one process ends all, each with its cause in the log.

    The file of a failure stays in `folder` until the next run starts there. Inside another it does nothing.
    """
    global _together
    if not several() or _together:
        yield
        return
    _together = path = folder / "failure.json"
    if first():
        folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    barrier("jaxdiff: together")
    done = threading.Event()

    def look():
        while not done.wait(1.0):
            with contextlib.suppress(OSError, ValueError, KeyError):
                failure = json.loads(path.read_text())
                _end(f"process {failure['process']} ended: {failure['cause']}", failure["code"], failure["time"])

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except Exception as error:
        done.set()
        end(str(error).strip() or type(error).__name__, FAILED)
    finally:
        done.set()
        _together = None


def end(cause: str, code: int) -> NoReturn:
    """End this process at once with an exit code, and with it all that fail together."""
    now = time.time()
    if _together is not None:
        with contextlib.suppress(OSError):
            draft = _together.with_name(f"failure.{jax.process_index()}.tmp")
            draft.write_text(json.dumps({"process": jax.process_index(), "cause": cause, "code": code, "time": now}))
            if _together.exists():
                draft.unlink()
            else:
                draft.replace(_together)
    _end(cause, code, now)


def _end(cause: str, code: int, since: float) -> NoReturn:
    """Say why, wait until all have had the time to, and end whatever the threads of this process are doing."""
    print(f"\njaxdiff: {cause}", file=sys.stderr, flush=True)
    if _together is not None:
        last = 0.5 if first() else 0.0  # without the process that coordinates the others are aborted
        time.sleep(min(max(since + 2.0 + last - time.time(), 0.0), 3.0))
    os._exit(code)
