"""An HTTP server on the loopback interface that does what a test says: redirects, refuses, breaks off, falls silent, lies."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What to answer. ``length`` is the announced one where it shall be wrong; after ``cut`` bytes of the body the
    connection ends, after ``silent_after`` bytes nothing more comes, or
    where it shall ``drip`` a byte now and then."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    cut: int | None = None
    silent_after: int | None = None
    drip: bool = False


@dataclass
class Server:
    """A running server: its origin, and what it was asked so far."""

    origin: str
    requests: list[Request]

    @property
    def host(self) -> str:
        return self.origin.partition("://")[2]


def ranged(request: Request, data: bytes, *, tag: str | None = '"one"', **faults: Any) -> Answer:
    """The answer of a well-made server for a file: the part that was asked for."""
    headers = {"ETag": tag} if tag else {}
    asked = request.headers.get("range")
    condition = request.headers.get("if-range")
    if asked is None or (condition is not None and condition != tag):
        return Answer(body=data, headers=headers, **faults)
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    if start >= len(data):
        return Answer(416)
    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return Answer(206, data[start:], headers, **faults)


@contextmanager
def serve(answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Server]:
    """Answer every request with what `answer` makes of it."""
    ended = threading.Event()
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            requests.append(request)
            self.close_connection = True
            with suppress(ConnectionError):
                self._answer(answer(request))

        def _answer(self, said: Answer) -> None:
            self.send_response(said.status)
            length = str(len(said.body) if said.length is None else said.length)
            for name, value in {"Content-Length": length, "Connection": "close", **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if said.silent_after is not None:
                self.wfile.write(said.body[: said.silent_after])
                rest = iter(said.body[said.silent_after :])
                while not ended.wait(0.05):
                    self.wfile.write(bytes([next(rest)]) if said.drip else b"")
                return
            self.wfile.write(said.body[: said.cut])

        do_GET = do_POST = _handle  # noqa: N815 - the names that the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    class Threads(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Threads((host, 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield Server(f"{'https' if tls else 'http'}://{host}:{server.server_address[1]}", requests)
        finally:
            ended.set()
            server.shutdown()
            thread.join()
