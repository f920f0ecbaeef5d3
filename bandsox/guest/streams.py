"""Connections to ports of the guest, carried by its agent: no network is needed, on neither side.

A `GuestStream` is one connection, on a connection to the agent of its own. The records that make it up are those of
``docs/protocol.md``, "Streams"; the forwarder, a program of its own, carries many on one connection, which
`StreamOperations.hand_over_streams` gives it.

As with a process (`bandsox.guest.execution`) nothing runs in the background: whoever waits for something reads the connection, one at a
time. So what nobody reads stays in the guest but for `CREDIT` bytes, and the program there has to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ipaddress
import struct
from collections import deque
from collections.abc import Callable

import anyio

from bandsox.errors import BandSoxError, Conflict, ConnectionReset, InvalidRequest, ProtocolError, Timeout
from bandsox.guest import frames
from bandsox.guest.answers import Answer, ErrorAnswer, ReadyEvent, decode
from bandsox.guest.connection import DEFAULT_TIMEOUT, Connection, Operations
from bandsox.guest.faults import connection_refused
from bandsox.guest.frames import FrameType
from bandsox.guest.link import HandedOver
from bandsox.guest.messages import CancelControl, Streams, encode_message

CREDIT = 128 << 10
"""How many bytes of each direction may be under way to a reader that does not read."""

MAX_DATA = (64 << 10) - 10
"""The most data in one record, in bytes."""

CONNECT_TIMEOUT = 10.0
"""How long a connection may take to come about, in seconds, where the caller does not say."""

_CLOSE_TIMEOUT = 1.0
_STREAM = 1
_RECORD = struct.Struct(">BI")
_CREDIT = struct.Struct(">I")


class _Kind(enum.IntEnum):
    OPEN = 1
    ACCEPT = 2
    REFUSE = 3
    DATA = 4
    CREDIT = 5
    FIN = 6
    CLOSE = 7
    RESET = 8


def _frame(kind: _Kind, rest: bytes | memoryview = b"") -> bytes:
    return b"".join((frames.header(FrameType.DATA, _RECORD.size + len(rest)), _RECORD.pack(kind, _STREAM), rest))


class GuestStream:
    """A connection to a port of the guest. Made by `StreamOperations.connect`; a context manager that closes it.

    One task may read while another writes.
    """

    def __init__(self, connection: Connection, port: int) -> None:
        self.port = port
        self._connection = connection
        self._accepted = False
        self._received: deque[bytes] = deque()
        self._allowed = CREDIT  # bytes the guest may still send
        self._taken = 0  # bytes read since the last CREDIT
        self._ended = False  # by the guest: it sends no more
        self._credit = CREDIT  # bytes the guest takes
        self._finished = False  # by us
        self._unwanted = False  # the guest reads no more
        self._failure: BandSoxError | None = None  # after what was received
        self._broken = False  # the connection to the agent, and not only the stream
        self._reading = False
        self._closed = False
        self._news = asyncio.Event()

    async def begin(self) -> None:
        """Wait until the program in the guest has the connection; errors as `StreamOperations.connect`."""
        try:
            await self._connection.event(ReadyEvent)
            self._dispatch()
        except BandSoxError:
            self._broken = True
            raise
        await self._until(lambda: self._accepted)
        self._connection.deadline = None
        self._connection.patience = None  # a connection may be silent for as long as it likes

    async def __aenter__(self) -> GuestStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # ── reading ──

    async def read(self, size: int = 65536) -> bytes:
        """The next 1 to `size` bytes, as soon as there are any; empty at the end.

        Raises
        ------
        ConnectionReset: the program in the guest broke off. MachineStopped, ProtocolError: the guest did.
        """
        if size < 1:
            raise InvalidRequest(f"at least one byte must be asked for, not {size}")
        if self._taken >= CREDIT // 4 and not self._ended:
            granted, self._taken = self._taken, 0
            self._allowed += granted
            await self._send(_frame(_Kind.CREDIT, _CREDIT.pack(granted)))
        await self._until(lambda: bool(self._received) or self._ended)
        if not self._received:
            return b""
        data = self._received.popleft()
        if len(data) > size:
            self._received.appendleft(data[size:])
            data = data[:size]
        self._taken += len(data)
        return data

    # ── writing ──

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, as fast as the program in the guest takes it.

        Raises
        ------
        ConnectionReset: the program in the guest has closed the connection. Conflict: it was ended here. Else as `read`.
        """
        if self._finished:
            raise Conflict("the stream was ended: nothing can be sent any more")
        view = memoryview(data).cast("B")
        while view:
            await self._until(lambda: self._credit > 0 or self._unwanted)
            if self._unwanted:
                raise self._reset()
            part = view[: min(self._credit, MAX_DATA)]
            view = view[len(part) :]
            self._credit -= len(part)
            await self._send(_frame(_Kind.DATA, part))

    async def write_eof(self) -> None:
        """End this direction; the program in the guest reads an end of file, and may go on sending."""
        if not self._finished:
            self._finished = True
            await self._send(_frame(_Kind.FIN))

    # ── the end ──

    async def aclose(self) -> None:
        """Close the connection in both directions; what was written still arrives."""
        if self._closed:
            return
        self._closed = True
        self._tell()
        try:
            while self._reading:  # another task waits for data: it is told that there will be none
                self._connection.interrupt()
                self._broken = True
                await self._news.wait()
            if not self._broken:
                with contextlib.suppress(BandSoxError):
                    await self._leave()
        finally:
            self._connection.close()

    async def _leave(self) -> None:
        """End the operation so that the connection to the agent can be used again."""
        over = self._failure is not None or (self._finished and self._ended)
        close = b"" if over else _frame(_Kind.CLOSE)
        cancel = frames.encode(FrameType.CONTROL, encode_message(CancelControl()))
        self._connection.deadline = asyncio.get_running_loop().time() + _CLOSE_TIMEOUT
        await self._connection.send(close, cancel)
        while True:
            kind, payload = await self._connection.next_frame()
            if kind == FrameType.RESULT:
                decode(payload, Answer)
                return
            if kind != FrameType.OUTPUT:  # which was under way
                raise self._connection.unexpected(kind)

    # ── the connection to the agent ──

    async def _send(self, frame: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise Conflict("the stream was closed")
        await self._connection.send(frame, deadline=asyncio.get_running_loop().time() + DEFAULT_TIMEOUT)

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Read the connection, or let another task read it, until `ready`."""
        while not ready():
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise Conflict("the stream was closed")
            if self._reading:
                await self._news.wait()
                continue
            self._reading = True
            try:
                await self._connection.receive_more()
                self._dispatch()
            except BandSoxError as error:
                self._failure, self._broken = error, True
                raise (Conflict("the stream was closed") if self._closed else error) from None
            finally:
                self._reading = False
                self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _dispatch(self) -> None:
        while self._connection.has_frame:
            kind, payload = self._connection.take_frame()
            if kind != FrameType.OUTPUT:
                raise self._connection.unexpected(kind)
            self._take_record(bytes(payload))

    def _take_record(self, record: bytes) -> None:
        if not _RECORD.size <= len(record) <= _RECORD.size + MAX_DATA:
            raise ProtocolError(f"the guest sent a record of {len(record)} bytes")
        kind, stream = _RECORD.unpack_from(record)
        rest = record[_RECORD.size :]
        if stream != _STREAM or not self._allows(kind, rest):
            raise ProtocolError(f"the guest sent a record of kind {kind} for stream {stream} where it is not allowed")
        if kind == _Kind.ACCEPT:
            self._accepted = True
        elif kind == _Kind.REFUSE:
            self._failure = connection_refused(decode(rest, ErrorAnswer), self.port)
        elif kind == _Kind.DATA:
            self._allowed -= len(rest)
            self._received.append(rest)
        elif kind == _Kind.CREDIT:
            self._credit += _CREDIT.unpack(rest)[0]
        elif kind == _Kind.RESET:
            self._failure = self._reset()
        else:
            self._ended = True
            self._unwanted = self._unwanted or kind == _Kind.CLOSE

    def _allows(self, kind: int, rest: bytes) -> bool:
        """Whether the guest may send such a record now."""
        if self._failure is not None:
            return False
        if kind in {_Kind.ACCEPT, _Kind.REFUSE}:
            return not self._accepted and (kind == _Kind.REFUSE or not rest)
        if not self._accepted:
            return kind == _Kind.RESET and not rest
        if kind == _Kind.DATA:
            return not self._ended and 0 < len(rest) <= self._allowed
        if kind == _Kind.CREDIT:
            return len(rest) == _CREDIT.size and 0 < _CREDIT.unpack(rest)[0] <= CREDIT - self._credit
        return not rest and (kind == _Kind.RESET or (kind in {_Kind.FIN, _Kind.CLOSE} and not self._ended))

    def _reset(self) -> ConnectionReset:
        return ConnectionReset(f"the program on port {self.port} of the guest broke off the connection", detail={"port": self.port})


class StreamOperations(Operations):
    """Connections to ports of the guest."""

    async def connect(self, port: int, host: str = "", *, timeout: float = CONNECT_TIMEOUT) -> GuestStream:
        """Connect to a TCP port.

        Parameters
        ----------
        host: an IP address that is reached from within the guest; by default the guest itself, over IPv4 or else IPv6.
        timeout: seconds until it must have come about.

        Raises
        ------
        ConnectionRefused: nothing listens there. GuestConnectionError: it cannot be reached.
        Timeout, MachineStopped, ProtocolError; InvalidRequest: not a port, or not an address.
        """
        target = struct.pack(">H", _checked_port(port)) + _checked_host(host)
        connection = await self._connector.open(Streams(), timeout=timeout, following=_frame(_Kind.OPEN, target))
        late = Timeout(f"a connection to port {port} in the guest did not come about within {timeout:g} s", detail={"port": port})
        connection.late_error = lambda: late
        stream = GuestStream(connection, port)
        try:
            await stream.begin()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            raise
        return stream

    async def hand_over_streams(self) -> HandedOver:
        """A connection to the agent on which streams can be opened, for another process to inherit.

        Raises
        ------
        Timeout, MachineStopped, ProtocolError.
        """
        connection = await self._connector.open(Streams(), timeout=DEFAULT_TIMEOUT)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            await connection.event(ReadyEvent)
            handed_over = connection.hand_over()
            undo.pop_all()
        return handed_over


def _checked_port(port: int) -> int:
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise InvalidRequest(f"not a port: {port!r}", remedy="use a number from 1 to 65535")
    return port


def _checked_host(host: str) -> bytes:
    if host in {"", "localhost"}:
        return b""
    try:
        return str(ipaddress.ip_address(host)).encode()
    except ValueError as error:
        raise InvalidRequest(f"not an IP address: {host!r}", remedy="names are not looked up in the guest") from error
