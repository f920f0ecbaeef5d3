"""The WebSockets' addresses. `bandsox.wire` says what is spoken there."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.websockets import WebSocket

from bandsox.errors import InvalidRequest
from bandsox.guest import Execution
from bandsox.models import ExecResult
from bandsox.server import shapes
from bandsox.server.live.admission import admitted, message
from bandsox.server.live.conversation import converse, in_bytes, in_text
from bandsox.server.routes.commands import program_of

router = APIRouter(prefix="/api/vms/{vm}")

_SHELL = "command -v bash >/dev/null 2>&1 && exec bash; exec sh"
_DEFAULT_TIMEOUT_S, _LONGEST_TIMEOUT_S = 600, 3600


@router.websocket("/exec-stream")
async def exec_stream(websocket: WebSocket, vm: str) -> None:
    """A command while it runs. The first frame says which: `shapes.LiveCommand`, in text or, with ``format: binary``, in bytes."""
    async with admitted(websocket, vm) as machine:
        wanted = _wanted(await message(websocket))
        options: Any = program_of(wanted)
        options["tty"] = None if wanted.tty is None else (wanted.tty.cols, wanted.tty.rows)
        guest = await machine.running()
        if wanted.format == "binary":
            async with await guest.execute(**options, stdin=wanted.stdin) as execution:
                await _in_bytes(websocket, execution)
            return
        async with await guest.execute(**options, stdin=wanted.stdin) as execution:

            async def send(stream: str, text: str) -> None:
                await websocket.send_text(json.dumps({"type": stream, "data": text}))

            ended = await converse(websocket, execution, in_text(send), windows=False)
        await websocket.send_text(json.dumps({"type": "exit", "exit_code": ended.exit_code}))


@router.websocket("/sessions/{session}/attach")
async def attach(websocket: WebSocket, vm: str, session: str, stdout: int | None = None, stderr: int | None = None) -> None:
    """A session while it runs, its output from the offsets `stdout` and `stderr` on, so that nothing is lost between two connections."""
    async with admitted(websocket, vm) as machine:
        guest = await machine.running()
        async with await guest.attach_session(session, stdout=_offset(stdout), stderr=_offset(stderr)) as execution:
            await _in_bytes(websocket, execution)


@router.websocket("/terminal")
async def terminal(websocket: WebSocket, vm: str, cols: int = 80, rows: int = 24) -> None:
    """A shell on a terminal, as text. It ends with its connection; a session is what goes on."""
    async with admitted(websocket, vm) as machine:
        if not (1 <= cols <= 65535 and 1 <= rows <= 65535):
            raise InvalidRequest("a terminal has between 1 and 65535 columns and rows")
        async with machine.execute(_SHELL, env={"TERM": "xterm-256color"}, stdin=True, tty=(cols, rows)) as execution:

            async def send(stream: str, text: str) -> None:
                del stream
                await websocket.send_text(text)

            await converse(websocket, execution, in_text(send), windows=False)


async def _in_bytes(websocket: WebSocket, execution: Execution) -> None:
    await websocket.send_text(json.dumps({"type": "started", "pid": execution.pid, **execution.offsets}))
    ended = await converse(websocket, execution, in_bytes(websocket), windows=True)
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
    given = wanted.timeout if "timeout" in wanted.model_fields_set and wanted.timeout is not None else _DEFAULT_TIMEOUT_S
    return wanted.model_copy(update={"timeout": min(max(given, 1), _LONGEST_TIMEOUT_S)})


def _offset(value: int | None) -> int | None:
    if value is not None and value < 0:
        raise InvalidRequest("an offset is not negative")
    return value
