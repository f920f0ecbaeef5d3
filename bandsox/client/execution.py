"""A program that runs on a server's machine: the `Execution` of the library, over a WebSocket (`bandsox.wire`)."""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import msgspec
from websockets.exceptions import ConnectionClosed

from bandsox import wire
from bandsox.client.faults import message_of
from bandsox.errors import BandSoxError, Conflict, NotAuthenticated, OutcomeUnknown, ProtocolError
from bandsox.guest import Execution
from bandsox.guest.answers import AttachedEvent, StartedEvent
from bandsox.guest.connection import Connection
from bandsox.guest.frames import Frame, FrameType
from bandsox.guest.messages import ResizeControl, SignalControl

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_KINDS = {wire.STDOUT: FrameType.OUTPUT, wire.STDERR: FrameType.STDERR}
_FRAME_HEADER = 5


class RemoteExecution(Execution):
    """A running process of a server's machine; used as `Execution`."""

    def __init__(self, socket: ClientConnection, *, attached: bool) -> None:
        self._far = _Socket(socket)
        super().__init__(cast(Connection, self._far), AttachedEvent if attached else StartedEvent)

    async def begin(self, timeout: float | None) -> None:
        """Wait until the process runs, or is attached to."""
        started = await self._far.started()
        self.pid = int(started["pid"])
        self.offsets = {"stdout": int(started["stdout"]), "stderr": int(started["stderr"])}
        self._timeout = timeout
        self._credit = wire.WINDOW

    async def close_stdin(self) -> None:
        """End the input; the program reads end-of-file."""
        if not self._input_closed and self._exit is None:
            self._input_closed = True
            await self._say({"type": "close_stdin"})

    async def _control(self, message: SignalControl | ResizeControl) -> None:
        if self._exit is not None:
            return
        if isinstance(message, SignalControl):
            await self._say({"type": "signal", "signal": message.signal})
        else:
            await self._say({"type": "resize", "cols": message.cols, "rows": message.rows})

    async def _send(self, frame: bytes) -> None:
        await self._say(wire.STDIN + frame[_FRAME_HEADER:])

    async def _say(self, message: bytes | dict[str, Any]) -> None:
        if self._closed:
            raise Conflict("this execution's connection was closed")
        await self._far.send(message)

    async def aclose(self) -> None:
        """Close the connection."""
        if not self._closed:
            self._closed = True
            await self._far.aclose()


class _Socket:
    """The WebSocket in the place of a connection to a guest: what it says, as the frames that an `Execution` reads."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._inbox: deque[Frame] = deque()

    async def started(self) -> dict[str, Any]:
        """The first message."""
        said = await self._receive()
        if isinstance(said, bytes) or said.get("type") != "started":
            raise ProtocolError("the server did not say that the program has started")
        return said

    async def receive_more(self) -> None:
        """Read one message."""
        said = await self._receive()
        if isinstance(said, bytes):
            kind = _KINDS.get(said[:1])
            if kind is None:
                raise ProtocolError("the server sent a frame of no stream")
            self._inbox.append((kind, said[1:]))
        elif said.get("type") == "window":
            self._inbox.append((FrameType.WINDOW, struct.pack(">I", int(said["bytes"]))))
        elif said.get("type") == "exit":
            self._inbox.append((FrameType.RESULT, msgspec.msgpack.encode(said)))
        else:
            raise ProtocolError("the server sent a message that this version does not know")

    @property
    def has_frame(self) -> bool:
        """Whether there is something to take."""
        return bool(self._inbox)

    def take_frame(self) -> Frame:
        """The next frame."""
        return self._inbox.popleft()

    def unexpected(self, kind: int) -> ProtocolError:
        """The error for a frame after the end."""
        return ProtocolError(f"the server sent {FrameType(kind).name} after the end")

    async def send(self, message: bytes | dict[str, Any]) -> None:
        """Send it; a connection that is closed is found out by whoever reads it."""
        try:
            await self._socket.send(message if isinstance(message, bytes) else json.dumps(message))
        except ConnectionClosed:
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Close it."""
        await self._socket.close()

    async def _receive(self) -> bytes | dict[str, Any]:
        try:
            said = await self._socket.recv()
        except ConnectionClosed as error:
            raise _lost(error) from error
        return message_of(said)


def _lost(error: ConnectionClosed) -> BandSoxError:
    if error.rcvd is not None and error.rcvd.code == wire.UNKNOWN_CALLER:
        return NotAuthenticated("this server does not let you run programs", remedy="give headers with a key of the scope exec")
    return OutcomeUnknown("the connection to the server was lost while the program ran", cause=str(error))
