"""A WebSocket to a port of a guest: each side's messages are handed on, no faster than the other takes them."""

from __future__ import annotations

import asyncio
import contextlib

import anyio
from starlette.types import Message, Receive, Scope, Send
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from bandsox.errors import BandSoxError, InvalidResponse, Timeout
from bandsox.guest import GuestStream
from bandsox.server.proxy import headers

MAX_MESSAGE = 16 << 20
"""How many bytes one message of a guest has at most."""

_HANDSHAKE_S = 30.0
_NORMAL, _GOING_AWAY = 1000, 1001


async def converse(scope: Scope, receive: Receive, send: Send, stream: GuestStream, target: str, prefix: str) -> None:
    """Hand on a WebSocket.

    Raises
    ------
    BandSoxError: the guest takes none there. Nothing was accepted yet.
    """
    protocol = ClientProtocol(
        parse_uri(f"ws://localhost:{stream.port}{target}"), subprotocols=scope["subprotocols"] or None, max_size=MAX_MESSAGE
    )
    await _shake_hands(protocol, scope, stream, prefix)
    await send({"type": "websocket.accept", "subprotocol": protocol.subprotocol})
    both = {asyncio.ensure_future(_to_guest(protocol, stream, receive)), asyncio.ensure_future(_from_guest(protocol, stream, send))}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _shake_hands(protocol: ClientProtocol, scope: Scope, stream: GuestStream, prefix: str) -> None:
    request = protocol.connect()
    for name, value in headers.to_guest(scope["headers"], stream.port, scheme=scope["scheme"], prefix=prefix, websocket=True):
        if name not in {b"host", b"content-length"}:
            request.headers[name.decode("latin-1")] = value.decode("latin-1")
    protocol.send_request(request)
    try:
        with anyio.fail_after(_HANDSHAKE_S):
            await _flush(protocol, stream)
            while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
                data = await stream.read()
                if data:
                    protocol.receive_data(data)
                else:
                    protocol.receive_eof()
    except TimeoutError as error:
        if isinstance(error, BandSoxError):
            raise
        raise Timeout(f"port {stream.port} of the guest did not answer within {_HANDSHAKE_S:g} s") from None
    if (refused := protocol.handshake_exc) is not None:
        cause = str(refused) if isinstance(refused, InvalidHandshake) else type(refused).__name__
        raise InvalidResponse(f"port {stream.port} of the guest takes no WebSocket there", cause=cause)


async def _to_guest(protocol: ClientProtocol, stream: GuestStream, receive: Receive) -> None:
    while protocol.state is State.OPEN:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code") or _GOING_AWAY
            with contextlib.suppress(Exception):  # a code that may not be sent
                protocol.send_close(code if 1000 <= code < 5000 and code not in {1004, 1005, 1006, 1015} else _GOING_AWAY)
                await _flush(protocol, stream)
            return
        if (data := message.get("bytes")) is not None:
            protocol.send_binary(data)
        elif (text := message.get("text")) is not None:
            protocol.send_text(text.encode())
        await _flush(protocol, stream)


async def _from_guest(protocol: ClientProtocol, stream: GuestStream, send: Send) -> None:
    pieces: list[bytes] = []
    text = False
    try:
        while True:
            for event in protocol.events_received():
                if not isinstance(event, Frame) or event.opcode not in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
                    continue
                if event.opcode is not Opcode.CONT:
                    text = event.opcode is Opcode.TEXT
                pieces.append(bytes(event.data))
                if event.fin:
                    await send(_message(b"".join(pieces), text=text))
                    pieces.clear()
            await _flush(protocol, stream)
            if protocol.close_expected() or protocol.state is not State.OPEN:
                break
            data = await stream.read()
            if data:
                protocol.receive_data(data)
            else:
                protocol.receive_eof()
    except BandSoxError:
        await send({"type": "websocket.close", "code": 1011})
        return
    code = protocol.close_rcvd.code if protocol.close_rcvd is not None else None
    await send({"type": "websocket.close", "code": code if code in range(1000, 5000) and code not in {1005, 1006, 1015} else _NORMAL})


def _message(data: bytes, *, text: bool) -> Message:
    return {"type": "websocket.send", **({"text": data.decode(errors="replace")} if text else {"bytes": data})}


async def _flush(protocol: ClientProtocol, stream: GuestStream) -> None:
    for piece in protocol.data_to_send():
        if piece:
            await stream.write(piece)
