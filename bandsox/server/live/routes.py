"""The WebSockets' addresses. `bandsox.wire` says what is spoken there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.websockets import WebSocket

from bandsox.errors import InvalidRequest
from bandsox.guest import Execution
from bandsox.models import ExecResult
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.live.admission import admitted, admitted_to, message
from bandsox.server.live.connection import carry
from bandsox.server.live.conversation import converse, in_bytes, in_text
from bandsox.server.live.windows import Window
from bandsox.server.routes.commands import program_of
from bandsox.server.routes.events import told

T = TypeVar("T")

router = APIRouter()

_VM = "/api/vms/{vm}"
_SHELL = "command -v bash >/dev/null 2>&1 && exec bash; exec sh"
_DEFAULT_TIMEOUT_S, _LONGEST_TIMEOUT_S = 600, 3600


@router.websocket(f"{_VM}/exec-stream")
async def exec_stream(websocket: WebSocket, vm: str) -> None:
    """A command while it runs. The first frame says which: `shapes.LiveCommand`, in text or, with ``format: binary``, in bytes."""
    async with admitted_to(websocket, vm) as machine:
        wanted = _wanted(await message(websocket))
        options: Any = program_of(wanted)
        options["tty"] = None if wanted.tty is None else (wanted.tty.cols, wanted.tty.rows)
        guest = await machine.running()
        if wanted.format == "binary":
            window = Window(wanted.window)
            async with await guest.execute(**options, stdin=wanted.stdin) as execution:
                await _in_bytes(websocket, execution, window)
            return
        async with await guest.execute(**options, stdin=wanted.stdin) as execution:

            async def send(stream: str, text: str) -> None:
                await websocket.send_text(json.dumps({"type": stream, "data": text}))

            ended = await converse(websocket, execution, in_text(send), Window(None), windows=False)
        await websocket.send_text(json.dumps({"type": "exit", "exit_code": ended.exit_code}))


@router.websocket(f"{_VM}/sessions/{{session}}/attach")
async def attach(
    websocket: WebSocket, vm: str, session: str, stdout: int | None = None, stderr: int | None = None, window: int | None = None
) -> None:
    """A session while it runs, its output from the offsets `stdout` and `stderr` on, so that nothing is lost between two connections."""
    async with admitted_to(websocket, vm) as machine:
        takes = Window(window)
        guest = await machine.running()
        async with await guest.attach_session(session, stdout=_offset(stdout), stderr=_offset(stderr)) as execution:
            await _in_bytes(websocket, execution, takes)


@router.websocket(f"{_VM}/terminal")
async def terminal(websocket: WebSocket, vm: str, cols: int = 80, rows: int = 24) -> None:
    """A shell on a terminal, as text. It ends with its connection; a session is what goes on."""
    async with admitted_to(websocket, vm) as machine:
        if not (1 <= cols <= 65535 and 1 <= rows <= 65535):
            raise InvalidRequest("a terminal has between 1 and 65535 columns and rows")
        async with machine.execute(_SHELL, env={"TERM": "xterm-256color"}, stdin=True, tty=(cols, rows)) as execution:

            async def send(stream: str, text: str) -> None:
                del stream
                await websocket.send_text(text)

            await converse(websocket, execution, in_text(send), Window(None), windows=False)


@router.websocket(f"{_VM}/ports/{{port}}/connect")
async def connect(websocket: WebSocket, vm: str, port: int, host: str = "", timeout: float = 10.0, window: int | None = None) -> None:
    """A TCP connection to a port of the guest: its bytes in binary frames, ``{"type": "eof"}`` where a direction ends."""
    async with admitted_to(websocket, vm) as machine:
        if not 0 < timeout <= _LONGEST_TIMEOUT_S:
            raise InvalidRequest(f"a timeout is between 0 and {_LONGEST_TIMEOUT_S} s")
        takes = Window(window)
        async with await machine.connect(port, host, timeout) as stream:
            await websocket.send_text(json.dumps({"type": "connected"}))
            await carry(websocket, stream, takes)


@router.websocket("/api/events")
async def events(websocket: WebSocket, after: int | None = None) -> None:
    """What happens, as `GET /api/events` tells it: a text frame each."""
    async with admitted(websocket, Scope.READ) as (service, caller):
        listening = asyncio.ensure_future(_until_gone(websocket))
        try:
            async with told(service, caller, _offset(after)) as lines:
                await _each_until(listening, lines, lambda line: websocket.send_text(json.dumps(line)))
        finally:
            listening.cancel()


async def _each_until(leaving: asyncio.Future[None], lines: AsyncIterator[T], send: Callable[[T], Awaitable[None]]) -> None:
    """Send each, until the client has gone. Raises what `leaving` does."""
    sending = asyncio.ensure_future(_send_each(lines, send))
    try:
        await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            leaving.result()
        sending.result()
    finally:
        sending.cancel()
        await asyncio.wait({sending})


async def _send_each(lines: AsyncIterator[T], send: Callable[[T], Awaitable[None]]) -> None:
    async for line in lines:
        await send(line)


async def _until_gone(websocket: WebSocket) -> None:
    while True:
        await message(websocket)


async def _in_bytes(websocket: WebSocket, execution: Execution, window: Window) -> None:
    await websocket.send_text(json.dumps({"type": "started", "pid": execution.pid, **execution.offsets}))
    ended = await converse(websocket, execution, in_bytes(websocket), window, windows=True)
    await websocket.send_text(json.dumps({"type": "exit", **_facts(ended)}))


def _facts(ended: ExecResult) -> dict[str, Any]:
    names = ("exit_code", "signal", "timed_out", "cpu_ms", "max_rss")
    return {name: getattr(ended, name) for name in names}


def _wanted(first: bytes | dict[str, Any]) -> shapes.LiveCommand:
    """The command that the first frame names. In the text form its timeout is between a second and an hour, ten minutes by default."""
    if isinstance(first, bytes):
        raise InvalidRequest("the first frame says what to run, as JSON")
    try:
        wanted = shapes.LiveCommand.model_validate(first)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidRequest(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    if wanted.format == "binary":
        return wanted
    if wanted.window is not None:
        raise InvalidRequest("window is for output in bytes", remedy="ask for the format binary")
    given = wanted.timeout if "timeout" in wanted.model_fields_set and wanted.timeout is not None else _DEFAULT_TIMEOUT_S
    return wanted.model_copy(update={"timeout": min(max(given, 1), _LONGEST_TIMEOUT_S)})


def _offset(value: int | None) -> int | None:
    if value is not None and value < 0:
        raise InvalidRequest("an offset is not negative")
    return value
