"""A client of Firecracker's API: HTTP/1.1 over a Unix socket, on one connection.

It blocks, and is used in a thread: a request takes a fraction of a millisecond. An HTTP library costs many times that, and what is
needed of HTTP here is a dozen lines. Every wait has a deadline and every answer a bound: a guest may have taken the VMM over.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from bandsox import sockets
from bandsox.decoding import ready
from bandsox.errors import MachineStopped, VMMError
from bandsox.vmm.firecracker.requests import Fault, Request

DEADLINE_S = 10.0
"""How long one request may take. Only those for snapshots write or read much; for them the caller says how long."""

_HEAD_LIMIT = 8 << 10
_BODY_LIMIT = 1 << 20
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.I)

AnswerT = TypeVar("AnswerT")


class Client:
    """A connection to one Firecracker.

    Raises
    ------
    MachineStopped: nobody listens on `path`.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = bytearray()
        try:
            self._socket.settimeout(DEADLINE_S)
            sockets.connect(self._socket, path)
        except OSError as error:
            self._socket.close()
            raise MachineStopped("the VMM is not running", cause=str(error)) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def send(self, request: Request, deadline_s: float = DEADLINE_S) -> None:
        """Make a request.

        Raises
        ------
        VMMError: Firecracker refused it, in its own words, or does not answer within `deadline_s` seconds.
        MachineStopped: it ended meanwhile.
        """
        self._exchange(request.method, request.path, request.encoded(), deadline_s)

    def send_all(self, requests: Sequence[Request]) -> None:
        """Make several requests, which Firecracker has before it answers the first, so that nobody waits in between; errors as `send`.

        Those behind one that was refused are carried out all the same.
        """
        self._socket.settimeout(DEADLINE_S)
        self._put(b"".join(_encoded(request.method, request.path, request.encoded()) for request in requests), "requests")
        for request in requests:
            self._take(request.method, request.path, DEADLINE_S)

    def get(self, path: str, answer: type[AnswerT]) -> AnswerT:
        """What Firecracker says of a resource; errors as `send`."""
        body = self._exchange("GET", path, b"", DEADLINE_S)
        try:
            return msgspec.json.decode(body, type=ready(answer))
        except msgspec.DecodeError as error:
            raise VMMError(f"Firecracker's answer to GET {path} cannot be read", cause=str(error)) from error

    def _exchange(self, method: str, path: str, body: bytes, deadline_s: float) -> bytes:
        self._socket.settimeout(deadline_s)
        self._put(_encoded(method, path, body), f"{method} {path}")
        return self._take(method, path, deadline_s)

    def _put(self, content: bytes, what: str) -> None:
        try:
            self._socket.sendall(content)
        except TimeoutError as error:
            raise VMMError(f"Firecracker did not take {what} in time") from error
        except OSError as error:
            raise MachineStopped("the VMM ended", cause=str(error)) from error

    def _take(self, method: str, path: str, deadline_s: float) -> bytes:
        try:
            status, answer = self._answer()
        except TimeoutError as error:
            raise VMMError(f"Firecracker did not answer {method} {path} within {deadline_s:g} s") from error
        except OSError as error:
            raise MachineStopped("the VMM ended", cause=str(error)) from error
        if status >= 400:
            fault = _fault(answer)
            raise VMMError(f"Firecracker refused {method} {path}: {fault}", detail={"fault_message": fault, "status": status})
        return answer

    def _answer(self) -> tuple[int, bytes]:
        """The next answer; what has come of the one after it is kept."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > _HEAD_LIMIT:
                raise VMMError("Firecracker's API sent something that is not HTTP")
            self._receive()
        head = bytes(self._received[: end + 2])
        status, length = _STATUS.match(head), _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if status is None or size > _BODY_LIMIT:
            raise VMMError("Firecracker's API sent something that is not HTTP, or too much")
        while len(self._received) < end + 4 + size:
            self._receive()
        body = bytes(self._received[end + 4 : end + 4 + size])
        del self._received[: end + 4 + size]
        return int(status[1]), body

    def _receive(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the connection was closed")
        self._received += data


def _encoded(method: str, path: str, body: bytes) -> bytes:
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode() + body


def _fault(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=ready(Fault)).fault_message
    except msgspec.DecodeError:
        return answer[:500].decode(errors="replace")
