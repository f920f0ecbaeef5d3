"""A program that runs, and whoever is at the other end of a WebSocket: what each says is handed to the other.

Output goes out as fast as the client takes it; the guest waits. Input comes in no faster than the program takes it, and what may be
under way of it is bounded, so that a signal is never stuck behind it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import codecs
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.websockets import WebSocket

from bandsox import wire
from bandsox.errors import BandSoxError, InvalidRequest
from bandsox.guest import Execution
from bandsox.models import ExecResult
from bandsox.server.live.admission import message
from bandsox.server.live.windows import Input, Window

Show = Callable[[str, bytes], Awaitable[None]]

_MARKS = {"stdout": wire.STDOUT, "stderr": wire.STDERR}
_MAX_SIZE = 65535


async def converse(websocket: WebSocket, execution: Execution, show: Show, window: Window, *, windows: bool) -> ExecResult:
    """Hand on what both say, until the program has ended or the client has gone.

    Parameters
    ----------
    show: sends a piece of output.
    window: how much output the client takes.
    windows: whether the client knows that it may send only so much, and is told when it may send more.

    Raises
    ------
    WebSocketDisconnect: the client has gone. InvalidRequest: it said what it may not. Else as `Execution.wait`.
    """
    listening = asyncio.ensure_future(_listen(websocket, execution, window, windows=windows))
    showing = asyncio.ensure_future(_show(execution, show, window))
    try:
        done, _ = await asyncio.wait({listening, showing}, return_when=asyncio.FIRST_COMPLETED)
        if showing not in done:
            listening.result()
        return await showing
    finally:
        listening.cancel()
        showing.cancel()
        await asyncio.wait({listening, showing})


async def _show(execution: Execution, show: Show, window: Window) -> ExecResult:
    async for stream, data in execution:
        async for piece in window.pieces(data):
            await show(stream, piece)
    return await execution.wait()


def in_bytes(websocket: WebSocket) -> Show:
    """Output byte for byte."""

    async def show(stream: str, data: bytes) -> None:
        await websocket.send_bytes(_MARKS[stream] + data)

    return show


def in_text(send: Callable[[str, str], Awaitable[None]]) -> Show:
    """Output as text: no character is split between two frames, and what is not UTF-8 appears as U+FFFD."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in _MARKS}

    async def show(stream: str, data: bytes) -> None:
        if text := decoders[stream].decode(data):
            await send(stream, text)

    return show


async def _listen(websocket: WebSocket, execution: Execution, window: Window, *, windows: bool) -> None:
    """Do what the client says until it goes."""
    given = Input()
    feeding = asyncio.ensure_future(_feed(websocket, execution, given, windows=windows))
    try:
        while True:
            said = await message(websocket)
            if isinstance(said, bytes):
                given.add(_stdin(said))
            elif said.get("type") == "window":
                window.widen(number(said, "bytes", wire.LARGEST_WINDOW))
            else:
                await _obey(execution, said, given)
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})


async def _feed(websocket: WebSocket, execution: Execution, given: Input, *, windows: bool) -> None:
    async def tell(size: int) -> None:
        if windows:
            await taken(websocket, size)

    with contextlib.suppress(BandSoxError):  # whoever reads the output meets it as well
        await given.hand_on(execution.write, execution.close_stdin, tell)


async def taken(websocket: WebSocket, size: int) -> None:
    """Tell the client that it may send so many bytes more."""
    await websocket.send_text(json.dumps({"type": "window", "bytes": size}))


async def _obey(execution: Execution, said: dict[str, Any], given: Input) -> None:
    kind = said.get("type")
    if kind == "input":
        given.add(_base64(said.get("data")))
    elif kind == "close_stdin":
        given.close()
    elif kind == "resize":
        await execution.resize(number(said, "cols", _MAX_SIZE), number(said, "rows", _MAX_SIZE))
    elif kind == "signal":
        await execution.signal(number(said, "signal", 64))
    else:
        raise InvalidRequest(f"there is no message {kind!r}"[:200])


def _stdin(frame: bytes) -> bytes:
    if frame[:1] != wire.STDIN:
        raise InvalidRequest("a binary frame from a client is input, and begins with 0")
    return frame[1:]


def _base64(text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidRequest("input is base64")


def number(said: dict[str, Any], name: str, most: int) -> int:
    """A number of a message; InvalidRequest where it is none between 1 and `most`."""
    value = said.get(name)
    if not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidRequest(f"{name} is a number between 1 and {most}")
    return value
