"""A connection to a port of a server's machine: the `GuestStream` of the library, over a WebSocket (`bandsox.server.live.connection`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed

from bandsox import wire
from bandsox.client.faults import message_of
from bandsox.errors import BandSoxError, Conflict, ConnectionReset, InvalidRequest, NotAuthenticated
from bandsox.guest import GuestStream

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection


class RemoteStream(GuestStream):
    """A connection to a port of a server's machine; used as `GuestStream`."""

    def __init__(self, socket: ClientConnection, port: int) -> None:
        self.port = port
        self._socket = socket
        self._rest = b""
        self._over = self._finished_here = self._closed_here = False

    async def begin(self) -> None:
        """Wait until the program in the guest has the connection."""
        await self._receive()

    async def read(self, size: int = 65536) -> bytes:
        """The next 1 to `size` bytes, as soon as there are any; empty at the end."""
        if size < 1:
            raise InvalidRequest(f"at least one byte must be asked for, not {size}")
        while not self._rest and not self._over:
            said = await self._receive()
            if isinstance(said, bytes):
                self._rest = said
            else:
                self._over = said.get("type") == "eof"
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, as fast as the program in the guest takes it."""
        if self._finished_here:
            raise Conflict("the stream was ended: nothing can be sent any more")
        view = memoryview(data).cast("B")
        for start in range(0, len(view), wire.CHUNK):
            await self._send(bytes(view[start : start + wire.CHUNK]))

    async def write_eof(self) -> None:
        """End this direction; the program in the guest reads an end of file, and may go on sending."""
        if not self._finished_here:
            self._finished_here = True
            await self._send(json.dumps({"type": "eof"}))

    async def aclose(self) -> None:
        """Close the connection in both directions."""
        self._closed_here = True
        await self._socket.close()

    async def _send(self, message: bytes | str) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            raise self._lost(error) from error

    async def _receive(self) -> bytes | dict[str, Any]:
        try:
            said = await self._socket.recv()
        except ConnectionClosed as error:
            raise self._lost(error) from error
        return message_of(said)

    def _lost(self, error: ConnectionClosed) -> BandSoxError:
        if self._closed_here:
            return Conflict("the stream was closed")
        if error.rcvd is not None and error.rcvd.code == wire.UNKNOWN_CALLER:
            return NotAuthenticated("this server does not let you connect to ports", remedy="give headers with a key of the scope exec")
        return ConnectionReset(f"the connection to port {self.port} of the guest broke off", cause=str(error), detail={"port": self.port})
