"""The short way to what is asked for most: commands, which themselves take a few milliseconds, and VMs with all that is known of them.

For every request FastAPI finds out anew what its route depends on, and hands it through layers for what routes may have and these have not.
Here that is found out once, from what FastAPI knows of a route. The route stays what it is: in the document, behind the same checks, with
the same answers. A request that is not of the plainest shape, such as one with a query, goes to FastAPI as all others do; so does one with
a body that does not fit, for FastAPI tells what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pydantic
from fastapi.dependencies.models import Dependant
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandsox.errors import BandSoxError
from bandsox.server.faults import broken_off, failure
from bandsox.server.guard import GuardedRoute
from bandsox.server.segments import name_in

_JSON = (b"content-type", b"application/json")

_LONG = 64 << 10
"""How many bytes of JSON take so long that FastAPI's way reads them in a thread."""


class Shortcut:
    """Serves `routes` itself, and has `app` serve all else.

    Parameters
    ----------
    routes: each has at most one body, names in its path, a query that can be left out, and dependencies that depend on nothing but the
        request.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[GuardedRoute]) -> None:
        self._app = app
        self._ways = tuple(_Way(route) for route in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        way = None
        if scope["type"] == "http" and not scope["query_string"]:
            way = next((each for each in self._ways if each.leads_there(scope)), None)
        if way is None:
            await self._app(scope, receive, send)
            return
        body = b""
        try:
            request = way.route.admitted(scope, receive)
            if way.body is None:
                asked: dict[str, Any] | None = {}
            else:
                body = await _read(request.receive)
                asked = way.body.read(body) if len(body) <= _LONG else None
        except pydantic.ValidationError:
            asked = None
        except BandSoxError as error:
            await failure(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if asked is None:
            await self._app(scope, _again(body, receive), send)
            return
        response = await way.answer(request, asked)
        await response(scope, receive, send)


class _Way:
    """A route as FastAPI has understood it."""

    def __init__(self, route: GuardedRoute) -> None:
        needs: Dependant = route.dependant
        (self._method,) = set(route.methods or ())
        more = needs.header_params or needs.cookie_params or any(each.dependencies for each in needs.dependencies)
        if more or len(needs.body_params) > 1 or any(each.field_info.is_required() for each in needs.query_params):
            raise TypeError(f"{route.path} takes more than a body, names in its path, and a query that can be left out")
        self.route = route
        self.body = next((_Body(each.name, each.field_info.annotation) for each in needs.body_params), None)
        self._request = needs.request_param_name
        self._query = {each.name: each.get_default() for each in needs.query_params}
        self._dependencies: dict[str, Callable[..., Any]] = {str(each.name): each.call for each in needs.dependencies if each.call}

    def leads_there(self, scope: Scope) -> bool:
        """Whether a request is for this route; then its names are noted as by FastAPI."""
        if scope["method"] != self._method or (self.body is not None and _JSON not in scope["headers"]):
            return False
        if (found := self.route.path_regex.match(scope["path"])) is None:
            return False
        scope["route"], scope["path_params"] = self.route, {key: name_in(each) for key, each in found.groupdict().items()}
        return True

    async def answer(self, request: Request, asked: dict[str, Any]) -> Response:
        """What the endpoint answers to a body of the right shape, by the name of its parameter."""
        try:
            arguments = {name: await each(request) for name, each in self._dependencies.items()}
            if self._request is not None:
                arguments[self._request] = request
            response: Response = await self.route.endpoint(**arguments, **request.path_params, **self._query, **asked)
        except BandSoxError as error:
            return failure(error)
        except ClientDisconnect:
            return broken_off()
        return response


class _Body:
    """The body of a route."""

    def __init__(self, name: str, shape: Any) -> None:
        self._name = name
        self._shape: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(shape or Any)

    def read(self, body: bytes) -> dict[str, Any]:
        """What the endpoint is given for a body.

        Raises
        ------
        pydantic.ValidationError: it does not fit.
        """
        return {self._name: self._shape.validate_json(body)}


async def _read(receive: Receive) -> bytes:
    """The body of a request.

    Raises
    ------
    ClientDisconnect: its client has gone.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a request its body that was read already, and then goes on."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return messages.pop() if messages else await receive()

    return receiving
