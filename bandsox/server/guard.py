"""What each route demands of its caller, and how much it takes: checked before anything of the request's body is read.

Every route says so with `demands`; one that does not cannot be added, so none is open by oversight.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Message, Receive
from starlette.types import Scope as ASGIScope

from bandsox.errors import Forbidden, NotAuthenticated, RequestTooLarge, Timeout
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.headers import NamedHeaders, headers_of
from bandsox.server.presence import ARRIVED
from bandsox.server.segments import name_in

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

BODY_LIMIT = 1 << 20
"""How many bytes the body of an ordinary request may have."""

_SHORT = 64 << 10

STALL_S = 60.0
"""How long to wait for the next bytes of a request."""

_PLACE = "__bandsox_demand__"


class Open(enum.Enum):
    """The demand of a route that everybody may call."""

    TO_EVERYBODY = enum.auto()


@dataclass(frozen=True, slots=True)
class Demand:
    """What a route demands. `body`: how many bytes it takes at most; None: a stream of any length."""

    scope: Scope | Open
    body: int | None


def demands(scope: Scope | Open, *, body: int | None = BODY_LIMIT) -> Callable[[Endpoint], Endpoint]:
    """Say what a route demands of its caller, and how large its requests may be."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _PLACE, Demand(scope, body))
        return endpoint

    return mark


def demand_of(endpoint: Callable[..., Any]) -> Demand:
    """What an endpoint was marked with.

    Raises
    ------
    TypeError: it was not.
    """
    demand = getattr(endpoint, _PLACE, None)
    if not isinstance(demand, Demand):
        raise TypeError(f"{endpoint.__module__}.{endpoint.__name__} does not say what it demands")
    return demand


def check(caller: Caller | None, scope: Scope | Open) -> None:
    """Let `caller` pass, or not.

    Raises
    ------
    NotAuthenticated, Forbidden.
    """
    if isinstance(scope, Open):
        return
    if caller is None:
        raise NotAuthenticated(
            "this server wants to know who is calling",
            remedy="send a key: `Authorization: Bearer bsx_…`; `bandsox auth create-key` makes one",
        )
    if not caller.may(scope):
        raise Forbidden(f"{caller.name} may not do this", cause=f"it takes the scope {scope.value!r}", remedy="use another key")


class _BoundedRequest(Request):
    """A request whose body, where it is long, is parsed in a thread: the event loop has others to serve."""

    @property
    def headers(self) -> NamedHeaders:
        """Its headers, as the gate has read them."""
        return headers_of(self.scope)

    async def json(self) -> Any:
        """The body as JSON.

        Raises
        ------
        json.JSONDecodeError: it is none.
        """
        body = await self.body()
        try:
            return json.loads(body) if len(body) <= _SHORT else await anyio.to_thread.run_sync(json.loads, body)
        except RecursionError as error:
            raise json.JSONDecodeError("it is nested too deeply", "", 0) from error


class GuardedRoute(APIRoute):
    """A route that checks its caller first, and reads no more than it takes."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        self.demand = demand_of(endpoint)
        extra = {**(settings.pop("openapi_extra", None) or {})}
        if isinstance(self.demand.scope, Scope):
            extra["security"] = [{"key": []}, {"session": []}]
            extra["x-scope"] = self.demand.scope.value
        super().__init__(path, endpoint, openapi_extra=extra, **settings)

    def matches(self, scope: ASGIScope) -> tuple[Match, ASGIScope]:
        """Whether it is asked for, and the names in its path; see `bandsox.server.segments`."""
        match, found = super().matches(scope)
        if found.get("path_params"):
            found["path_params"] = {key: name_in(each) if isinstance(each, str) else each for key, each in found["path_params"].items()}
        return match, found

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the checks."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            return await handle(self.admitted(request.scope, request.receive))

        return guarded

    def admitted(self, scope: ASGIScope, receive: Receive) -> Request:
        """A request whose caller may make it, and of which no more can be read than this route takes.

        Raises
        ------
        NotAuthenticated, Forbidden, RequestTooLarge.
        """
        check(scope["caller"], self.demand.scope)
        return _BoundedRequest(scope, _bounded(scope, receive, self.demand.body))


def _bounded(scope: ASGIScope, receive: Receive, limit: int | None) -> Receive:
    """What gives a request its body: no more than `limit` bytes, and not a minute late."""
    announced = headers_of(scope).get("content-length", "")
    if limit is not None and announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    taken = 0
    whole = False

    async def receiving() -> Message:
        nonlocal taken, whole
        if whole:  # from here on it only tells that the client has gone
            return await receive()
        message = await (receive() if scope.get(ARRIVED) else _in_time(receive()))
        taken += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if limit is not None and taken > limit:
            raise _too_large(limit)
        return message

    return receiving


async def _in_time(receiving: Awaitable[Message]) -> Message:
    try:
        with anyio.fail_after(STALL_S):
            return await receiving
    except TimeoutError:
        raise Timeout("the request did not go on", cause=f"nothing came for {STALL_S:g} s") from None


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"the request has more than {limit} bytes", remedy="send files with PUT /api/vms/{id}/file, which takes any size"
    )
