"""Tickets: what lets somebody do one thing, within half a minute, of which the address is all that he can choose: open a WebSocket, or
reach a port of a guest (`bandsox.server.proxy`).

A ticket may be seen in an address without harm: it is worth nothing once it was used, or after `LIFETIME_S`. This process knows it, and no
other; behind a load balancer both requests have to reach the same server.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Right = TypeVar("Right")

LIFETIME_S = 30.0
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request shows for its caller. `by_cookie`: a browser sends it by itself."""

    token: str = field(repr=False)
    by_cookie: bool = False


class Tickets(Generic[Right]):
    """The tickets that were given out, and what each is good for."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, tuple[float, Right]] = OrderedDict()

    def give(self, right: Right) -> str:
        """A ticket for `right`."""
        now = time.monotonic()
        while self._given and (len(self._given) >= _MOST or next(iter(self._given.values()))[0] <= now):
            self._given.popitem(last=False)
        ticket = f"bst_{secrets.token_hex(32)}"
        self._given[ticket] = now + LIFETIME_S, right
        return ticket

    def take(self, ticket: str) -> Right | None:
        """What the ticket is good for; None for one that was taken, is too old or was never given. It is worth nothing from now on."""
        until, right = self._given.pop(ticket, (0.0, None))
        return right if time.monotonic() < until else None
