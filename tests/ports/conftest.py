"""Programs that listen in a machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from bandsox import MicroVM

SERVER = r"""
import http.server, os, socketserver, sys, threading, hashlib

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/big":
            body = b"0123456789abcdef" * (1 << 18)
        else:
            body = ("hello from " + self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = hashlib.sha256(body).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

class Server(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address, request_queue_size = True, True, 200

class Web(Server, http.server.HTTPServer):
    pass

web, echo = Web(("127.0.0.1", 80), Handler), Server(("127.0.0.1", 7), Echo)
threading.Thread(target=echo.serve_forever, daemon=True).start()
print("ready", flush=True)
web.serve_forever()
"""
"""HTTP on port 80, an echo on port 7."""


@contextlib.contextmanager
def serving(vm: MicroVM) -> Iterator[None]:
    """Within the block the programs of `SERVER` listen in `vm`."""
    vm.write_text("/root/server.py", SERVER)
    lines = vm.stream(["python3", "/root/server.py"])
    try:
        assert next(lines) == ("stdout", b"ready\n")
        yield
    finally:
        lines.close()  # type: ignore[attr-defined]


Serving = Callable[[MicroVM], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def served(vm: MicroVM) -> Iterator[MicroVM]:
    """The module's machine, with the programs of `SERVER`."""
    with serving(vm):
        yield vm
