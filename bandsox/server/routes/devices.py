"""Devices that only some machines have: a balloon, a metadata service."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.replies import json_reply, reply
from bandsox.server.service import TheCaller, TheService

router = APIRouter(prefix="/api/vms/{vm}", tags=["VMs"], route_class=GuardedRoute)


@router.get("/balloon", response_model=shapes.BalloonInfo)
@demands(Scope.READ)
async def balloon(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """How large a VM's balloon is, and what the guest says of the rest of its memory."""
    return reply(request, await (await service.machine(caller, vm)).balloon())


@router.put("/balloon", response_model=shapes.Status)
@demands(Scope.EXEC)
async def set_balloon(service: TheService, caller: TheCaller, vm: str, body: shapes.NewBalloon) -> Response:
    """Have the balloon take so much of a VM's memory, little by little, now and at later starts."""
    await (await service.machine(caller, vm)).set_balloon(body.mib)
    return json_reply({"status": "set"})


@router.put("/mmds", response_model=shapes.Status)
@demands(Scope.EXEC)
async def set_mmds(service: TheService, caller: TheCaller, vm: str, body: shapes.NewMmds) -> Response:
    """Have a VM's metadata service say this, now and at later starts."""
    await (await service.machine(caller, vm)).set_mmds(body.data)
    return json_reply({"status": "set"})
