"""The floor of what is measured with Firecracker: its own calls, prepared beforehand, over one connection."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import msgspec

from bandsox.vmm.base import LaunchSpec
from bandsox.vmm.firecracker import configuration, release, saving
from bandsox.vmm.firecracker.requests import Request


class Bare:
    """A Firecracker that is started and driven as directly as can be; it is killed at the end of the block."""

    def __init__(self, spec: LaunchSpec) -> None:
        self._spec = spec
        program = release.find("firecracker", spec.directory)
        self._program = program.path
        self._requests = [encoded(request) for request in configuration.configure(spec, program.version)]
        saving.prepare(spec.directory)

    def __enter__(self) -> Bare:
        self.process = self.start()
        self._socket = socket.socket(socket.AF_UNIX)
        while self._socket.connect_ex(str(self.api)) != 0:
            time.sleep(0.0001)
        for request in self._requests:
            self.send(request)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.end()

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)
        answer = self._socket.recv(1 << 16)
        assert b" 204 " in answer, answer

    @property
    def api(self) -> Path:
        """Where its API is."""
        return self._spec.sockets / configuration.API_SOCKET

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._program, "--api-sock", f"{configuration.RUN}/{configuration.API_SOCKET}"],
            cwd=self._spec.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # as the library does: the host's scheduler shares its time among sessions
        )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def encoded(request: Request) -> bytes:
    """A request as it goes over the connection."""
    body = msgspec.json.encode(request)
    head = (
        f"{request.method} {request.path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body
