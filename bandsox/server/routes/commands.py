"""``/api/vms/{vm}/exec`` and its like: commands that run to their end, and sessions."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bandsox.errors import InvalidRequest
from bandsox.guest import CommandOptions
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.keyedrun import KeyedRun
from bandsox.server.once import TheOnce, key_of
from bandsox.server.presence import while_present
from bandsox.server.replies import json_reply, reply
from bandsox.server.service import TheCaller, TheService
from bandsox.vm.commands import program

router = APIRouter(prefix="/api/vms/{vm}", tags=["Commands"], route_class=GuardedRoute)

MAX_OUTPUT = 64 << 20
"""How many bytes of output one answer holds; `exec-stream` has no such bound."""

_MAX_INPUT = 16 << 20


def program_of(body: shapes.Command) -> CommandOptions:
    """A command as the guest's client takes it.

    Raises
    ------
    InvalidRequest: it is both, or neither, a text and a list.
    """
    command = body.argv if body.command is None else body.command
    if command is None or (body.command is not None and body.argv is not None):
        raise InvalidRequest("give either command or argv")
    return program(command, env=body.env, cwd=body.cwd, user=body.user, timeout=body.timeout)


@router.post("/exec", response_model=shapes.Ran)
@demands(Scope.EXEC)
async def execute(service: TheService, caller: TheCaller, once: TheOnce, request: Request, vm: str, body: shapes.Run) -> Response:
    """Run a command to its end. Where the client goes away before that, it is killed.

    With an `Idempotency-Key` it goes on instead, and who sends the request again gets its outcome, in JSON; it has no `stdin` then.
    """
    guest = await service.guest(caller, vm)
    if (key := key_of(request)) is not None:
        if body.stdin is not None:
            raise InvalidRequest(
                "a command with a key has no stdin", cause="nobody could tell how much of it was read", remedy="write a file"
            )
        run = KeyedRun(guest, program_of(body), service.keyed, (caller.id, key))
        return await once.answer(request, caller, body, await run.attempt())
    stdin = None if body.stdin is None else body.stdin.encode()
    work = guest.run(**program_of(body), stdin=stdin, max_output=MAX_OUTPUT)
    return reply(request, await while_present(request, work))


@router.post("/exec-python", response_model=shapes.PythonRan)
@demands(Scope.EXEC, body=_MAX_INPUT)
async def execute_python(service: TheService, caller: TheCaller, request: Request, vm: str, body: shapes.Python) -> Response:
    """Run Python code in a fresh interpreter of the image."""
    machine = await service.machine(caller, vm)
    work = machine.exec_python_capture(body.code, body.cwd, body.packages, body.timeout, body.cleanup_venv)
    return json_reply(await while_present(request, work))


HOT = tuple(route for route in router.routes if isinstance(route, GuardedRoute))
"""What is asked for so often that it is served on the short way (`bandsox.server.shortcut`)."""


# ── sessions ────────────────────────────────────────────────────────────────────────────────────


@router.get("/sessions", response_model=list[shapes.Session])
@demands(Scope.READ)
async def list_sessions(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """List the sessions of a VM, oldest first, those that have ended lately included."""
    return reply(request, await (await service.machine(caller, vm)).list_sessions())


@router.post("/sessions", response_model=shapes.StartedSession)
@demands(Scope.EXEC)
async def start_session(
    service: TheService, caller: TheCaller, once: TheOnce, request: Request, vm: str, body: shapes.NewSession
) -> Response:
    """Start a command that goes on, whoever looks on. Follow it with the WebSocket `sessions/{session}/attach`."""
    guest = await service.guest(caller, vm)
    session = body.id or secrets.token_hex(8)
    tty = None if body.tty is None else (body.tty.cols, body.tty.rows)
    if (key := key_of(request)) is not None:
        run = KeyedRun(guest, program_of(body), service.keyed, (caller.id, key))
        return await once.answer(request, caller, body, await run.session_attempt(session, stdin=body.stdin, tty=tty))
    options: dict[str, Any] = {**program_of(body), "tty": tty}
    return json_reply({"id": session, "pid": await guest.start_session(session, stdin=body.stdin, **options)})


@router.post("/sessions/{session}/input")
@demands(Scope.EXEC, body=_MAX_INPUT)
async def send_input(
    service: TheService,
    caller: TheCaller,
    request: Request,
    vm: str,
    session: str,
    close: Annotated[bool, Query(description="end its input afterwards")] = False,
) -> Response:
    """Feed a session with the bytes of the request's body."""
    guest = await service.guest(caller, vm)
    return json_reply({"written": await guest.send_input(session, await request.body(), close=close)})


@router.post("/sessions/{session}/resize", response_model=shapes.Status)
@demands(Scope.EXEC)
async def resize_session(service: TheService, caller: TheCaller, vm: str, session: str, body: shapes.Terminal) -> Response:
    """Tell a session the size of its terminal."""
    await (await service.machine(caller, vm)).resize_session(session, body.cols, body.rows)
    return json_reply({"status": "resized"})


@router.post("/sessions/{session}/signal", response_model=shapes.Status)
@demands(Scope.EXEC)
async def signal_session(service: TheService, caller: TheCaller, vm: str, session: str, body: shapes.SignalNumber) -> Response:
    """Send a session's process group a signal; KILL (9) goes to everything it has started."""
    await (await service.machine(caller, vm)).signal_session(session, body.signal)
    return json_reply({"status": "sent"})


@router.delete("/sessions/{session}", response_model=shapes.Status)
@demands(Scope.EXEC)
async def forget_session(service: TheService, caller: TheCaller, vm: str, session: str) -> Response:
    """Forget a session that has ended, with its output."""
    await (await service.guest(caller, vm)).forget_session(session)
    return json_reply({"status": "forgotten"})
