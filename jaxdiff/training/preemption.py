"""SIGTERM, which a cluster sends before it reclaims a machine, and Ctrl-C: how a run is stopped without loss.

While steps run, the loop polls `Preemption.requested` after each of them, saves and leaves. Neither signal is raised as
an exception there: inside of a save it could leave threads that wait for each other for ever. A second Ctrl-C ends the
process at once. At other times (while JAX compiles, or pictures are drawn) there is nothing to save: SIGTERM then ends
the process at once, with the exit code that means "start me again", and Ctrl-C raises KeyboardInterrupt, as ever.

Python runs its handlers only between two of its own instructions, and compiling is one instruction that may take
minutes; so a thread reads the pipe into which a signal is written the moment it comes.

Of several processes one may be told and all must stop after the same step: there JAX's own service listens for SIGTERM
and agrees on the step, and Ctrl-C is passed on to it. Where it does not listen (in sampling, in a likelihood), one that
is told ends all.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from jaxdiff.training.hosts import INTERRUPTED, end, several

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """A SIGTERM came; the run is saved after `step` updates, and the same call goes on from there.

    Left alone it ends the program with an exit code of its own, 75.
    """

    def __init__(self, step: int):
        super().__init__(EXIT_CODE)
        self.step = step


def _saved(step: int) -> str:
    return f"saved at step {step}; the same command goes on from there"


def _say(what: str) -> None:
    print(f"\njaxdiff: {what}", file=sys.stderr, flush=True)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """While inside, KeyboardInterrupt is put off until the end; a second Ctrl-C ends the process at once."""
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = []

    def later(*_):
        came.append(True)
        if len(came) > 1 and not _interactive():
            end("interrupted twice; ended at once", INTERRUPTED)

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _interactive() -> bool:
    """Whether this is a session (a notebook, a prompt), which no Ctrl-C may end."""
    return hasattr(sys, "ps1") or ("IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None)


class Preemption:
    """Listens for SIGTERM and Ctrl-C; a context manager, and a second one inside the first takes its place meanwhile.

    Only the main thread of a process can listen; elsewhere it installs nothing.
    """

    _saving = _ours = False  # while steps run; while Ctrl-C is ours

    def __init__(self, at_once: str = "nothing is lost; the same command starts again"):
        self._told = self._interrupted = False
        self._at_once = at_once

    def __enter__(self) -> "Preemption":
        self._agreed = several() and jax.config.jax_enable_preemption_service  # pyright: ignore[reportAttributeAccessIssue]
        self._listening = _in_main_thread()
        if self._listening:
            self._out, self._in = os.pipe()
            os.set_blocking(self._in, False)
            self._pipe = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
            if not self._agreed:  # otherwise SIGTERM is that of JAX's service
                self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        if self._listening:
            if not self._agreed:
                signal.signal(signal.SIGTERM, self._handler)
            signal.set_wakeup_fd(self._pipe)
            os.close(self._in)

    def _listen(self) -> None:
        pressed = 0
        while signals := os.read(self._out, 64):
            if signal.SIGTERM in signals and not self._agreed:
                self._told = True
                if not self._saving:
                    end(f"stopped by SIGTERM; {self._at_once}", EXIT_CODE)
            pressed = pressed + signals.count(signal.SIGINT) if self._saving and self._ours else 0
            if pressed > 1 and not _interactive():
                end("interrupted twice; ended at once, what was saved before is kept", INTERRUPTED)
        os.close(self._out)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While inside, neither signal ends the process: ask `requested` after every step."""
        if several() and not self._agreed:  # one alone cannot save
            yield
            return
        self._ours = self._listening and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._interrupt)
        self._saving = True
        try:
            yield
        finally:
            self._saving = False
            if self._ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._interrupted:  # after the last step
            raise KeyboardInterrupt

    def _interrupt(self, *_) -> None:
        if not self._interrupted:
            again = "" if _interactive() else " (Ctrl-C again ends at once)"
            _say(f"interrupted; saving after this step{again}")
        self._interrupted = True
        if self._agreed:
            signal.raise_signal(signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to save and leave now, after `step` updates: the same answer in every process of a run."""
        if self._agreed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told or self._interrupted

    def leave(self, step: int) -> NoReturn:
        """Raise KeyboardInterrupt, or Preempted: the run was saved after `step` updates, which both have as `step`."""
        if self._interrupted:
            self._interrupted = False
            stop = KeyboardInterrupt(f"interrupted; {_saved(step)}")  # no subclass: Python would exit by another code
            stop.step = step  # pyright: ignore[reportAttributeAccessIssue]
            raise stop
        _say(f"stopped by SIGTERM; {_saved(step)}")
        raise Preempted(step)
