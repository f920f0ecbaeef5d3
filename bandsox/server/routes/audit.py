"""``/api/auth/audit``: who did what."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from bandsox.server import audit, logs, shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.replies import json_reply
from bandsox.server.service import TheService

router = APIRouter(prefix="/api/auth/audit", tags=["Authentication"], route_class=GuardedRoute)

_LONGEST = 1000


@router.get("", response_model=shapes.AuditPage)
@demands(Scope.ADMIN)
async def read_audit_log(
    service: TheService,
    limit: Annotated[int, Query(ge=1, le=_LONGEST, description="only so many")] = 100,
    after: Annotated[str | None, Query(max_length=64, description="begin behind this: the `next` of the page before")] = None,
    caller: Annotated[str | None, Query(description="only what the key or session with this id did")] = None,
    client: Annotated[str | None, Query(description="only what came from this address")] = None,
    method: Annotated[str | None, Query(description="only this method; of WebSockets it is `WEBSOCKET`")] = None,
    path: Annotated[str | None, Query(description="only paths that begin so")] = None,
    status: Annotated[int | None, Query(description="only what had this status")] = None,
    refused: Annotated[bool | None, Query(description="only what failed or was refused; false: only what was done")] = None,
) -> Response:
    """Who did what, the newest first: each request that changes something, and each that was refused. Never what was sent.

    A page looks at 4 MiB of the log at most, so with a filter it may have fewer entries than asked for, even none, while `next` tells that
    there is more to look at.
    """
    wanted = audit.Wanted(caller, client, method, path, status, refused)
    await asyncio.to_thread(logs.settle)
    page = await asyncio.to_thread(audit.page, service.engine.layout.root / logs.AUDIT, wanted, limit, after)
    entries = [{"id": place, **msgspec.to_builtins(entry)} for place, entry in page.entries]
    return json_reply({"entries": entries, "next": page.next})
