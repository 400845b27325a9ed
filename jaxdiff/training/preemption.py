"""SIGTERM, with which a cluster takes a machine back: between steps a question, at other times an answer.

While steps run, `Preemption.requested` says that the signal came, and the loop saves and leaves. At other times (while
JAX compiles, or pictures are drawn) there is nothing to save: the process then says so and ends at once, with the exit
code that means "start me again". Python runs its handlers only between two of its own instructions, and compiling is
one instruction that may take minutes; so a thread reads the pipe into which the signal is written the moment it comes.

Of several processes one may be told and all must stop after the same step: there JAX's own service listens and agrees
on the step. Where it does not listen (in sampling, in a likelihood), one that is told ends all.
"""

import contextlib
import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from jaxdiff.training.hosts import end, several

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """A SIGTERM came; the run is saved after `step` updates, and the same call goes on from there.

    Left alone it ends the program with an exit code of its own, 75.
    """

    def __init__(self, step: int):
        super().__init__(EXIT_CODE)
        self.step = step


def say(what: str) -> None:
    """Tell on the error output why this process ends."""
    print(f"\njaxdiff: stopped by SIGTERM; {what}", file=sys.stderr, flush=True)


class Preemption:
    """Listens for SIGTERM; a context manager, and a second one inside the first takes its place meanwhile.

    Only the main thread of a process can listen; elsewhere, and where JAX's service listens, it installs nothing.
    """

    _saving = False

    def __init__(self, at_once: str = "nothing is lost; the same command starts again"):
        self._told = threading.Event()
        self._at_once = at_once

    def __enter__(self) -> "Preemption":
        self._agreed = several() and jax.config.jax_enable_preemption_service  # pyright: ignore[reportAttributeAccessIssue]
        self._listening = threading.current_thread() is threading.main_thread() and not self._agreed
        if self._listening:
            self._out, self._in = os.pipe()
            os.set_blocking(self._in, False)
            self._pipe = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
            self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, self._handler)
            signal.set_wakeup_fd(self._pipe)
            os.close(self._in)

    def _listen(self) -> None:
        while signals := os.read(self._out, 64):
            if signal.SIGTERM in signals:
                self._told.set()
                if not self._saving:
                    end(f"stopped by SIGTERM; {self._at_once}", EXIT_CODE)
        os.close(self._out)

    @contextlib.contextmanager
    def held(self):
        """While inside, the signal does not end the process: ask `requested` after every step."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def requested(self, step: int) -> bool:
        """Whether to save and leave now, after `step` updates: the same answer in every process of a run."""
        return multihost_utils.reached_preemption_sync_point(step) if self._agreed else self._told.is_set()
