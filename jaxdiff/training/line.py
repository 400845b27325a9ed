"""A line between the processes of a run, by which each learns at once that another has ended, and why.

Process 0 listens, the others call it, and what one says goes to all. A process that is killed says nothing; the system
closes its end of the line, which says enough. JAX's own heartbeat needs 20 seconds for that, knows no causes, and takes
a process that waits to leave for one that is at work.
"""

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable

from jax._src.distributed import global_state  # what `jax.distributed` keeps, and its store of words that all can read

WAIT = 60  # seconds in which a process must be reached
LONGEST = 2**16  # bytes of a message


class Line:
    """The end of the line that this process holds.

    `heard(message)` is called, in a thread, for each message of another process: a dict with its "process". A line
    that is closed is a message {"process": ..., "closed": True}.

    Raises OSError where process 0 cannot be reached.
    """

    def __init__(self, heard: Callable[[dict], None]):
        self.process = global_state.process_id
        self._heard, self._lock = heard, threading.Lock()
        self._said: list[dict] = []  # all of it, for a process that calls late
        self._others: dict[int, socket.socket] = {}
        client, address = global_state.client, global_state.coordinator_address
        assert client is not None, "jax.distributed is connected"
        assert address is not None, "jax.distributed is connected"
        if self.process == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
            token = secrets.token_hex(16)  # a stranger that calls does not have it
            client.key_value_set("jaxdiff/line", f"{server.getsockname()[1]} {token}")
            _start(self._answer, server, token)
        else:
            port, token = client.blocking_key_value_get("jaxdiff/line", WAIT * 1000).split()
            first = socket.create_connection((address.rsplit(":", 1)[0].strip("[]"), int(port)), WAIT)
            first.settimeout(None)
            first.sendall(f"{token} {self.process}\n".encode())
            self._others[0] = first
            _start(self._listen, 0, first, first.makefile("rb"))

    def say(self, **message) -> None:
        """Tell all others, whether they have called already or will."""
        self._pass_on(message | {"process": message.get("process", self.process)})

    def _answer(self, server: socket.socket, token: str) -> None:
        while True:
            other, _ = server.accept()
            _start(self._admit, other, token)

    def _admit(self, other: socket.socket, token: str) -> None:
        lines = other.makefile("rb")
        given, _, process = lines.readline(LONGEST).decode(errors="replace").strip().partition(" ")
        if not (secrets.compare_digest(given.encode(), token.encode()) and process.isdecimal()):
            return other.close()
        with self._lock:
            self._others[int(process)] = other
            for message in self._said:
                _send(other, message)
        self._listen(int(process), other, lines)

    def _listen(self, process: int, other: socket.socket, lines) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := lines.readline(LONGEST):
                message = json.loads(line)
                self._pass_on(message, but=process)
                self._heard(message)
        other.close()
        self._heard({"process": process, "closed": True})

    def _pass_on(self, message: dict, but: int | None = None) -> None:
        with self._lock:
            self._said.append(message)
            for process, other in self._others.items():
                if process != but:
                    _send(other, message)


def _send(other: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):  # it has ended, which is heard
        other.sendall(json.dumps(message).encode() + b"\n")


def _start(work: Callable, *arguments) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()
