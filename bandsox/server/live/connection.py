"""A connection to a port of the guest, over a WebSocket: each side is read no faster than the other takes it."""

from __future__ import annotations

import asyncio
import json

from starlette.websockets import WebSocket

from bandsox.errors import InvalidRequest
from bandsox.guest import GuestStream
from bandsox.server.live.admission import message


async def carry(websocket: WebSocket, stream: GuestStream) -> None:
    """Hand on what both say, until both have ended or one has gone.

    Raises
    ------
    WebSocketDisconnect: the client has gone. InvalidRequest: it said what it may not. Else as `GuestStream.read` and `write`.
    """
    both = {asyncio.ensure_future(_to_guest(websocket, stream)), asyncio.ensure_future(_from_guest(websocket, stream))}
    try:
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in both:
            task.cancel()
        await asyncio.wait(both)


async def _from_guest(websocket: WebSocket, stream: GuestStream) -> None:
    while data := await stream.read():
        await websocket.send_bytes(data)
    await websocket.send_text(json.dumps({"type": "eof"}))


async def _to_guest(websocket: WebSocket, stream: GuestStream) -> None:
    while isinstance(said := await message(websocket), bytes):
        await stream.write(said)
    if said != {"type": "eof"}:
        raise InvalidRequest("a text frame from a client is {'type': 'eof'}")
    await stream.write_eof()
