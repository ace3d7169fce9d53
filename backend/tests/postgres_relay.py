"""A TCP port that leads to the tests' PostgreSQL, with TLS or a bad day on the way."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""What a client asks first that wants TLS, see PostgreSQL's protocol, "SSL Session Encryption"."""
WORST = 1 << 62


@dataclass
class Relay:
    """Connections are taken to the database at `path` and back, until `after` bytes came of it."""

    path: str
    after: int = WORST
    """Bytes of the database's answers after which `then` happens to a connection."""
    then: Literal["cut", "stall"] = "cut"
    times: int = WORST
    """How many connections that happens to; those after them are good."""
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    accepting: bool = True
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    connections: int = 0

    def __enter__(self) -> Relay:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(family)
        self._listener.bind((self.host, 0))
        self._listener.listen(8 if self.accepting else 0)
        self.port = self._listener.getsockname()[1]
        if self.accepting:
            self._run(self._accept)
        else:  # the queue of those who wait to be accepted is filled
            for _ in range(2):
                waiting = socket.socket(family)
                waiting.setblocking(False)
                waiting.connect_ex((self.host, self.port))
                self._sockets.append(waiting)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        for used in (self._listener, *self._sockets):
            with suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for used in (self._listener, *self._sockets):
            used.close()

    def url(self, user: str = "postgres", more: str = "") -> str:
        """Of the database through this port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{user}@{host}:{self.port}/postgres{more}"

    def _run(self, work: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as database:
            first = client.recv(8, socket.MSG_WAITALL)
            if first == SSL_REQUEST:
                client.sendall(b"S" if self.tls else b"N")
                if self.tls:
                    client = self.tls.wrap_socket(client, server_side=True)
                    self._sockets.append(client)
                first = b""
            self.connections += 1
            database.connect(self.path)
            database.sendall(first)
            asking = self._run(self._copy, client, database, WORST)
            self.times -= 1
            self._copy(database, client, self.after if self.times >= 0 else WORST)
            asking.join()

    def _copy(self, source: socket.socket, target: socket.socket, after: int) -> None:
        with suppress(OSError):
            while after > 0 and (data := source.recv(min(after, 1 << 16))):
                target.sendall(data)
                after -= len(data)
            if after <= 0 and self.then == "stall":
                self.stalled.set()
                self.go_on.wait()
                self._copy(source, target, WORST)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
