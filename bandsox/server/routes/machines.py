"""``/api/vms``: the life of machines."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bandsox.engine import identity
from bandsox.models import TEMPLATE_PREFIX, Deadlines, ProgressCallback, PublishedPort, Secret
from bandsox.network.vault import uses_of
from bandsox.server import recovery, shapes
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.configuration import is_loopback_address
from bandsox.server.guard import GuardedRoute, check, demands
from bandsox.server.once import Attempt, TheOnce
from bandsox.server.pages import After, Limit, MetadataEquals, page, wanted_metadata
from bandsox.server.replies import json_reply, plain_reply, reply
from bandsox.server.service import Service, Size, TheCaller, TheService
from bandsox.server.streams import Line, described, stream, with_progress
from bandsox.vm import AsyncMicroVM, vm_info

router = APIRouter(prefix="/api", tags=["VMs"], route_class=GuardedRoute)


@router.get("/vms", response_model=list[shapes.VM])
@router.get("/projects", response_model=list[shapes.VM], include_in_schema=False)
@demands(Scope.READ)
async def list_vms(
    service: TheService,
    caller: TheCaller,
    limit: Limit = None,
    metadata_equals: MetadataEquals = None,
    status: Annotated[str | None, Query(description="only VMs with this status")] = None,
    after: After = None,
    name: Annotated[str | None, Query(description="only VMs whose name has this in it")] = None,
    image: Annotated[str | None, Query(description="only VMs of this image: a reference as it was given, or an id")] = None,
) -> Response:
    """List the VMs, newest first. The header `X-Next-After` is there when there are more, and is the `after` of the next page."""
    records = [
        record
        for record in await service.records(caller, wanted_metadata(metadata_equals))
        if status in {None, record.status.value}
        and (name is None or name in record.spec.name)
        and image in {None, record.spec.image, record.image_id}
    ]
    shown, headers = page(records, limit, after)
    waiting, row = service.pools.waiting(), service.rows.of
    rows = [{**vm_info(each), "pool": waiting[each.id]} if each.id in waiting else row(each) for each in shown]
    return plain_reply(rows, headers=headers)


@router.post("/vms", response_model=shapes.CreatedVM)
@demands(Scope.EXEC)
async def create_vm(service: TheService, caller: TheCaller, once: TheOnce, request: Request, body: shapes.NewVM) -> Response:
    """Make a VM and start it. It runs, and its agent answers, when this returns."""
    await service.check_image(caller, body.image)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        return await made(service, caller, body.image, body, progress)

    attempt = Attempt(work, [identity.new_id()], lambda plan: recovery.machine(service, plan, "created"))
    return await once.answer(request, caller, body, attempt)


def options_for(service: Service, caller: Caller, wanted: shapes.VMOptions) -> dict[str, Any]:
    """What `create_vm` is given for what a caller wants.

    Raises
    ------
    Forbidden: it is not for this caller. InvalidRequest: a rule of its policy cannot be read, or one of its secrets cannot be kept.
    """
    secrets = {name: _secret(secret) for name, secret in wanted.secrets.items()}
    uses_of(secrets)
    if not all(is_loopback_address(port.host) for port in wanted.publish):
        check(caller, Scope.ADMIN)
    return {
        **{option: getattr(wanted, option) for option in shapes.VMOptions.model_fields},
        "name": service.name_for(caller, wanted.name),
        "network": None if wanted.network is None else service.network_for(caller, wanted.network),
        "secrets": secrets,
        "publish": [PublishedPort(port.guest_port, port.host_port, port.host) for port in wanted.publish],
    }


def _secret(wanted: shapes.NewSecret) -> Secret:
    value = wanted.value.get_secret_value()
    return Secret(value, tuple(wanted.hosts), query=wanted.query, body=wanted.body, plain_http=wanted.plain_http)


async def made(service: Service, caller: Caller, image: str, wanted: shapes.VMOptions, progress: ProgressCallback) -> dict[str, Any]:
    """Make a machine of an image that `caller` may use, and tell of it. Raises as `options_for`, and as `Service.making`."""
    options = options_for(service, caller, wanted)
    size = Size(wanted.vcpu, wanted.mem_mib, wanted.disk_size_mib)
    if image.startswith(TEMPLATE_PREFIX):
        template = await service.template(caller, image)
        size = Size(template.vcpu, template.mem_mib, template.disk_size_mib)
    async with service.making("create", caller, size):
        vm = await service.bandsox.create_vm(image, **options, progress=progress)
    service.bandsox.active_vms.pop(vm.vm_id, None)  # a server holds no machine
    return {"id": vm.vm_id, "status": "created", "name": vm.name}


@router.get("/vms/{vm}", response_model=shapes.VM)
@demands(Scope.READ)
async def get_vm(service: TheService, caller: TheCaller, vm: str) -> Response:
    """What is known of a VM. Wherever a path has a VM, it is an id, the beginning of one, or a name."""
    return json_reply(_with_pool(service, await (await service.machine(caller, vm)).info()))


HOT = tuple(route for route in router.routes if isinstance(route, GuardedRoute) and route.endpoint in {list_vms, get_vm})
"""What is asked for so often that it is served on the short way (`bandsox.server.shortcut`)."""


def _with_pool(service: Service, info: dict[str, Any]) -> dict[str, Any]:
    """What is known of a VM; of one that waits in a pool of this server also which that is."""
    pool = service.pools.having(info["id"])
    return info if pool is None else {**info, "pool": pool}


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
    """Let a paused or saved VM go on."""
    await (await service.machine(caller, vm)).resume()
    return json_reply({"status": "resumed"})


@router.post("/vms/{vm}/hibernate", response_model=shapes.Status)
@demands(Scope.EXEC)
async def hibernate(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """Write a VM's memory to the disk and end its hypervisor; `resume`, or with `auto_resume` the next operation, lets it go on."""
    machine = await service.machine(caller, vm)
    memory = (await machine.info())["mem_mib"] << 20

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        await service.check_room(memory)
        await machine.hibernate(progress)
        return {"status": "saved"}

    return await with_progress(request, work)


@router.put("/vms/{vm}/deadlines", response_model=shapes.DeadlinesInForce)
@demands(Scope.EXEC)
async def set_deadlines(service: TheService, caller: TheCaller, vm: str, body: shapes.NewDeadlines) -> Response:
    """Change how long a VM may run, now and at later starts; what is left out stays as it is."""
    machine = await service.machine(caller, vm)
    wanted: Deadlines = body.model_dump(exclude_unset=True)  # type: ignore[assignment] # the shape has its fields
    await machine.set_deadlines(**wanted)
    info = await machine.info()
    return json_reply({name: info[name] for name in shapes.DeadlinesInForce.model_fields})


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


@router.get("/vms/{vm}/console/follow", responses=described("a line for each piece, until the VM stops"), response_class=Response)
@demands(Scope.READ)
async def follow_console(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """What a VM has printed on its console, and what it prints from now on: `{"type": "output", "data"}`."""
    return await stream(request, _console(await service.machine(caller, vm)))


@contextlib.asynccontextmanager
async def _console(machine: AsyncMicroVM) -> AsyncIterator[AsyncIterator[Line]]:
    async def lines() -> AsyncGenerator[Line, None]:
        async for piece in machine.follow_console():
            yield {"type": "output", "data": piece}

    async with contextlib.aclosing(lines()) as pieces:
        yield pieces


@router.get("/vms/{vm}/stats", response_model=shapes.Metrics)
@demands(Scope.READ)
async def stats(service: TheService, caller: TheCaller, request: Request, vm: str, processes: bool = False) -> Response:
    """How busy a VM is, as its own kernel sees it; its processes when asked for."""
    return reply(request, await (await service.machine(caller, vm)).metrics(processes))


@router.get("/vms/{vm}/agent")
@demands(Scope.READ)
async def agent(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """What the agent says of itself and its kernel. It answers, so this is also how to see whether it does."""
    return reply(request, await (await service.machine(caller, vm)).guest_info())
