"""The routes put together behind the gate: an ASGI application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bandsox.core import AsyncBandSox
from bandsox.server import faults, shapes
from bandsox.server.auth.tickets import Tickets
from bandsox.server.configuration import Configuration
from bandsox.server.dashboard import pages
from bandsox.server.gate import Gate
from bandsox.server.live import admission
from bandsox.server.live import routes as live
from bandsox.server.once import KEY, Once, takes_key
from bandsox.server.proxy.entrance import Entrance, Link
from bandsox.server.routes import (
    audit,
    auth,
    builds,
    commands,
    devices,
    events,
    files,
    images,
    keys,
    machines,
    networks,
    portable,
    ports,
    retention,
    snapshots,
    system,
    templates,
    timelines,
    webhooks,
)
from bandsox.server.service import Service
from bandsox.server.shortcut import Shortcut
from bandsox.version import __version__

_SUBJECTS = (
    *(commands, files, builds, machines, system, auth, keys, audit, devices, networks, ports, timelines),
    *(snapshots, portable, retention, templates, images, events, webhooks, pages),
)
ROUTERS = tuple(subject.router for subject in _SUBJECTS)
"""What is asked for most comes first: they are compared with an address one after the other. Those of `builds` come before `machines`,
where ``from-dockerfile`` would be a machine's name."""

_FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": shapes.Failure, "description": "The caller's mistake, or something that is not there"},
    "5XX": {"model": shapes.Failure, "description": "The server, the host or the guest failed"},
}


_SHARED: dict[str, Any] = {
    "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["Authorization", "Idempotency-Key", "If-Range", "Last-Event-ID", "Range"],
    "expose_headers": ["Content-Disposition", "Content-Range", "ETag", "Retry-After", "X-Next-After"],
}
"""What pages of allowed origins may send and see (CORS). They get no use of a session, and show a key."""


_NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
"""FastAPI's own, which would tell addresses and messages to whatever the process has for that. Ours is `bandsox.server.tracing`."""


def routes() -> FastAPI:
    """All routes, without a library behind them: what the OpenAPI document is made of."""
    app = FastAPI(
        title="BandSox",
        version=__version__,
        description="MicroVM sandboxes over HTTP. Every failure has the shape `Failure`.",
        telemetry=_NO_TELEMETRY,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in ROUTERS:
        app.include_router(router, responses=_FAILURES)
    app.include_router(live.router)
    app.add_exception_handler(admission.Told, admission.over)
    faults.install(app)
    app.router.default = pages.or_page(app.router.default)
    return app


def application(bandsox: AsyncBandSox, configuration: Configuration) -> FastAPI:
    """The application that serves the library `bandsox`."""
    app = routes()
    service = Service(bandsox, configuration)
    app.state.service = service
    app.state.once = Once(service.keyed)
    app.state.links = Tickets[Link]()
    app.add_middleware(Shortcut, routes=(*commands.HOT, *machines.HOT))
    if configuration.allowed_origins:
        app.add_middleware(CORSMiddleware, allow_origins=configuration.allowed_origins, **_SHARED)
    app.add_middleware(Gate, service=service)
    return app


class Switch:
    """What comes in at the proxy's port goes to the proxy, all else to the API. So neither ever answers in the place of the other."""

    def __init__(self, api: FastAPI, proxy: ASGIApp, proxy_port: int | None) -> None:
        self._api, self._proxy, self._proxy_port = api, proxy, proxy_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if self._proxy_port is not None and scope["type"] in {"http", "websocket"} and scope["server"][1] == self._proxy_port:
            await self._proxy(scope, receive, send)
        else:
            await self._api(scope, receive, send)


def served(app: FastAPI) -> ASGIApp:
    """All that a server serves: the application and the proxy beside it."""
    service: Service = app.state.service
    return Switch(app, Entrance(service, app.state.links), service.configuration.proxy_port)


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    app = routes()
    described = get_openapi(title=app.title, version="1", description=app.description, routes=app.routes)
    for route in (each for router in ROUTERS for each in router.routes if isinstance(each, APIRoute) and takes_key(each)):
        for method in route.methods or ():
            described["paths"][route.path][method.lower()].setdefault("parameters", []).append(KEY)
    schemes = {
        "key": {"type": "http", "scheme": "bearer", "description": "an API key, or a session's token"},
        "session": {"type": "apiKey", "in": "cookie", "name": "bandsox_session"},
    }
    described.setdefault("components", {})["securitySchemes"] = schemes
    return described
