"""``/api/auth``: the password, sessions of browsers, and keys."""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial

from fastapi import APIRouter, Request, Response

from bandsox.errors import NotFound
from bandsox.server import shapes
from bandsox.server.auth import keys, sessions
from bandsox.server.auth.callers import Quotas, Scope
from bandsox.server.auth.gatekeeper import cookie_of
from bandsox.server.auth.tickets import LIFETIME_S
from bandsox.server.guard import GuardedRoute, Open, demands
from bandsox.server.replies import json_reply
from bandsox.server.service import TheService

router = APIRouter(prefix="/api/auth", tags=["Authentication"], route_class=GuardedRoute)


@router.post("/login", response_model=shapes.LoggedIn)
@demands(Open.TO_EVERYBODY, body=64 << 10)
async def login(service: TheService, request: Request, body: shapes.Login) -> Response:
    """Get a session for the password, for a day. 404 while authentication is off."""
    client = request.client.host if request.client else "unknown"
    token = await service.gatekeeper.login(body.password, client)
    answer = json_reply({"status": "ok", "token": token})
    secure = service.configuration.tls or request.headers.get("x-forwarded-proto") == "https"
    answer.set_cookie(sessions.COOKIE, token, max_age=sessions.LIFETIME_S, httponly=True, samesite="strict", secure=secure, path="/")
    return answer


@router.post("/logout", response_model=shapes.Status)
@demands(Open.TO_EVERYBODY)
async def logout(service: TheService, request: Request) -> Response:
    """End the session of this request; its token is worth nothing from now on."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    token = bearer.strip() if scheme.lower() == "bearer" else cookie_of(request.headers)
    if token is not None and token.startswith(sessions.PREFIX):
        await asyncio.to_thread(sessions.end, service.gatekeeper.file, token)
    answer = json_reply({"status": "ok"})
    answer.delete_cookie(sessions.COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/check", response_model=shapes.Authenticated)
@demands(Open.TO_EVERYBODY)
async def check(service: TheService, request: Request) -> Response:
    """Whether this request's caller is known."""
    return json_reply({"authenticated": request.scope["caller"] is not None, "auth_enabled": service.gatekeeper.enabled})


@router.post("/tickets", response_model=shapes.Ticket)
@demands(Scope.READ)
async def give_ticket(service: TheService, request: Request) -> Response:
    """Get a ticket for one WebSocket, `?ticket=` in its address, for half a minute: for browsers, which cannot send headers there."""
    return json_reply({"ticket": service.gatekeeper.tickets.give(request.scope["credential"]), "expires_in": LIFETIME_S})


@router.get("/keys", response_model=list[shapes.KeyInfo])
@demands(Scope.ADMIN)
async def list_keys(service: TheService) -> Response:
    """List the keys, without what they are."""
    authority = service.gatekeeper.file.read()
    if authority is None:
        raise NotFound("authentication is off", remedy="run `bandsox auth init`")
    used = await asyncio.to_thread(service.gatekeeper.usage.read)
    return json_reply(
        [
            {
                "id": key_id,
                "name": key.name,
                "created_at": key.created_at,
                "last_used_at": used.get(key_id),
                "expires_at": key.expires_at,
                "scopes": list(key.scopes),
                "prefix": key.prefix,
                "quotas": dataclasses.asdict(key.quotas),
            }
            for key_id, key in authority.keys.items()
        ]
    )


@router.post("/keys", response_model=shapes.CreatedKey)
@demands(Scope.ADMIN)
async def create_key(service: TheService, body: shapes.NewKeyShape) -> Response:
    """Make a key. This answer is the only place where it ever appears."""
    quotas = Quotas(**body.quotas.model_dump())
    make = partial(keys.create, expires_in=body.expires_in, prefix=body.prefix, quotas=quotas)
    return json_reply(dataclasses.asdict(await asyncio.to_thread(make, service.gatekeeper.file, body.name, body.scopes)))


@router.delete("/keys/{key_id}", response_model=shapes.Status)
@demands(Scope.ADMIN)
async def revoke_key(service: TheService, key_id: str) -> Response:
    """Have a key let nobody in any more."""
    await asyncio.to_thread(keys.revoke, service.gatekeeper.file, key_id)
    return json_reply({"status": "revoked"})
