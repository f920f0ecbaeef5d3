"""Timelines: instants of a machine that it can go back to, and what has changed between them."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Request, Response

from bandsox.engine import identity
from bandsox.models import FileDifference, ProgressCallback
from bandsox.server import recovery, shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.once import Attempt, TheOnce
from bandsox.server.replies import json_reply, textual
from bandsox.server.service import Size, TheCaller, TheService
from bandsox.server.streams import with_progress

router = APIRouter(prefix="/api/vms/{vm}", tags=["Timelines"], route_class=GuardedRoute)

_COMPARING = Size(1, 128, 0)
"""What the machine takes that compares two disks."""


@router.get("/checkpoints", response_model=list[shapes.CheckpointInfo])
@demands(Scope.READ)
async def list_checkpoints(service: TheService, caller: TheCaller, vm: str) -> Response:
    """The checkpoints of a VM, oldest first."""
    return json_reply([dataclasses.asdict(each) for each in await (await service.machine(caller, vm)).checkpoints()])


@router.post("/checkpoints", response_model=shapes.CheckpointInfo)
@demands(Scope.EXEC)
async def checkpoint(
    service: TheService, caller: TheCaller, once: TheOnce, request: Request, vm: str, body: shapes.NewCheckpoint
) -> Response:
    """Keep this instant of a running or paused VM as a place to go back to; it goes on."""
    machine = await service.machine(caller, vm)
    memory = (await machine.info())["mem_mib"] << 20

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        await service.check_room(memory)
        return dataclasses.asdict(await machine.checkpoint(body.label, progress))

    attempt = Attempt(work, [identity.new_id()], lambda plan: recovery.checkpoint(machine, plan))
    return await once.answer(request, caller, body, attempt)


@router.delete("/checkpoints/{label}", response_model=shapes.Status)
@demands(Scope.EXEC)
async def remove_checkpoint(service: TheService, caller: TheCaller, vm: str, label: str) -> Response:
    """Delete a checkpoint; the others stay as they are."""
    await (await service.machine(caller, vm)).remove_checkpoint(label)
    return json_reply({"status": "deleted"})


@router.post("/rewind", response_model=shapes.Status)
@demands(Scope.EXEC)
async def rewind(service: TheService, caller: TheCaller, request: Request, vm: str, body: shapes.Rewind) -> Response:
    """Bring a VM, whatever it does now, back to a checkpoint. What has changed since is lost; all checkpoints stay."""
    machine = await service.machine(caller, vm)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        await service.check_room()
        await machine.rewind(body.label, progress)
        return {"status": "rewound"}

    return await with_progress(request, work)


@router.post("/diff", response_model=shapes.Differences)
@demands(Scope.EXEC)
async def diff(service: TheService, caller: TheCaller, request: Request, vm: str, body: shapes.Compare) -> Response:
    """The files that differ between two checkpoints of a VM, or between one and now.

    Their disks are compared, in a machine that is made for it and counts as one of the caller's meanwhile.
    """
    machine = await service.machine(caller, vm)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        async with service.making("compare", caller, _COMPARING):
            found = await machine.diff(body.before, body.after, limit=body.limit, progress=progress)
        return {"differences": msgspec.Raw(await anyio.to_thread.run_sync(_encoded, found))}  # there may be many

    return await with_progress(request, work)


def _encoded(found: Sequence[FileDifference]) -> bytes:
    return msgspec.json.encode([textual(_facts(each)) for each in found])


def _facts(found: FileDifference) -> dict[str, Any]:
    raw = {} if _is_text(found.path) else {"raw_path": base64.b64encode(found.path).decode()}
    return {"change": found.change, "path": found.path, "type": found.type, "size": found.size, **raw}


def _is_text(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True
