"""Whether the server is well, and what this host is."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter

from fastapi import APIRouter, Response

from bandsox.server import load, metrics, shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, Open, demands
from bandsox.server.once import TheOnce
from bandsox.server.replies import json_reply
from bandsox.server.service import TheCaller, TheService
from bandsox.version import __version__

router = APIRouter(tags=["This host"], route_class=GuardedRoute)


@router.get("/healthz")
@demands(Open.TO_EVERYBODY)
async def health() -> Response:
    """That the server answers."""
    return json_reply({"status": "ok"})


@router.get("/readyz")
@demands(Open.TO_EVERYBODY)
async def readiness(service: TheService) -> Response:
    """That the storage directory can be used."""
    await asyncio.to_thread(service.engine.vms.list, limit=1)
    return json_reply({"status": "ready"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
@demands(Scope.READ)
async def figures(service: TheService, caller: TheCaller) -> Response:
    """Figures for Prometheus: requests, new VMs, and what the storage directory holds. Of VMs those that the caller sees."""
    records, snapshots = await service.records(caller), await service.snapshots(caller)
    images = len(await service.bandsox.list_images())
    text = await asyncio.to_thread(service.metrics.text, service.engine.layout.root, records, images, len(snapshots))
    return Response(text, media_type=metrics.CONTENT_TYPE)


@router.get("/api/version")
@demands(Scope.READ)
async def version() -> Response:
    """Which version this is."""
    return json_reply({"version": __version__})


@router.get("/api/doctor")
@demands(Scope.ADMIN)
async def doctor(service: TheService) -> Response:
    """What this host can do, what it lacks, and the command that mends it."""
    return json_reply([dataclasses.asdict(finding) for finding in await service.bandsox.doctor()])


@router.get("/api/host", response_model=shapes.Host)
@demands(Scope.READ)
async def host(service: TheService, caller: TheCaller) -> Response:
    """How much this host has, how much of it is free, and how many VMs the caller sees in each status."""
    records = await service.records(caller)
    counts = Counter(record.status.value for record in records)
    return json_reply({"version": __version__, **await asyncio.to_thread(load.now, service.engine.layout.root), "vms": dict(counts)})


@router.get("/api/requests/{key}", response_model=shapes.Outcome)
@demands(Scope.READ)
async def outcome(caller: TheCaller, once: TheOnce, key: str) -> Response:
    """What has become of a request of this caller that had an `Idempotency-Key`, within a day."""
    return json_reply(await once.outcome(caller, key))


@router.post("/api/cleanup")
@demands(Scope.ADMIN)
async def cleanup(service: TheService) -> Response:
    """Remove what processes that died have left behind, and nothing else."""
    return json_reply(dataclasses.asdict(await service.bandsox.cleanup()))
