"""Ports of the guest: published on this host, and asked over HTTP. The VM needs no network for it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import APIRouter, Path, Request, Response

from bandsox.errors import InvalidRequest
from bandsox.guest.http import HttpResponse
from bandsox.models import PortState
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.auth.tickets import Tickets
from bandsox.server.configuration import is_loopback_address
from bandsox.server.guard import GuardedRoute, check, demands
from bandsox.server.presence import while_present
from bandsox.server.proxy.entrance import Link, link_to
from bandsox.server.replies import json_reply, reply
from bandsox.server.service import TheCaller, TheService

router = APIRouter(prefix="/api/vms/{vm}", tags=["Ports"], route_class=GuardedRoute)

_MAX_REQUEST = 32 << 20

Port = Annotated[int, Path(ge=1, le=65535)]


@router.get("/ports", response_model=list[shapes.PortInfo])
@demands(Scope.READ)
async def list_ports(service: TheService, caller: TheCaller, vm: str) -> Response:
    """The ports that a VM publishes on the server's host, and how they are used."""
    return json_reply([_info(state) for state in await (await service.machine(caller, vm)).ports()])


@router.post("/ports", response_model=shapes.PublishedUrl)
@demands(Scope.EXEC)
async def expose(service: TheService, caller: TheCaller, vm: str, body: shapes.NewPort) -> Response:
    """Publish a port of the guest on the server's host, until it is deleted, over every stop and start of the VM."""
    machine = await service.machine(caller, vm)
    if not is_loopback_address(body.host):
        check(caller, Scope.ADMIN)
    return json_reply({"url": await machine.expose(body.guest_port, body.host_port, body.host)})


@router.delete("/ports/{port}", response_model=shapes.Status)
@demands(Scope.EXEC)
async def unexpose(service: TheService, caller: TheCaller, vm: str, port: int) -> Response:
    """Publish a port of the guest no longer; connections that were made go on."""
    await (await service.machine(caller, vm)).unexpose(port)
    return json_reply({"status": "withdrawn"})


@router.post("/ports/{port}/link", response_model=shapes.LinkToPort)
@demands(Scope.EXEC)
async def link(service: TheService, caller: TheCaller, request: Request, vm: str, port: Port) -> Response:
    """Get an address at which a browser finds a port of the guest, through the server's proxy. It lets one in, within half a minute."""
    record = await service.record(caller, vm)
    links: Tickets[Link] = request.app.state.links
    ticket = links.give(Link(record.id, port, request.scope["credential"])) if service.gatekeeper.enabled else None
    host = urlsplit(f"//{request.headers['host']}").hostname or ""
    host = f"[{host}]" if ":" in host else host
    return json_reply({"url": link_to(service.configuration, host, record.id, port, ticket)})


@router.post("/http", response_model=shapes.HttpResponse)
@demands(Scope.EXEC, body=_MAX_REQUEST)
async def send_http_request(service: TheService, caller: TheCaller, request: Request, vm: str, body: shapes.HttpRequest) -> Response:
    """Send an HTTP request to a port of the guest, and get its answer."""
    machine = await service.machine(caller, vm)
    options: dict[str, Any] = {"headers": body.headers, "host": body.host, "timeout": body.timeout}
    if body.body is not None:
        options["content"] = await anyio.to_thread.run_sync(_content, body.body, body.encoding)
    elif body.json_body is not None:
        options["json"] = body.json_body
    answer = await while_present(request, machine.send_http_request(body.port, body.path, body.method, **options))
    return await anyio.to_thread.run_sync(_reply, request, answer, body.response_encoding)


def _content(text: str, encoding: str) -> bytes:
    try:
        return text.encode() if encoding == "utf-8" else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("the body is not what its encoding says", cause=str(error)) from error


def _reply(request: Request, answer: HttpResponse, encoding: str) -> Response:
    """The answer as JSON or MessagePack. It runs in a thread: there may be much of it."""
    body = base64.b64encode(answer.content).decode() if encoding == "base64" else answer.content
    facts = {"status_code": answer.status_code, "reason": answer.reason, "url": answer.url, "elapsed": answer.elapsed}
    return reply(request, {**facts, "headers": dict(answer.headers), "header_list": answer.headers.multi_items(), "body": body})


def _info(state: PortState) -> dict[str, Any]:
    port = state.port
    place = {"guest_port": port.guest_port, "host_port": port.host_port, "host": port.host, "url": port.url}
    return {**place, "listening": state.listening, "open": state.open, "accepted": state.accepted, "refused": state.refused}
