"""Snapshots, and what is made of machines as they are: clones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bandsox.engine import identity
from bandsox.models import ProgressCallback, Snapshot, VMRecord, VMSpec
from bandsox.server import recovery, shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.once import Attempt, TheOnce
from bandsox.server.pages import After, Limit, MetadataEquals, having, page
from bandsox.server.replies import json_reply
from bandsox.server.service import Service, Size, TheCaller, TheService
from bandsox.vm import vm_info

router = APIRouter(prefix="/api", tags=["Snapshots"], route_class=GuardedRoute)


def size_of(spec: VMSpec) -> Size:
    """What a machine of this specification takes of the host."""
    return Size(spec.vcpu, spec.mem_mib, spec.disk_size_mib)


@router.post("/vms/{vm}/snapshot", response_model=shapes.TakenSnapshot)
@demands(Scope.EXEC)
async def take(service: TheService, caller: TheCaller, once: TheOnce, request: Request, vm: str, body: shapes.NewSnapshot) -> Response:
    """Save a running or paused VM, which then is as it was before."""
    record = await service.record(caller, vm)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        await service.check_room(record.spec.mem_mib << 20)
        snapshot = await service.engine.snapshots.take(record.id, body.name, body.metadata, progress)
        return {"snapshot_id": snapshot.name, "id": snapshot.id}

    attempt = Attempt(work, [identity.new_id()], lambda plan: recovery.snapshot(service, plan))
    return await once.answer(request, caller, body, attempt)


@router.post("/vms/{vm}/fork", response_model=shapes.Forked)
@demands(Scope.EXEC)
async def fork(service: TheService, caller: TheCaller, once: TheOnce, request: Request, vm: str, body: shapes.Fork) -> Response:
    """Make clones of a running or paused VM, which goes on. They share its memory until they write to it. All run, or there is none."""
    record = await service.record(caller, vm)
    name = service.name_for(caller, body.name) if body.name is not None or caller.prefix else None

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        async with service.making("fork", caller, *[size_of(record.spec)] * body.count, needed=record.spec.mem_mib << 20):
            options: Any = {"env_vars": body.env_vars, "metadata": body.metadata, "progress": progress}
            clones = await service.engine.snapshots.fork(record.id, body.count, name, **options)
        return _forked(clones)

    async def find(plan: Sequence[str]) -> dict[str, Any] | None:
        clones = await recovery.machines(service, plan)
        return None if clones is None else _forked(clones)

    attempt = Attempt(work, [identity.new_id() for _ in range(body.count)], find)
    return await once.answer(request, caller, body, attempt)


def _forked(clones: Sequence[VMRecord]) -> dict[str, Any]:
    return {"status": "forked", "vms": [vm_info(clone) for clone in clones]}


@router.get("/snapshots", response_model=list[shapes.SnapshotInfo])
@demands(Scope.READ)
async def list_snapshots(
    service: TheService,
    caller: TheCaller,
    limit: Limit = None,
    after: After = None,
    metadata_equals: MetadataEquals = None,
    source_vm_id: Annotated[str | None, Query(description="only snapshots of the VM with this id")] = None,
    belonging: Annotated[bool, Query(description="those too that belong to a VM or a template")] = False,
) -> Response:
    """List the snapshots, newest first. The header `X-Next-After` is there when there are more, and is the `after` of the next page."""
    existing = await service.snapshots(caller, of_their_own=not belonging)
    found = [each for each in existing if source_vm_id in {None, each.source_vm_id}]
    shown, headers = page(having(found, metadata_equals), limit, after)
    return json_reply([await _info(service, each) for each in shown], headers=headers)


@router.get("/snapshots/{snapshot}", response_model=shapes.SnapshotInfo)
@demands(Scope.READ)
async def get_snapshot(service: TheService, caller: TheCaller, snapshot: str) -> Response:
    """What is known of a snapshot. Wherever a path has a snapshot, it is an id, the beginning of one, or a name."""
    return json_reply(await _info(service, await service.snapshot(caller, snapshot)))


@router.delete("/snapshots/{snapshot}", response_model=shapes.Status)
@demands(Scope.EXEC)
async def delete(service: TheService, caller: TheCaller, snapshot: str) -> Response:
    """Delete a snapshot; VMs that were restored from it go on."""
    await service.engine.snapshots.delete((await service.snapshot(caller, snapshot)).id)
    return json_reply({"status": "deleted"})


@router.post("/snapshots/{snapshot}/restore", response_model=shapes.RestoredVM)
@demands(Scope.EXEC)
async def restore(service: TheService, caller: TheCaller, once: TheOnce, request: Request, snapshot: str, body: shapes.Restore) -> Response:
    """Make a VM that goes on from a snapshot; any number at once."""
    known = await service.snapshot(caller, snapshot)
    name = service.name_for(caller, body.name) if body.name is not None or caller.prefix else None

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        async with service.making("restore", caller, size_of(known.spec)):
            record = await service.engine.snapshots.restore(known.id, name, **body.model_dump(exclude={"name"}), progress=progress)
        return {"id": record.id, "status": "restored", "name": record.spec.name}

    attempt = Attempt(work, [identity.new_id()], lambda plan: recovery.machine(service, plan, "restored"))
    return await once.answer(request, caller, body, attempt)


@router.put("/snapshots/{snapshot}/name", response_model=shapes.Renamed)
@demands(Scope.EXEC)
async def rename(service: TheService, caller: TheCaller, snapshot: str, body: shapes.NewName) -> Response:
    """Give a snapshot another name."""
    renamed = await service.engine.snapshots.rename((await service.snapshot(caller, snapshot)).id, body.name)
    return json_reply({"status": "renamed", "name": renamed.name})


@router.put("/snapshots/{snapshot}/metadata")
@demands(Scope.EXEC)
async def set_metadata(service: TheService, caller: TheCaller, snapshot: str, body: shapes.NewMetadata) -> Response:
    """Replace a snapshot's metadata, and get it."""
    changed = await service.engine.snapshots.set_metadata((await service.snapshot(caller, snapshot)).id, body.metadata)
    return json_reply(dict(changed.metadata))


async def _info(service: Service, snapshot: Snapshot) -> dict[str, Any]:
    return await service.bandsox.get_snapshot_info(snapshot.id)
