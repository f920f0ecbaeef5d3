"""Where machines may go in their network, and where they went; what they use there and do not have."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from bandsox.models import Policy, VMRecord
from bandsox.network.policy import PRESETS
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.replies import json_reply, reply
from bandsox.server.service import Service, TheCaller, TheService
from bandsox.server.streams import Line, described, stream
from bandsox.vm import AsyncMicroVM

router = APIRouter(prefix="/api", tags=["Network"], route_class=GuardedRoute)

_VM = "/vms/{vm}/network"


@router.get("/network/presets", response_model=shapes.Presets)
@demands(Scope.READ)
async def presets() -> Response:
    """The policies that have names, each of which can be given in the place of one."""
    return json_reply({"presets": {name: dataclasses.asdict(policy) for name, policy in PRESETS.items()}})


@router.get(f"{_VM}/policy", response_model=shapes.PolicyInForce)
@demands(Scope.READ)
async def policy(service: TheService, caller: TheCaller, vm: str) -> Response:
    """Where a VM may go."""
    return _policy(await (await service.machine(caller, vm)).network_policy())


@router.put(f"{_VM}/policy", response_model=shapes.PolicyInForce)
@demands(Scope.EXEC)
async def set_policy(service: TheService, caller: TheCaller, vm: str, body: shapes.WantedPolicy) -> Response:
    """Say where a VM may go from now on; connections that are open and not allowed any more end. It holds for its later starts.

    Only administrators may open a way to what is not the Internet's, such as the server's own network.
    """
    wanted = service.policy_for(caller, body.policy)
    await (await service.machine(caller, vm)).set_network_policy(wanted)
    return _policy(wanted)


@router.get(f"{_VM}/learned", response_model=shapes.PolicyInForce)
@demands(Scope.READ)
async def learned(service: TheService, caller: TheCaller, vm: str) -> Response:
    """The policy that allows just what a VM has connected to; most exact for one that ran under the preset `learn`."""
    return _policy(await (await service.machine(caller, vm)).learned_policy())


@router.get(f"{_VM}/stats", response_model=shapes.NetworkUse)
@demands(Scope.READ)
async def stats(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """How much a VM has used its network since its start. 409 where it has no policy, so that nothing is counted."""
    return reply(request, await (await service.machine(caller, vm)).network_stats())


@router.get(f"{_VM}/log", response_model=list[shapes.NetworkConnection])
@demands(Scope.READ)
async def log(
    service: TheService,
    caller: TheCaller,
    request: Request,
    vm: str,
    limit: Annotated[int | None, Query(ge=0, description="only so many, the newest")] = None,
    verdict: Annotated[Literal["allowed", "refused"] | None, Query(description="only those")] = None,
) -> Response:
    """What a VM has connected to, and tried to, the oldest first; the newest 2 MiB of it at least are kept."""
    found = [entry for entry in await (await service.machine(caller, vm)).network_log() if verdict in {None, entry.verdict}]
    shown = found if limit is None else found[max(0, len(found) - limit) :]
    return await anyio.to_thread.run_sync(reply, request, shown)  # there may be much of it


@router.get(f"{_VM}/log/follow", responses=described("a line for each event, until the VM's network ends"), response_class=Response)
@demands(Scope.READ)
async def follow_log(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """What a VM connects to from now on: `{"type": "connection", "event": "opened" or "closed" or "refused", …}`, after a first `hello`."""
    return await stream(request, _events(await service.machine(caller, vm)))


@contextlib.asynccontextmanager
async def _events(machine: AsyncMicroVM) -> AsyncIterator[AsyncIterator[Line]]:
    async with machine.following_network_log() as events:

        async def lines() -> AsyncGenerator[Line, None]:
            yield {"type": "hello"}
            async for event in events:
                yield {"type": "connection", **dataclasses.asdict(event)}

        async with contextlib.aclosing(lines()) as pieces:
            yield pieces


# ── secrets ─────────────────────────────────────────────────────────────────────────────────────


@router.get("/vms/{vm}/secrets", response_model=list[shapes.SecretInfo])
@demands(Scope.READ)
async def list_secrets(service: TheService, caller: TheCaller, vm: str) -> Response:
    """What a VM's programs use and do not have, without the values, which cannot be read back."""
    return json_reply(await _secrets(service, await service.record(caller, vm)))


@router.put("/vms/{vm}/secrets/{name}", response_model=shapes.SecretInfo)
@demands(Scope.EXEC)
async def set_secret(service: TheService, caller: TheCaller, vm: str, name: str, body: shapes.SecretValue) -> Response:
    """Give one of a VM's secrets another value: at once where it runs, and for its later starts. 409 where it has no such secret."""
    return await _set_secret(service, await service.record(caller, vm), name, body.value.get_secret_value())


@router.delete("/vms/{vm}/secrets/{name}", response_model=shapes.SecretInfo)
@demands(Scope.EXEC)
async def withdraw_secret(service: TheService, caller: TheCaller, vm: str, name: str) -> Response:
    """Take the value of a VM's secret away: requests go out with the placeholder, until it is given one again."""
    return await _set_secret(service, await service.record(caller, vm), name, None)


async def _set_secret(service: Service, record: VMRecord, name: str, value: str | None) -> Response:
    await AsyncMicroVM(service.engine, record).set_secret(name, value)
    return json_reply(next(each for each in await _secrets(service, record) if each["name"] == name))


async def _secrets(service: Service, record: VMRecord) -> list[dict[str, Any]]:
    known = await AsyncMicroVM(service.engine, record).secrets()
    return [
        {
            "name": name,
            "hosts": use.hosts,
            "query": use.query,
            "body": use.body,
            "plain_http": use.plain_http,
            "has_value": known[name],
        }
        for name, use in record.spec.secrets.items()
    ]


def _policy(found: Policy | None) -> Response:
    facts: dict[str, Any] | None = None if found is None else dataclasses.asdict(found)
    return json_reply({"policy": facts})
