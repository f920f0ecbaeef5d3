"""The gate in front of every route: the names and origins that are allowed, who is calling, and what browsers are told.

It is plain ASGI, so that a stream passes it without being touched.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandsox.errors import BandSoxError, Forbidden
from bandsox.server import segments
from bandsox.server.auth.callers import Caller
from bandsox.server.configuration import Configuration
from bandsox.server.faults import failure, plain_failure
from bandsox.server.headers import NamedHeaders, headers_of
from bandsox.server.service import Service

_audit = logging.getLogger("bandsox.audit")

_SHOWN_PATH = 2048

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer says to browsers, unless its route says otherwise."""

_PLAIN_HEADERS = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
_TLS_HEADERS = {**_PLAIN_HEADERS, b"strict-transport-security": b"max-age=31536000"}


class Gate:
    """Lets a request pass to `app`, or answers it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._said = _TLS_HEADERS if service.configuration.tls else _PLAIN_HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        segments.tell_apart(scope)
        headers = headers_of(scope)
        websocket = scope["type"] == "websocket"
        try:
            refusal = foreign(self._service.configuration, headers)
            if refusal is None:
                scope["caller"] = self._identify(scope, headers, websocket=websocket)
        except BandSoxError as error:
            refusal = failure(error)
        if refusal is not None:
            if refusal.status_code in {401, 403}:
                audit(scope, None, refusal.status_code, 0.0)
            if websocket:
                await send({"type": "websocket.close", "code": 1008})  # before it was accepted: an answer with status 403
                return
            await refusal(scope, receive, self._telling(send))
            return
        if websocket:
            with self._service.metrics.websockets.track_inprogress():
                await self._hand_on(scope, receive, send)
            return
        await self._serve(scope, receive, send)

    def _identify(self, scope: Scope, headers: NamedHeaders, *, websocket: bool) -> Caller | None:
        """Who calls.

        Raises
        ------
        Forbidden: a browser that was told to by another page (CSRF).
        """
        query = scope["query_string"].decode("latin-1")
        gatekeeper = self._service.gatekeeper
        scope["credential"] = gatekeeper.credential(headers, query, websocket=websocket)
        caller = gatekeeper.caller(scope["credential"])
        if caller is not None and caller.by_cookie and "origin" not in headers and (websocket or scope["method"] not in SAFE_METHODS):
            # Browsers name the origin of such requests; its own was accepted before.
            raise Forbidden("a session cannot be used so", cause="the request names no Origin", remedy="use a key outside of browsers")
        return caller

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope["caller"]
        if caller is None:
            await self._app(scope, receive, send)
        elif self._service.traces is None:
            await self._service.leases.serve(caller, self._app, scope, receive, send)
        else:
            with self._service.traces.request(scope, send) as noting:
                await self._service.leases.serve(caller, self._app, scope, receive, noting)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._tell(message)
            await send(message)

        try:
            await self._hand_on(scope, receive, noting)
        finally:
            pattern = getattr(scope.get("route"), "path", "none")
            self._service.metrics.answered(scope["method"], pattern, status, time.monotonic() - began)
            if scope["method"] not in SAFE_METHODS or status in {401, 403, 429}:
                audit(scope, scope["caller"], status, time.monotonic() - began)

    def _telling(self, send: Send) -> Send:
        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._tell(message)
            await send(message)

        return telling

    def _tell(self, message: Message) -> None:
        """Add to the head of an answer what it does not say itself."""
        headers = message.get("headers", ())
        present = {name.lower() for name, _ in headers}
        message["headers"] = [*headers, *(each for each in self._said.items() if each[0] not in present)]


def audit(scope: Scope, caller: Caller | None, status: int, seconds: float) -> None:
    """Write down who did what. Never what was sent, nor the query, which may hold anything."""
    client = scope.get("client")
    _audit.info(
        "%s %s %d",
        scope.get("method", "WEBSOCKET"),
        segments.shown(scope["path"])[:_SHOWN_PATH],
        status,
        extra={
            "event": {
                "caller": None if caller is None else caller.id,
                "session": None if caller is None else caller.session,
                "name": None if caller is None else caller.name,
                "client": client[0] if client else None,
                "method": scope.get("method", "WEBSOCKET"),
                "path": segments.shown(scope["path"])[:_SHOWN_PATH],
                "status": status,
                "ms": round(seconds * 1000),
            }
        },
    )


def foreign(configuration: Configuration, headers: NamedHeaders, is_known: Callable[[str], bool] | None = None) -> Response | None:
    """The answer to a request under a name that is not ours (DNS rebinding), or from a page that is not ours; None for others.

    Parameters
    ----------
    is_known: whether a name is ours; by default as the configuration says.
    """
    host = headers.get("host", "")
    alone = len(headers.getlist("host")) == 1 and len(headers.getlist("origin")) <= 1
    name = _name_in(host) if alone else None
    if name is None or not (is_known or configuration.is_known_host)(name):
        return plain_failure(421, "foreign_host", "this server does not go by that name; --allowed-host adds one")
    origin = headers.get("origin")
    if origin is None or origin in configuration.allowed_origins:
        return None
    if _name_in(origin.partition("://")[2]) is not None and origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}:
        return None
    return plain_failure(403, "foreign_origin", "pages of that origin may not call this server; --allowed-origin adds one")


@functools.lru_cache(maxsize=1024)
def _name_in(authority: str) -> str | None:
    """The name in ``host[:port]``; None where it is no such thing."""
    if not authority or any(character in "/\\@?# " for character in authority):
        return None
    try:
        parts = urlsplit(f"//{authority}")
        parts.port  # noqa: B018 — it is read where it is asked for
    except ValueError:
        return None
    return parts.hostname
