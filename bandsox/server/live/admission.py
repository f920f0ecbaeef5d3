"""Who is let in to a WebSocket, and how others are told."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from bandsox import wire
from bandsox.errors import AccessDenied, BandSoxError, InvalidRequest, NotFound
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.faults import status_of
from bandsox.server.gate import audit
from bandsox.server.guard import check
from bandsox.server.segments import name_in
from bandsox.server.service import Service
from bandsox.vm import AsyncMicroVM


class Told(Exception):  # what ends a handler, and is no fault of anybody's
    """A failure that the opener of a WebSocket has been told."""


@contextlib.asynccontextmanager
async def admitted(websocket: WebSocket, scope: Scope) -> AsyncIterator[tuple[Service, Caller]]:
    """The opener of a WebSocket, once he may use it. What the block raises is sent to him, before it is closed.

    The codes are 4001 for a caller who may not, 4004 for a machine that is not there, 4000 for other failures.

    Raises
    ------
    Told: he may not, or the block has failed, and he knows.
    """
    began = time.monotonic()
    status = 101
    await websocket.accept(_subprotocol(websocket))
    caller: Caller | None = websocket.scope["caller"]
    try:
        check(caller, scope)
        assert caller is not None
        yield websocket.app.state.service, caller
        await _close(websocket, 1000)
    except WebSocketDisconnect:
        pass
    except BandSoxError as error:
        status = status_of(error)
        await fail(websocket, error)
        raise Told from error
    finally:
        audit(websocket.scope, caller, status, time.monotonic() - began)


@contextlib.asynccontextmanager
async def admitted_to(websocket: WebSocket, vm: str) -> AsyncIterator[AsyncMicroVM]:
    """The machine that a WebSocket is about, once its opener may use it; see `admitted`."""
    async with admitted(websocket, Scope.EXEC) as (service, caller):
        yield await service.machine(caller, name_in(vm))


async def fail(websocket: WebSocket, error: BandSoxError) -> None:
    """Tell why, and close. ``error`` is a text, as ever; ``failure`` says all."""
    code = wire.UNKNOWN_CALLER if isinstance(error, AccessDenied) else wire.NO_SUCH_VM if isinstance(error, NotFound) else wire.FAILED
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        if not isinstance(error, AccessDenied):
            await websocket.send_text(json.dumps({"type": "error", "error": error.message, "failure": error.to_dict()}, default=str))
    await _close(websocket, code)


async def over(_: WebSocket, error: Exception) -> None:
    """What is left to do where the opener has been told: nothing."""
    del error


async def _close(websocket: WebSocket, code: int) -> None:
    if websocket.application_state is not WebSocketState.DISCONNECTED and websocket.client_state is WebSocketState.CONNECTED:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await websocket.close(code)


async def message(websocket: WebSocket) -> bytes | dict[str, Any]:
    """The next frame: bytes, or an object.

    Raises
    ------
    InvalidRequest: it is neither. WebSocketDisconnect: the client has gone.
    """
    received = await websocket.receive()
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", 1005))
    if (data := received.get("bytes")) is not None:
        return bytes(data)
    try:
        value = json.loads(received["text"])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("a text frame holds a JSON object")
    return value


def _subprotocol(websocket: WebSocket) -> str | None:
    asked: list[str] = websocket.scope.get("subprotocols", [])
    return next((each for each in asked if each in wire.PROTOCOLS), None)
