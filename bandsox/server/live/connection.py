"""A connection to a port of the guest, over a WebSocket: each side is read no faster than the other takes it."""

from __future__ import annotations

import asyncio
import json

from starlette.websockets import WebSocket

from bandsox import wire
from bandsox.errors import InvalidRequest
from bandsox.guest import GuestStream
from bandsox.server.live.admission import message
from bandsox.server.live.conversation import number, taken
from bandsox.server.live.windows import Input, Window


async def carry(websocket: WebSocket, stream: GuestStream, window: Window) -> None:
    """Hand on what both say, until both have ended or one has gone.

    Parameters
    ----------
    window: how much the client takes. One that has a window is told how much it may send too.

    Raises
    ------
    WebSocketDisconnect: the client has gone. InvalidRequest: it said what it may not. Else as `GuestStream.read` and `write`.
    """
    given = Input()
    listening = asyncio.ensure_future(_listen(websocket, given, window))
    both = {
        asyncio.ensure_future(_to_guest(websocket, stream, given, window)),
        asyncio.ensure_future(_from_guest(websocket, stream, window)),
    }
    try:
        pending: set[asyncio.Future[None]] = {listening, *both}
        while both & pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in (listening, *both):
            task.cancel()
        await asyncio.wait({listening, *both})


async def _from_guest(websocket: WebSocket, stream: GuestStream, window: Window) -> None:
    while data := await stream.read():
        async for piece in window.pieces(data):
            await websocket.send_bytes(piece)
    await websocket.send_text(json.dumps({"type": "eof"}))


async def _to_guest(websocket: WebSocket, stream: GuestStream, given: Input, window: Window) -> None:
    async def tell(size: int) -> None:
        if window.is_kept:
            await taken(websocket, size)

    await given.hand_on(stream.write, stream.write_eof, tell)


async def _listen(websocket: WebSocket, given: Input, window: Window) -> None:
    """Take what the client says until it goes: a client without a window no faster than the guest takes it."""
    while True:
        said = await message(websocket)
        if isinstance(said, bytes) and not given.closed:
            given.add(said)
            if not window.is_kept:
                await given.taken()
        elif said == {"type": "eof"}:
            given.close()
        elif isinstance(said, dict) and said.get("type") == "window":
            window.widen(number(said, "bytes", wire.LARGEST_WINDOW))
        else:
            raise InvalidRequest("a client sends bytes, what it has taken, and once {'type': 'eof'}")
