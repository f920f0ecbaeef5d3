"""``/api/auth/keys``: who may use the server, and for how much."""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial
from typing import cast

from fastapi import APIRouter, Request, Response

from bandsox.models import ApiKey, KeyChanges, Quotas
from bandsox.server import shapes
from bandsox.server.auth import keys
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.leases import be_answered
from bandsox.server.replies import json_reply
from bandsox.server.service import Service, TheService

router = APIRouter(prefix="/api/auth/keys", tags=["Authentication"], route_class=GuardedRoute)


@router.get("", response_model=list[shapes.KeyInfo])
@demands(Scope.ADMIN)
async def list_keys(service: TheService) -> Response:
    """List the keys, without what they are."""
    return json_reply([dataclasses.asdict(key) for key in await _listed(service)])


@router.post("", response_model=shapes.CreatedKey)
@demands(Scope.ADMIN)
async def create_key(service: TheService, body: shapes.NewKeyShape) -> Response:
    """Make a key. This answer is the only place where it ever appears."""
    quotas = Quotas(**body.quotas.model_dump())
    make = partial(keys.create, expires_in=body.expires_in, prefix=body.prefix, quotas=quotas)
    return json_reply(dataclasses.asdict(await asyncio.to_thread(make, service.gatekeeper.file, body.name, body.scopes)))


@router.patch("/{key_id}", response_model=shapes.KeyInfo)
@demands(Scope.ADMIN)
async def edit_key(service: TheService, request: Request, key_id: str, body: shapes.EditedKey) -> Response:
    """Change what a key may do, and get what is known of it; what the request does not name stays. It holds at once."""
    be_answered(request)
    wanted = body.model_dump(exclude_unset=True)
    if "quotas" in wanted:
        wanted["quotas"] = Quotas(**wanted["quotas"])
    await asyncio.to_thread(keys.edit, service.gatekeeper.file, key_id, cast("KeyChanges", wanted))
    return json_reply(dataclasses.asdict(next(each for each in await _listed(service) if each.id == key_id)))


@router.delete("/{key_id}", response_model=shapes.Status)
@demands(Scope.ADMIN)
async def revoke_key(service: TheService, request: Request, key_id: str) -> Response:
    """Have a key let nobody in any more."""
    be_answered(request)
    await asyncio.to_thread(keys.revoke, service.gatekeeper.file, key_id)
    return json_reply({"status": "revoked"})


async def _listed(service: Service) -> list[ApiKey]:
    authority = service.gatekeeper.authority()
    used, records = await asyncio.to_thread(service.gatekeeper.usage.read), await service.engine.list()
    return keys.listed(authority, used, records)
