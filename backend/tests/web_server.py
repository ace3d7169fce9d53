"""A real HTTP or HTTPS file server on 127.0.0.1, with faults on demand."""

from __future__ import annotations

import io
import logging
import re
import ssl
import sys
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
import trustme

CLOSED = "http://127.0.0.1:9"
"""A proxy where nothing listens."""


@dataclass(frozen=True)
class Status:
    """Answer with this status."""

    code: int


@dataclass(frozen=True)
class Redirect:
    """Answer 302, to this URL."""

    url: str


@dataclass(frozen=True)
class Cut:
    """Send this many bytes of the body, then close the connection."""

    after: int


@dataclass(frozen=True)
class Hold:
    """Send this many bytes of the body (None: no headers either) and wait for `release`."""

    after: int | None


@dataclass(frozen=True)
class Unannounced:
    """Send the body without saying how long it is."""


@dataclass(frozen=True)
class Changed:
    """The file has become this one; answer rightly."""

    content: bytes


Fault = Status | Redirect | Cut | Hold | Unannounced | Changed


@dataclass(frozen=True)
class Request:
    """One request as received."""

    path: str
    headers: dict[str, str]


class WebServer:
    """Serves `files` by path; each of `faults` spoils one request, in order.

    `validator` is how versions are told apart: "etag", "date", "weak" (ETag) or "none".

    Behaves as a proxy too: of a whole URL in the request line only the path counts.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        validator: str = "etag",
        ranges: bool = True,
    ) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: deque[Fault] = deque()
        self.requests: list[Request] = []
        self.connections = 0
        self.holding = threading.Event()
        """Set once a `Hold` has sent its bytes."""
        self.release = threading.Event()
        self.validator, self.ranges = validator, ranges
        self.http = _Http(self, tls)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.release.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def paths(self) -> list[str]:
        """What was asked for so far."""
        return [request.path for request in self.requests]

    def validators(self, content: bytes) -> dict[str, str]:
        """The headers that tell one version of a file from another."""
        version = zlib.crc32(content)
        etag = {"ETag": f'"{version:x}"'}
        date = {"Last-Modified": formatdate(version % 2**30, usegmt=True)}
        weak = {"ETag": f'W/"{version:x}"'}
        return {"etag": etag | date, "date": date, "weak": weak | date, "none": {}}[self.validator]


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, web: WebServer, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.web, self.tls = web, tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.web.connections += 1
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away is no error
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        web = self.server.web
        path = urlsplit(self.path).path
        web.requests.append(Request(self.path, dict(self.headers)))
        fault = web.faults.popleft() if web.faults else None
        if isinstance(fault, Changed):
            web.files[path] = fault.content
        if fault == Hold(None):
            self._wait()
        elif isinstance(fault, Status):
            self._head(fault.code, {"Content-Length": "0"})
        elif isinstance(fault, Redirect):
            self._head(302, {"Content-Length": "0", "Location": fault.url})
        elif (content := web.files.get(path)) is None:
            self._head(404, {"Content-Length": "0"})
        else:
            self._send(content, fault)

    def _send(self, content: bytes, fault: Fault | None) -> None:
        web = self.server.web
        validators = web.validators(content)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, status, headers = 0, 200, dict(validators)
        if web.ranges and wanted and self.headers.get("If-Range") in validators.values():
            start, status = int(wanted[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if not isinstance(fault, Unannounced):
            headers["Content-Length"] = str(len(body))
        self._head(status, headers)
        if isinstance(fault, Cut):
            body = body[: fault.after]
        elif isinstance(fault, Hold):
            self.wfile.write(body[: fault.after])
            self._wait()
            body = body[fault.after :]
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _wait(self) -> None:
        self.close_connection = True
        self.server.web.holding.set()
        self.server.web.release.wait()

    def log_message(self, *args: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """This process reaches 127.0.0.1 only, waits for nothing between tries, and logs to caplog."""
    monkeypatch.setenv("http_proxy", CLOSED)
    monkeypatch.setenv("https_proxy", CLOSED)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr("ml.collaborative.datasets.downloads.WAITS", (0.0, 0.0, 0.0))
    caplog.set_level(logging.DEBUG, "ml")


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    """An http server."""
    with WebServer() as server:
        yield server


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture
def https_server(
    ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], WebServer]]:
    """Start an https server whose certificate is "good", "lapsed", for the "wrong host", or that
    of a "stranger"; this process trusts `ca`."""
    pem = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with ExitStack() as stack:

        def serve(kind: str) -> WebServer:
            issuer = trustme.CA() if kind == "stranger" else ca
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            issuer.issue_cert(
                "elsewhere.example" if kind == "wrong host" else "127.0.0.1",
                not_after=datetime(2025, 1, 1, tzinfo=UTC) if kind == "lapsed" else None,
            ).configure_cert(context)
            return stack.enter_context(WebServer(tls=context))

        yield serve


def zip_of(
    members: dict[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A zip archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def patched(archive: bytes, *patches: tuple[bytes, int, bytes]) -> bytes:
    """Overwrite bytes at an offset from the last place of a signature."""
    spoilt = bytearray(archive)
    for signature, offset, value in patches:
        start = archive.rindex(signature) + offset
        spoilt[start : start + len(value)] = value
    return bytes(spoilt)
