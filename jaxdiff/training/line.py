"""Sockets between the processes of a run, by which each learns at once that another has ended, and why.

Process 0 accepts connections from the others and relays every message to all. When a process is killed, the operating
system closes its socket, which the others notice. JAX's own heartbeat needs 20 seconds for that, carries no cause, and
does not notice a process that waits at its exit.
"""

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable

from jax._src.distributed import global_state  # the state of `jax.distributed`, with its key-value store

WAIT = 60  # seconds within which process 0 must be reached
LONGEST = 2**16  # the most bytes of a message


class Line:
    """This process's end of the connection.

    `heard(message)` is called in a thread for each message of another process, a dict with its "process". A closed
    connection gives the message {"process": ..., "closed": True}.

    Raises OSError if process 0 cannot be reached.
    """

    def __init__(self, heard: Callable[[dict], None]):
        self.process = global_state.process_id
        self._heard, self._lock = heard, threading.Lock()
        self._said: list[dict] = []  # all messages so far, for a process that connects late
        self._others: dict[int, socket.socket] = {}
        client, address = global_state.client, global_state.coordinator_address
        assert client is not None, "jax.distributed is connected"
        assert address is not None, "jax.distributed is connected"
        if self.process == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
            token = secrets.token_hex(16)  # rejects strangers
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
        """Send a message to all others, also to those that connect later."""
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
    with contextlib.suppress(OSError):  # the other has ended; its listener notices
        other.sendall(json.dumps(message).encode() + b"\n")


def _start(work: Callable, *arguments) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()
