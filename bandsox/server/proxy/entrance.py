"""Which machine and port a request means, and who may reach them.

An address is ``/api/vms/VM/proxy/PORT/…``, or ``/…`` at the host ``PORT-VM.DOMAIN``, which gives every port of every machine an origin of
its own. A client shows a key in ``Authorization`` or ``X-BandSox-Key``; a browser a pass, got for a ticket (``?bandsox_ticket=``).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import NoReturn
from urllib.parse import parse_qsl, urlencode

from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from bandsox.errors import BandSoxError, Forbidden, InvalidRequest, NotAuthenticated
from bandsox.server.auth import callers
from bandsox.server.auth.callers import EVERYBODY, Caller
from bandsox.server.auth.tickets import Credential, Tickets
from bandsox.server.configuration import Configuration
from bandsox.server.faults import failure, status_of
from bandsox.server.gate import audit, foreign
from bandsox.server.guard import check
from bandsox.server.headers import NamedHeaders, headers_of
from bandsox.server.proxy import passes
from bandsox.server.proxy.exchange import BrokenOff, exchange
from bandsox.server.proxy.sockets import converse
from bandsox.server.service import Service

TICKET = "bandsox_ticket"

_PATH = re.compile(r"/api/vms/([^/]+)/proxy/([0-9]{1,5})(/.*)?", re.DOTALL)
_LABEL = re.compile(r"([0-9]{1,5})-([a-z0-9]{4,63})")


@dataclass(frozen=True, slots=True)
class Place:
    """A port of a machine. `path` is what is asked for there, `prefix` what the address has before it."""

    vm: str
    port: int
    path: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Link:
    """What a ticket is good for: a pass for one port, of whoever made the link."""

    vm_id: str
    port: int
    credential: Credential | None


class Entrance:
    """The application of the proxy's port."""

    def __init__(self, service: Service, links: Tickets[Link]) -> None:
        self._service = service
        self._links = links

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        headers = headers_of(scope)
        began, status, caller = time.monotonic(), 0, None
        try:
            place = self._place(scope, headers)
            refusal = foreign(self._service.configuration, headers, is_known=self._is_known)
            if refusal is None:
                caller = self._caller(scope, headers, place)
                refusal = await self._enter(scope, headers, place) if caller is None else None
            if refusal is None:
                assert caller is not None
                await self._service.leases.serve(caller, partial(self._connect, place, caller), scope, receive, send)
                return
        except BandSoxError as error:
            status, refusal = status_of(error), failure(error)
        except BrokenOff:
            return  # uvicorn ends the connection where an answer is not complete
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal.headers["cache-control"] = "no-store"
            await refusal(scope, receive, send)
        if refusal.status_code in {401, 403}:
            audit(scope, caller, status or refusal.status_code, time.monotonic() - began)

    def _is_known(self, name: str) -> bool:
        configuration = self._service.configuration
        domain = configuration.proxy_domain
        return configuration.is_known_host(name) or (domain is not None and name.lower().endswith(f".{domain}"))

    def _place(self, scope: Scope, headers: NamedHeaders) -> Place:
        """What a request means.

        Raises
        ------
        InvalidRequest: nothing.
        """
        found = place_of(self._service.configuration, headers.get("host", ""), scope["raw_path"].decode("latin-1"))
        if found is None:
            raise InvalidRequest("this address names no port of a VM", remedy="use /api/vms/VM/proxy/PORT/")
        return found

    def _caller(self, scope: Scope, headers: NamedHeaders, place: Place) -> Caller | None:
        """Who asks; None where a browser has no pass."""
        gatekeeper = self._service.gatekeeper
        authority = gatekeeper.file.read()
        if authority is None:
            return EVERYBODY
        if (key := _key(headers)) is not None:
            return gatekeeper.caller(Credential(key)) or _unknown()
        cookie = _pass(headers)
        return None if cookie is None else passes.holder(authority, cookie, place.vm, place.port)

    async def _enter(self, scope: Scope, headers: NamedHeaders, place: Place) -> Response:
        """The answer to a browser without a pass: one, where it has a ticket.

        Raises
        ------
        NotAuthenticated: it has none.
        """
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        ticket = next((value for name, value in query if name == TICKET), None)
        link = None if ticket is None else self._links.take(ticket)
        authority, gatekeeper = self._service.gatekeeper.file.read(), self._service.gatekeeper
        caller = None if link is None else gatekeeper.caller(link.credential)
        if (
            scope["type"] != "http"
            or link is None
            or authority is None
            or caller is None
            or (link.vm_id, link.port) != (place.vm, place.port)
        ):
            _unknown()
        rest = urlencode([(name, value) for name, value in query if name != TICKET])
        answer = RedirectResponse(f"{place.prefix}{place.path}" + (f"?{rest}" if rest else ""), 303)
        secure = self._service.configuration.tls or headers.get("x-forwarded-proto") == "https"
        value = passes.new(authority, caller, link.vm_id, link.port)
        path = place.prefix + "/"
        answer.set_cookie(passes.COOKIE, value, max_age=passes.LIFETIME_S, httponly=True, samesite="lax", secure=secure, path=path)
        return answer

    async def _connect(self, place: Place, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        check(caller, callers.Scope.EXEC)
        machine = await self._service.machine(caller, place.vm)
        query = scope["query_string"].decode("latin-1")
        target = place.path + (f"?{query}" if query else "")
        async with await machine.connect(place.port, "localhost") as stream:
            if scope["type"] == "websocket":
                await receive()  # websocket.connect
                await converse(scope, receive, send, stream, target, place.prefix)
            else:
                await exchange(scope, receive, send, stream, target, place.prefix)


def place_of(configuration: Configuration, host: str, path: str) -> Place | None:
    """What an address means; None: no port of a machine."""
    domain = configuration.proxy_domain
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    if domain is not None and name.lower().endswith(f".{domain}"):
        label = _LABEL.fullmatch(name.lower()[: -len(domain) - 1])
        return None if label is None or not _is_port(label[1]) else Place(label[2], int(label[1]), path or "/", "")
    found = _PATH.fullmatch(path)
    if found is None or not _is_port(found[2]):
        return None
    return Place(found[1], int(found[2]), found[3] or "/", f"/api/vms/{found[1]}/proxy/{found[2]}")


def link_to(configuration: Configuration, host: str, vm_id: str, port: int, ticket: str | None) -> str:
    """The address at which a browser finds a port.

    Parameters
    ----------
    host: the name by which the API was called.

    Raises
    ------
    Forbidden: there is no proxy.
    """
    if configuration.proxy_port is None:
        raise Forbidden("this server has no proxy", remedy="start it with --proxy-port")
    scheme = "https" if configuration.tls else "http"
    query = "" if ticket is None else f"?{urlencode({TICKET: ticket})}"
    if configuration.proxy_domain is not None:
        return f"{scheme}://{port}-{vm_id}.{configuration.proxy_domain}:{configuration.proxy_port}/{query}"
    return f"{scheme}://{host}:{configuration.proxy_port}/api/vms/{vm_id}/proxy/{port}/{query}"


def _is_port(text: str) -> bool:
    return 1 <= int(text) <= 65535


def _key(headers: NamedHeaders) -> str | None:
    if (key := headers.get("x-bandsox-key")) is not None:
        return key.strip()
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip().startswith(("bsx_", "bss_")) else None


def _pass(headers: NamedHeaders) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(passes.COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _unknown() -> NoReturn:
    raise NotAuthenticated("this port of a VM is not for everybody", remedy="make a link with POST /api/vms/VM/ports/PORT/link")
