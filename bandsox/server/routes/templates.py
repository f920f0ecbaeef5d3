"""Templates and warm pools: machines that were set up once, and their clones that stand ready."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from bandsox.engine import identity
from bandsox.engine.snapshots.workplace import async_workplace
from bandsox.engine.templates import setup_of
from bandsox.errors import BandSoxError, InvalidRequest, NotFound, VMNotFound
from bandsox.models import ProgressCallback, Template, VMRecord, VMSpec
from bandsox.server import shapes
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.once import Attempt, TheOnce
from bandsox.server.pools import ServedPool
from bandsox.server.replies import json_reply
from bandsox.server.service import Service, Size, TheCaller, TheService
from bandsox.settings import default_vmm

router = APIRouter(prefix="/api", tags=["Templates"], route_class=GuardedRoute)

_MOST = 32 << 20
"""How many bytes a request for a template has at most, with the files that are put into it."""


@router.get("/templates", response_model=list[shapes.TemplateInfo])
@demands(Scope.READ)
async def list_templates(service: TheService, caller: TheCaller) -> Response:
    """The templates, oldest first."""
    return json_reply([dataclasses.asdict(each) for each in await service.templates(caller)])


@router.post("/templates", response_model=shapes.TemplateInfo)
@demands(Scope.EXEC, body=_MOST)
async def make(service: TheService, caller: TheCaller, once: TheOnce, request: Request, body: shapes.NewTemplate) -> Response:
    """Set a VM up and keep it as a template, if there is none of the same image, set-up, size and hypervisor. VMs of it start much faster.

    Callers whose VMs' names begin with a prefix share templates with others of that prefix only.
    """
    await service.check_image(caller, body.image)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        spec = VMSpec(
            image=body.image,
            name=service.name_for(caller, None),
            vcpu=body.vcpu,
            mem_mib=body.mem_mib,
            disk_size_mib=body.disk_size_mib,
            env_vars=dict(body.env_vars or {}),
            enable_networking=body.enable_networking,
            vmm=body.vmm if body.vmm is not None else default_vmm(),
            confinement=service.bandsox.confinement,
        )
        size = Size(body.vcpu, body.mem_mib, body.disk_size_mib)
        async with service.making("template", caller, size, needed=body.mem_mib << 20), _placed(service, body.files) as files:
            setup, limit = setup_of(body.setup, files), body.timeout
            made = await service.engine.templates.make(spec, setup, timeout_s=limit, realm=caller.prefix, progress=progress)
        return dataclasses.asdict(made)

    return await once.answer(request, caller, body, Attempt(work, [], _nothing))


@router.get("/templates/{template}", response_model=shapes.TemplateInfo)
@demands(Scope.READ)
async def get_template(service: TheService, caller: TheCaller, template: str) -> Response:
    """What is known of a template, by its id or the beginning of it."""
    return json_reply(dataclasses.asdict(await service.template(caller, template)))


@router.delete("/templates/{template}", response_model=shapes.Status)
@demands(Scope.EXEC)
async def remove_template(service: TheService, caller: TheCaller, template: str) -> Response:
    """Delete a template; VMs that were made of it go on."""
    await service.engine.templates.remove((await service.template(caller, template)).id)
    return json_reply({"status": "deleted"})


@router.post("/templates/prune", response_model=list[shapes.TemplateInfo])
@demands(Scope.EXEC)
async def prune_templates(service: TheService, caller: TheCaller, body: shapes.PruneTemplates) -> Response:
    """Delete the templates that nobody uses, and tell which they were."""
    before = time.time() - body.unused_for
    doomed = [each for each in await service.templates(caller) if each.used_at <= before]
    for each in doomed:
        with contextlib.suppress(NotFound):  # somebody else has deleted it
            await service.engine.templates.remove(each.id)
    return json_reply([dataclasses.asdict(each) for each in doomed])


async def _nothing(plan: Sequence[str]) -> None:
    """A template that was made is found when it is asked for again: it is named by what it is made of."""
    del plan


@contextlib.asynccontextmanager
async def _placed(service: Service, files: Mapping[str, shapes.PlacedFile]) -> AsyncIterator[dict[str, Path]]:
    """Files with these contents and permissions, by the paths that they are to have in the guest."""
    async with async_workplace(service.engine.layout) as work:
        yield await anyio.to_thread.run_sync(_write, work, files)


def _write(work: Path, files: Mapping[str, shapes.PlacedFile]) -> dict[str, Path]:
    places = {}
    for number, (path, file) in enumerate(files.items()):
        places[path] = work / str(number)
        places[path].write_bytes(_content(path, file))
        places[path].chmod(int(file.mode, 8))
    return places


def _content(path: str, file: shapes.PlacedFile) -> bytes:
    try:
        return file.content.encode() if file.encoding == "utf-8" else base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"the content of {path} is not what its encoding says", cause=str(error)) from error


# ── warm pools ──────────────────────────────────────────────────────────────────────────────────


@router.get("/pools", response_model=list[shapes.PoolInfo])
@demands(Scope.READ)
async def list_pools(service: TheService, caller: TheCaller) -> Response:
    """The warm pools, oldest first."""
    return json_reply([_info(each) for each in service.pools.all() if caller.sees(each.kept.prefix)])


@router.post("/pools", response_model=shapes.PoolInfo)
@demands(Scope.EXEC)
async def create_pool(service: TheService, caller: TheCaller, once: TheOnce, request: Request, body: shapes.NewPool) -> Response:
    """Have paused VMs of a template stand ready, of which `take` hands one out in the time of a resume; another is made for it.

    They count as VMs of the caller. The pool is kept filled until it is deleted, by whichever server is started again.
    """
    template = await service.template(caller, body.template)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        del progress
        async with service.making("pool", caller, *[size_of(template)] * body.size, needed=template.mem_mib << 20):
            return _info(await service.pools.create(identity.record_id(), template.id, body.size, caller.prefix))

    async def find(plan: Sequence[str]) -> dict[str, Any] | None:
        return next((_info(each) for each in service.pools.all() if each.kept.id == plan[0]), None)

    return await once.answer(request, caller, body, Attempt(work, [identity.new_id()], find))


@router.get("/pools/{pool}", response_model=shapes.PoolInfo)
@demands(Scope.READ)
async def get_pool(service: TheService, caller: TheCaller, pool: str) -> Response:
    """What is known of a pool."""
    return json_reply(_info(_pool(service, caller, pool)))


@router.put("/pools/{pool}", response_model=shapes.PoolInfo)
@demands(Scope.EXEC)
async def resize_pool(service: TheService, caller: TheCaller, pool: str, body: shapes.PoolSize) -> Response:
    """Have another number of VMs stand ready; those that are missing are made in the background."""
    found = _pool(service, caller, pool)
    template = await service.template(caller, found.kept.template)
    more = max(0, body.size - found.kept.size)
    async with service.making("pool", caller, *[size_of(template)] * more):
        return json_reply(_info(await service.pools.resize(found.kept.id, body.size)))


@router.delete("/pools/{pool}", response_model=shapes.Status)
@demands(Scope.EXEC)
async def delete_pool(service: TheService, caller: TheCaller, pool: str) -> Response:
    """Delete a pool; VMs that were taken from it go on."""
    await service.pools.delete(_pool(service, caller, pool).kept.id)
    return json_reply({"status": "deleted"})


@router.post("/pools/{pool}/take", response_model=shapes.CreatedVM)
@demands(Scope.EXEC)
async def take(service: TheService, caller: TheCaller, once: TheOnce, request: Request, pool: str, body: shapes.TakeFromPool) -> Response:
    """Get a VM that runs, which is the caller's from now on. Where none stands ready, the next one is waited for."""
    found = _pool(service, caller, pool)
    template = await service.template(caller, found.kept.template)

    wanted = None if body.name is None else service.name_for(caller, body.name)

    def named(chosen: str) -> str:
        return f"{caller.prefix}pool-{chosen}" if wanted is None else wanted

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        del progress
        name = named(identity.record_id())
        with identity.choosing(()):  # the clone that replaces it has an id of its own
            async with service.making("take", caller, size_of(template)):
                return _taken(await found.pool.take(name, env_vars=body.env_vars, metadata=body.metadata))

    async def find(plan: Sequence[str]) -> dict[str, Any] | None:
        try:
            record = await service.engine.get(named(plan[0]))
        except VMNotFound:
            return None
        return _taken(record) if record.restored_from == template.snapshot else None

    return await once.answer(request, caller, body, Attempt(work, [identity.new_id()], find))


def size_of(template: Template) -> Size:
    """What a machine of a template takes of the host."""
    return Size(template.vcpu, template.mem_mib, template.disk_size_mib)


def _pool(service: Service, caller: Caller, pool: str) -> ServedPool:
    found = service.pools.get(pool)
    if not caller.sees(found.kept.prefix):
        raise NotFound(f"no pool has the id {pool!r}", remedy="see GET /api/pools")
    return found


def _taken(record: VMRecord) -> dict[str, Any]:
    return {"id": record.id, "status": "created", "name": record.spec.name}


def _info(served: ServedPool) -> dict[str, Any]:
    kept, failure = served.kept, served.pool.failure
    told = failure if isinstance(failure, BandSoxError) or failure is None else BandSoxError(str(failure))
    facts = {"id": kept.id, "template": kept.template, "size": kept.size, "ready": served.pool.ready, "created_at": kept.created_at}
    return {**facts, "failure": None if told is None else told.to_dict()}
