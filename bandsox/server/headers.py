"""The headers of a request, found by their names at once.

Several checks and the route ask for some of them, and starlette's look through all of them for each, and are made anew for each `Request`.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

_PLACE = "bandsox.headers"


class NamedHeaders(Headers):
    """The headers of one request, which do not change any more."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope)
        self._named: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self._named.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def __getitem__(self, key: str) -> str:
        return self._named[key.lower()][0]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._named

    def getlist(self, key: str) -> list[str]:
        """All headers of this name, in their order."""
        return list(self._named.get(key.lower(), ()))


def headers_of(scope: Scope) -> NamedHeaders:
    """The headers of a request, which are looked through once."""
    known = scope.get(_PLACE)
    if not isinstance(known, NamedHeaders):
        known = scope[_PLACE] = NamedHeaders(scope)
    return known
