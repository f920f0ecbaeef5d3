"""``/api/vms``: the life of machines."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bandsox.errors import InvalidRequest
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.replies import json_reply, reply
from bandsox.server.service import Size, TheCaller, TheService
from bandsox.vm import vm_info

router = APIRouter(prefix="/api", tags=["VMs"], route_class=GuardedRoute)

Limit = Annotated[int | None, Query(ge=0, description="only so many")]
MetadataEquals = Annotated[str | None, Query(description="a JSON object: only VMs whose metadata has all these values")]


@router.get("/vms", response_model=list[shapes.VM])
@router.get("/projects", response_model=list[shapes.VM], include_in_schema=False)
@demands(Scope.READ)
async def list_vms(
    service: TheService,
    caller: TheCaller,
    limit: Limit = None,
    metadata_equals: MetadataEquals = None,
    status: Annotated[str | None, Query(description="only VMs with this status")] = None,
    after: Annotated[str | None, Query(description="only VMs behind the one with this id: the next page")] = None,
) -> Response:
    """List the VMs, newest first. The header `X-Next-After` is there when there are more, and is the `after` of the next page."""
    infos = [vm_info(record) for record in await service.records(caller, _wanted(metadata_equals))]
    if after is not None:
        ids = [info["id"] for info in infos]
        infos = infos[ids.index(after) + 1 :] if after in ids else []
    if status is not None:
        infos = [info for info in infos if info["status"] == status]
    page = infos if limit is None else infos[:limit]
    headers = {"X-Next-After": page[-1]["id"]} if page and len(page) < len(infos) else {}
    return json_reply(page, headers=headers)


def _wanted(metadata_equals: str | None) -> dict[str, Any] | None:
    if metadata_equals is None:
        return None
    try:
        wanted = json.loads(metadata_equals)
    except (ValueError, RecursionError):
        wanted = None
    if not isinstance(wanted, dict):
        raise InvalidRequest("metadata_equals is not a JSON object")
    return wanted


@router.post("/vms", response_model=shapes.CreatedVM)
@demands(Scope.EXEC)
async def create_vm(service: TheService, caller: TheCaller, body: shapes.NewVM) -> Response:
    """Make a VM and start it. It runs, and its agent answers, when this returns."""
    name = service.name_for(caller, body.name)
    async with service.within_quota(caller, Size(body.vcpu, body.mem_mib, body.disk_size_mib)):
        options = body.model_dump(exclude={"image", "name"})
        vm = await service.bandsox.create_vm(body.image, name, **options)
    service.bandsox.active_vms.pop(vm.vm_id, None)  # a server holds no machine
    return json_reply({"id": vm.vm_id, "status": "created", "name": vm.name})


@router.get("/vms/{vm}", response_model=shapes.VM)
@demands(Scope.READ)
async def get_vm(service: TheService, caller: TheCaller, vm: str) -> Response:
    """What is known of a VM. Wherever a path has a VM, it is an id, the beginning of one, or a name."""
    return json_reply(vm_info(await service.record(caller, vm)))


@router.delete("/vms/{vm}", response_model=shapes.Status)
@demands(Scope.EXEC)
async def delete_vm(service: TheService, caller: TheCaller, vm: str) -> Response:
    """Kill a VM, and remove everything it owns."""
    await service.engine.delete((await service.record(caller, vm)).id)
    return json_reply({"status": "deleted"})


@router.post("/vms/{vm}/start", response_model=shapes.Status)
@demands(Scope.EXEC)
async def start(service: TheService, caller: TheCaller, vm: str) -> Response:
    """Start a VM again after a stop, with its disk as it was left."""
    await (await service.machine(caller, vm)).start()
    return json_reply({"status": "started"})


@router.post("/vms/{vm}/stop", response_model=shapes.Status)
@demands(Scope.EXEC)
async def stop(
    service: TheService,
    caller: TheCaller,
    vm: str,
    timeout: Annotated[float, Query(gt=0, le=600, description="how many seconds powering off may take; then it is killed")] = 10.0,
) -> Response:
    """Power a VM off; its disk stays."""
    await (await service.machine(caller, vm)).stop(timeout)
    return json_reply({"status": "stopped"})


@router.post("/vms/{vm}/pause", response_model=shapes.Status)
@demands(Scope.EXEC)
async def pause(service: TheService, caller: TheCaller, vm: str) -> Response:
    """Stop the CPUs of a VM; its memory stays."""
    await (await service.machine(caller, vm)).pause()
    return json_reply({"status": "paused"})


@router.post("/vms/{vm}/resume", response_model=shapes.Status)
@demands(Scope.EXEC)
async def resume(service: TheService, caller: TheCaller, vm: str) -> Response:
    """Let a paused VM go on."""
    await (await service.machine(caller, vm)).resume()
    return json_reply({"status": "resumed"})


@router.put("/vms/{vm}/status", response_model=shapes.Status)
@demands(Scope.EXEC)
async def set_status(service: TheService, caller: TheCaller, vm: str, body: shapes.WantedStatus) -> Response:
    """Bring a VM into a status, from whichever it has."""
    await service.bandsox.update_vm_status((await service.record(caller, vm)).id, body.status)
    return json_reply({"status": body.status})


@router.put("/vms/{vm}/name", response_model=shapes.Renamed)
@demands(Scope.EXEC)
async def rename(service: TheService, caller: TheCaller, vm: str, body: shapes.NewName) -> Response:
    """Give a VM another name."""
    record = await service.record(caller, vm)
    renamed = await service.engine.rename(record.id, service.name_for(caller, body.name))
    return json_reply({"status": "renamed", "name": renamed.spec.name})


@router.put("/vms/{vm}/metadata", response_model=shapes.Status)
@demands(Scope.EXEC)
async def set_metadata(service: TheService, caller: TheCaller, vm: str, body: shapes.NewMetadata) -> Response:
    """Replace a VM's metadata."""
    record = await service.engine.set_metadata((await service.record(caller, vm)).id, body.metadata)
    return json_reply({"status": "updated", "metadata": record.spec.metadata})


@router.get("/vms/{vm}/console", response_model=shapes.Console)
@demands(Scope.READ)
async def console(service: TheService, caller: TheCaller, vm: str) -> Response:
    """What a VM has printed on its console since it was started."""
    return json_reply({"console": await (await service.machine(caller, vm)).console()})


@router.get("/vms/{vm}/stats")
@demands(Scope.READ)
async def stats(service: TheService, caller: TheCaller, request: Request, vm: str, processes: bool = False) -> Response:
    """How busy a VM is, as its own kernel sees it; its processes when asked for."""
    return reply(request, await (await service.machine(caller, vm)).metrics(processes))


@router.get("/vms/{vm}/agent")
@demands(Scope.READ)
async def agent(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """What the agent says of itself and its kernel. It answers, so this is also how to see whether it does."""
    return reply(request, await (await service.machine(caller, vm)).guest_info())
