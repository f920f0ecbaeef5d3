"""A client of Firecracker's API: HTTP/1.1 over a Unix socket.

A request takes a fraction of a millisecond. An HTTP library costs many times that, and what is needed of HTTP here is a dozen lines.
`Client` blocks, and is used in a thread for several requests; `send` makes a single one in an event loop, since the way into a thread
and back costs as much as the request. Every wait has a deadline and every answer a bound: a guest may have taken the VMM over.
"""

from __future__ import annotations

import asyncio
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
_PIECE = 1 << 16
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
        self._socket = _connected(path, DEADLINE_S)
        self._answers = _Answers()

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
        with _told(f"did not take {what} in time"):
            self._socket.sendall(content)

    def _take(self, method: str, path: str, deadline_s: float) -> bytes:
        with _told(f"did not answer {method} {path} within {deadline_s:g} s"):
            while (answer := self._answers.take()) is None:
                self._answers.feed(self._socket.recv(_PIECE))
        return _accepted(answer, method, path)


async def send(path: Path | str, request: Request) -> None:
    """Make one request from an event loop, on a connection of its own; errors as `Client` and `Client.send`."""
    with (
        _connected(path, timeout_s=0) as connection,
        _told(f"did not answer {request.method} {request.path} within {DEADLINE_S:g} s"),
    ):
        connection.sendall(_encoded(request.method, request.path, request.encoded()))  # all of it fits into a connection that is new
        answer = await _answer(connection)
    _accepted(answer, request.method, request.path)


async def _answer(connection: socket.socket) -> tuple[int, bytes]:
    """The next answer, which the event loop waits for.

    Raises
    ------
    TimeoutError: it has not come within `DEADLINE_S`. ConnectionResetError: nothing will.
    """
    loop, answers = asyncio.get_running_loop(), _Answers()
    answered: asyncio.Future[tuple[int, bytes]] = loop.create_future()

    def read() -> None:
        try:
            answers.feed(connection.recv(_PIECE))
            answer = answers.take()
        except BlockingIOError:
            return
        except (OSError, VMMError) as error:
            fail(error)
        else:
            if answer is not None and not answered.done():
                answered.set_result(answer)

    def fail(error: Exception) -> None:
        if not answered.done():
            answered.set_exception(error)

    overdue = loop.call_later(DEADLINE_S, fail, TimeoutError())
    descriptor = connection.fileno()  # to look for a socket object, selectors write out what it is, twice
    loop.add_reader(descriptor, read)
    try:
        return await answered
    finally:
        loop.remove_reader(descriptor)
        overdue.cancel()


class _Answers:
    """What has come on a connection, answer by answer."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what has come.

        Raises
        ------
        ConnectionResetError: nothing has, and nothing will.
        """
        if not data:
            raise ConnectionResetError("the connection was closed")
        self._received += data

    def take(self) -> tuple[int, bytes] | None:
        """The status and the body of the next answer; None: it has not come whole. What has come of the one after it is kept.

        Raises
        ------
        VMMError: it is not HTTP, or too much.
        """
        if (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > _HEAD_LIMIT:
                raise VMMError("Firecracker's API sent something that is not HTTP")
            return None
        head = bytes(self._received[: end + 2])
        status, length = _STATUS.match(head), _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if status is None or size > _BODY_LIMIT:
            raise VMMError("Firecracker's API sent something that is not HTTP, or too much")
        if len(self._received) < end + 4 + size:
            return None
        body = bytes(self._received[end + 4 : end + 4 + size])
        del self._received[: end + 4 + size]
        return int(status[1]), body


def _connected(path: Path | str, timeout_s: float) -> socket.socket:
    """A connection to who listens on `path`, on which calls wait for `timeout_s` seconds."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        sockets.connect(connection, path)
    except OSError as error:
        connection.close()
        raise MachineStopped("the VMM is not running", cause=str(error)) from error
    return connection


class _told:  # noqa: N801 — used as a function, and on the way of every request, where a generator takes longer
    """Say what it means for the VMM that its connection fails: `overdue`, or that it has ended."""

    def __init__(self, overdue: str) -> None:
        self._overdue = overdue

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, TimeoutError):
            raise VMMError(f"Firecracker {self._overdue}") from error
        if isinstance(error, OSError):
            raise MachineStopped("the VMM ended", cause=str(error)) from error


def _accepted(answer: tuple[int, bytes], method: str, path: str) -> bytes:
    """The body of an answer that is no refusal."""
    status, body = answer
    if status >= 400:
        fault = _fault(body)
        raise VMMError(f"Firecracker refused {method} {path}: {fault}", detail={"fault_message": fault, "status": status})
    return body


def _encoded(method: str, path: str, body: bytes) -> bytes:
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode() + body


def _fault(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=ready(Fault)).fault_message
    except msgspec.DecodeError:
        return answer[:500].decode(errors="replace")
