"""Which snapshots are kept, and those removed that are not."""

from __future__ import annotations

import asyncio
import dataclasses

from fastapi import APIRouter, Response

from bandsox.engine import retention
from bandsox.models import Retention
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.replies import json_reply
from bandsox.server.service import TheService

router = APIRouter(prefix="/api", tags=["Snapshots"], route_class=GuardedRoute)


@router.get("/retention", response_model=shapes.RetentionShape)
@demands(Scope.READ)
async def get_retention(service: TheService) -> Response:
    """Which snapshots are kept; those that are not go by themselves."""
    return json_reply(dataclasses.asdict(await asyncio.to_thread(retention.read, service.engine.layout.root)))


@router.put("/retention", response_model=shapes.RetentionShape)
@demands(Scope.ADMIN)
async def set_retention(service: TheService, body: shapes.RetentionShape) -> Response:
    """Say which snapshots are kept, from now on; the others go at once, and later as soon as they are too old or too many.

    Never those that belong to something (checkpoints, templates, the memory of saved VMs), whose name is protected, from which a VM goes on
    that is still there, or on which another snapshot is based; nor one that somebody uses, while he does.
    """
    kept = _kept(body)
    await asyncio.to_thread(retention.write, service.engine.layout, kept)
    return json_reply(dataclasses.asdict(kept))


@router.post("/snapshots/prune", response_model=list[shapes.PrunedSnapshot])
@demands(Scope.ADMIN)
async def prune_snapshots(service: TheService, body: shapes.PruneSnapshots) -> Response:
    """Remove the snapshots that are too old or too many now, and tell which these are. For the rest as `PUT /api/retention`."""
    kept = None if body.kept is None else _kept(body.kept)
    removed = await retention.prune(service.engine, kept, dry_run=body.dry_run)
    return json_reply(
        [{"id": each.id, "snapshot_name": each.name, "source_vm_id": each.source_vm_id, "created_at": each.created_at} for each in removed]
    )


def _kept(wanted: shapes.RetentionShape) -> Retention:
    return Retention(wanted.max_age, wanted.max_count, tuple(wanted.protected))
