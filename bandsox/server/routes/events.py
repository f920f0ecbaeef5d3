"""``/api/events``: what happens, as it happens."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from bandsox.models import Change
from bandsox.server import forms
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.service import Service, TheCaller, TheService
from bandsox.server.streams import Line, described, stream

router = APIRouter(prefix="/api/events", tags=["Events"], route_class=GuardedRoute)


@router.get(
    "",
    responses=described("a line for each change, without end"),
    response_class=Response,
    openapi_extra=forms.headers({"Last-Event-ID": "as `after`; browsers send it by themselves"}),
)
@demands(Scope.READ)
async def events(
    service: TheService,
    caller: TheCaller,
    request: Request,
    after: Annotated[int | None, Query(ge=0, description="begin behind the change with this id, to go on where one left off")] = None,
) -> Response:
    """What happens to VMs, snapshots and images, whichever process does it: server-sent events, or lines of JSON.

    The first line is `{"type": "hello", "id"}`: whatever happens behind that change is told. Then each change is `{"type", "id", "at",
    "subject", "name", "status"}`, where `type` is `vm.created`, `vm.status`, `vm.renamed`, `vm.updated`, `vm.deleted`, `snapshot.created`,
    `snapshot.updated`, `snapshot.deleted`, `image.created`, `image.named`, `image.unnamed`, `image.deleted`, or `lost`: ask for all lists
    anew. The header `Last-Event-ID`, which browsers send by themselves, is as `after`. The same is told over a WebSocket at this address.
    """
    last = request.headers.get("last-event-id", "")
    if after is None and last.isascii() and last.isdecimal() and len(last) < 19:
        after = int(last)
    return await stream(request, told(service, caller, after))


@contextlib.asynccontextmanager
async def told(service: Service, caller: Caller, after: int | None) -> AsyncIterator[AsyncIterator[Line]]:
    """The changes that `caller` may know of."""
    async with service.feed.following(after) as (position, changes), contextlib.aclosing(_lines(caller, position, changes)) as lines:
        yield lines


async def _lines(caller: Caller, position: int, changes: AsyncIterator[Change]) -> AsyncGenerator[Line, None]:
    yield {"type": "hello", "id": position}
    async for change in changes:
        if change.owner is None or caller.sees(change.owner):
            facts = {"subject": change.subject, "name": change.name, "status": change.status}
            yield {"type": change.kind, "id": change.id, "at": change.at, **facts}
