"""``/api/auth``: the password, and the sessions that browsers get for it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

from fastapi import APIRouter, Request, Response

from bandsox.errors import NotFound
from bandsox.server import shapes
from bandsox.server.auth import sessions
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.auth.tickets import LIFETIME_S
from bandsox.server.guard import GuardedRoute, Open, demands
from bandsox.server.leases import be_answered
from bandsox.server.replies import json_reply
from bandsox.server.service import Service, TheCaller, TheService

router = APIRouter(prefix="/api/auth", tags=["Authentication"], route_class=GuardedRoute)


@router.post("/login", response_model=shapes.LoggedIn)
@demands(Open.TO_EVERYBODY, body=64 << 10)
async def login(service: TheService, request: Request, body: shapes.Login) -> Response:
    """Get a session for the password, for a day. 404 while authentication is off."""
    return _with_cookie(service, request, {"status": "ok"}, await _begin(service, request, body.password))


@router.post("/logout", response_model=shapes.Status)
@demands(Open.TO_EVERYBODY)
async def logout(service: TheService, request: Request) -> Response:
    """End the session of this request; its token is worth nothing from now on."""
    caller: Caller | None = request.scope["caller"]
    be_answered(request)
    if caller is not None and caller.session is not None:
        with contextlib.suppress(NotFound):  # it was ended meanwhile
            await asyncio.to_thread(sessions.end, service.gatekeeper.file, caller.session)
    answer = json_reply({"status": "ok"})
    answer.delete_cookie(sessions.COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/check", response_model=shapes.Authenticated)
@demands(Open.TO_EVERYBODY)
async def check(service: TheService, request: Request) -> Response:
    """Whether this request's caller is known, and who that is."""
    caller: Caller | None = request.scope["caller"]
    return json_reply(
        {
            "authenticated": caller is not None,
            "auth_enabled": service.gatekeeper.enabled,
            "caller": None if caller is None else _described(caller),
        }
    )


@router.post("/tickets", response_model=shapes.Ticket)
@demands(Scope.READ)
async def give_ticket(service: TheService, request: Request) -> Response:
    """Get a ticket for one WebSocket, `?ticket=` in its address, for half a minute: for browsers, which cannot send headers there."""
    return json_reply({"ticket": service.gatekeeper.tickets.give(request.scope["credential"]), "expires_in": LIFETIME_S})


@router.put("/password", response_model=shapes.ChangedPassword)
@demands(Scope.ADMIN, body=64 << 10)
async def change_password(service: TheService, caller: TheCaller, request: Request, body: shapes.NewPassword) -> Response:
    """Set another password, by showing the one that it is. All sessions end; whoever asks by a session gets a new one."""
    be_answered(request)
    await service.gatekeeper.change_password(body.current, body.new, client_of(request))
    if caller.session is None:
        return json_reply({"status": "changed", "token": None})
    return _with_cookie(service, request, {"status": "changed"}, await _begin(service, request, body.new))


@router.get("/sessions", response_model=list[shapes.BrowserSession])
@demands(Scope.ADMIN)
async def list_sessions(service: TheService, caller: TheCaller) -> Response:
    """List the sessions of people who are logged in, the newest first."""
    authority = service.gatekeeper.authority()
    used = await asyncio.to_thread(service.gatekeeper.usage.read)
    return json_reply([dataclasses.asdict(each) for each in sessions.listed(authority, used, caller.session)])


@router.delete("/sessions", response_model=shapes.EndedSessions)
@demands(Scope.ADMIN)
async def end_other_sessions(service: TheService, caller: TheCaller) -> Response:
    """End all sessions but that of this request."""
    service.gatekeeper.authority()
    return json_reply({"status": "ended", "count": await asyncio.to_thread(sessions.end_others, service.gatekeeper.file, caller.session)})


@router.delete("/sessions/{session}", response_model=shapes.Status)
@demands(Scope.ADMIN)
async def end_session(service: TheService, request: Request, session: str) -> Response:
    """End a session; its token is worth nothing from now on."""
    be_answered(request)
    await asyncio.to_thread(sessions.end, service.gatekeeper.file, session)
    return json_reply({"status": "ended"})


def client_of(request: Request) -> str:
    """The address that a request comes from."""
    return request.client.host if request.client else "unknown"


async def _begin(service: Service, request: Request, password: str) -> str:
    return await service.gatekeeper.login(password, client_of(request), request.headers.get("user-agent", ""))


def _with_cookie(service: Service, request: Request, answer: dict[str, Any], token: str) -> Response:
    """An answer with the token of a new session, which a browser keeps as a cookie."""
    reply = json_reply({**answer, "token": token})
    secure = service.configuration.tls or request.headers.get("x-forwarded-proto") == "https"
    reply.set_cookie(sessions.COOKIE, token, max_age=sessions.LIFETIME_S, httponly=True, samesite="strict", secure=secure, path="/")
    return reply


def _described(caller: Caller) -> dict[str, Any]:
    quotas = dataclasses.asdict(caller.quotas)
    scopes = sorted(scope.value for scope in Scope if caller.may(scope))
    return {"id": caller.id, "name": caller.name, "scopes": scopes, "prefix": caller.prefix, "quotas": quotas, "session": caller.session}
