"""Stops a run without loss on SIGTERM, which a cluster sends before it reclaims a machine, and on Ctrl-C.

While steps run, the loop polls `Preemption.requested` after each of them, saves and exits. Neither signal raises an
exception there: inside a save it could leave threads that wait for each other forever. A second Ctrl-C ends the process
at once. At other times (while JAX compiles, or pictures are drawn) there is nothing to save: SIGTERM ends the process
at once, with the exit code that means "start me again", and Ctrl-C raises KeyboardInterrupt as usual.

Python runs signal handlers only between two bytecode instructions, and compiling is one instruction that may take
minutes. A thread therefore reads the pipe into which a signal is written as soon as it arrives.

With several processes, one may get the signal and all must stop after the same step: JAX's preemption service listens
for SIGTERM and agrees on the step, and Ctrl-C is forwarded to it. Where the service does not run (in sampling, in a
likelihood), the process that gets the signal ends all.
"""

import contextlib
import logging
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
_log = logging.getLogger(__name__)


class Preempted(SystemExit):
    """Raised by training after a SIGTERM. The run is saved, and the same call continues it.

    It is a SystemExit: unless it is caught, the program ends with exit code 75.

    Args:
        step: how many updates are saved.

    Examples:
        >>> from jaxdiff.training import Preempted
        >>> try:
        ...     raise Preempted(step=40)  # as `train` does
        ... except Preempted as stop:
        ...     stop.step, stop.code
        (40, 75)
    """

    def __init__(self, step: int):
        super().__init__(EXIT_CODE)
        self.step = step


def _saved(step: int) -> str:
    return f"saved at step {step}; the same command goes on from there"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays KeyboardInterrupt to the end of the context. A second Ctrl-C ends the process at once."""
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
    """Whether this is an interactive session (a notebook, a prompt), which Ctrl-C must not end."""
    return hasattr(sys, "ps1") or ("IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None)


class Preemption:
    """Listens for SIGTERM and Ctrl-C, as a context manager.

    Contexts may be nested; the innermost one listens. Only the main thread of a process can listen; in another thread
    the context does nothing.

    Args:
        at_once: the end of the message that is logged if SIGTERM ends the process at once.

    Examples:
        >>> from jaxdiff.training import Preemption
        >>> with Preemption() as preemption, preemption.held():
        ...     for step in range(1, 4):
        ...         if preemption.requested(step):  # after a SIGTERM or Ctrl-C
        ...             preemption.leave(step)  # once the state is saved
        >>> step
        3
    """

    _saving = _ours = False  # while steps run; while our handler for Ctrl-C is installed

    def __init__(self, at_once: str = "nothing is lost; the same command starts again"):
        self._terminated = self._interrupted = False
        self._at_once = at_once

    def __enter__(self) -> "Preemption":
        self._agreed = several() and jax.config.jax_enable_preemption_service  # pyright: ignore[reportAttributeAccessIssue]
        self._listening = _in_main_thread()
        if self._listening:
            self._out, self._in = os.pipe()
            if hasattr(os, "set_blocking"):  # not on Windows before Python 3.12, which does not ask for it either
                os.set_blocking(self._in, False)
            self._pipe = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
            if not self._agreed:  # otherwise JAX's service handles SIGTERM
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
                self._terminated = True
                if not self._saving:
                    end(f"stopped by SIGTERM; {self._at_once}", EXIT_CODE)
            pressed = pressed + signals.count(signal.SIGINT) if self._saving and self._ours else 0
            if pressed > 1 and not _interactive():
                end("interrupted twice; ended at once, what was saved before is kept", INTERRUPTED)
        os.close(self._out)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside this context neither signal ends the process: call `requested` after every step."""
        if several() and not self._agreed:  # one process alone cannot save
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
        if self._interrupted:  # Ctrl-C came after the last step
            raise KeyboardInterrupt

    def _interrupt(self, *_) -> None:
        if not self._interrupted:
            again = "" if _interactive() else " (Ctrl-C again ends at once)"
            _log.warning("interrupted; saving after this step%s", again)
        self._interrupted = True
        if self._agreed:
            signal.raise_signal(signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to save and leave now, after `step` updates. Every process of a run gets the same answer."""
        if self._agreed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._terminated or self._interrupted

    def leave(self, step: int) -> NoReturn:
        """Raise KeyboardInterrupt or Preempted, with the attribute `step`. Call it once `step` updates are saved."""
        if self._interrupted:
            self._interrupted = False
            stop = KeyboardInterrupt(f"interrupted; {_saved(step)}")  # no subclass: Python would exit by another code
            stop.step = step  # pyright: ignore[reportAttributeAccessIssue]
            raise stop
        _log.warning("stopped by SIGTERM; %s", _saved(step))
        raise Preempted(step)
