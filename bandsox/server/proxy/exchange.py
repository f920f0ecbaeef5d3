"""One request to a port of a guest, and its answer, both as streams. What answers is hostile: its head is bounded, and it gets no second
request on the same connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
import h11
from starlette.types import Receive, Scope, Send

from bandsox.errors import BandSoxError, GuestConnectionError, InvalidResponse, Timeout
from bandsox.guest import GuestStream
from bandsox.guest.http import MAX_HEAD, answer
from bandsox.server.proxy import headers

HEAD_S = 120.0
"""How long a guest may take until it begins to answer. From then on it may be silent as long as it likes."""


async def exchange(scope: Scope, receive: Receive, send: Send, stream: GuestStream, target: str, prefix: str) -> None:
    """Hand on a request and its answer.

    Raises
    ------
    BandSoxError: nothing was answered yet.
    """
    wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    given = headers.to_guest(scope["headers"], stream.port, scheme=scope["scheme"], prefix=prefix)
    given += [(b"connection", b"close")]
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        given += [(b"transfer-encoding", b"chunked")]
    try:
        head = wire.send(h11.Request(method=scope["method"], target=target, headers=given))
    except h11.LocalProtocolError as error:
        raise InvalidResponse("the request cannot be handed on", cause=str(error)) from error
    asking = asyncio.ensure_future(_ask(wire, stream, head or b"", receive))
    answering = asyncio.ensure_future(_answer(wire, stream, send))
    try:
        await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() and asking.result():  # the client has gone
            return
        await answering
    finally:
        for task in (asking, answering):
            task.cancel()
        await asyncio.gather(asking, answering, return_exceptions=True)


async def _ask(wire: h11.Connection, stream: GuestStream, head: bytes, receive: Receive) -> bool:
    """Send the request, and then wait; True once the client has gone."""
    with contextlib.suppress(GuestConnectionError):  # what it has answered before it broke off tells more
        await stream.write(head)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return True
            if data := message.get("body", b""):
                await stream.write(wire.send(h11.Data(data=data)) or b"")
            more = message.get("more_body", False)
        if ending := wire.send(h11.EndOfMessage()):
            await stream.write(ending)
    while (await receive())["type"] != "http.disconnect":
        pass
    return True


async def _answer(wire: h11.Connection, stream: GuestStream, send: Send) -> None:
    begun = False
    try:
        with anyio.fail_after(HEAD_S):
            head, body = await answer(stream, wire)
        begun = True
        start: dict[str, Any] = {"status": head.status_code, "headers": headers.from_guest(head.headers.raw_items())}
        await send({"type": "http.response.start", **start})
        async for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError as error:
        if isinstance(error, BandSoxError):
            raise
        raise Timeout(f"port {stream.port} of the guest did not answer within {HEAD_S:g} s") from None
    except h11.RemoteProtocolError as error:
        if begun:
            raise BrokenOff from error
        raise InvalidResponse(f"port {stream.port} of the guest did not answer in HTTP", cause=str(error)) from error
    except BandSoxError as error:
        if begun:
            raise BrokenOff from error
        raise


class BrokenOff(Exception):
    """The answer broke off after it had begun: the connection to the client has to break off too."""
