"""Tickets: what lets somebody open one WebSocket, within half a minute, whose address is all that he can choose.

A ticket may be seen in an address without harm: it is worth nothing once it was used, or after `LIFETIME_S`. This process knows it, and no
other; behind a load balancer both requests have to reach the same server.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

LIFETIME_S = 30.0
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request shows for its caller. `by_cookie`: a browser sends it by itself."""

    token: str = field(repr=False)
    by_cookie: bool = False


class Tickets:
    """The tickets that were given out."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, tuple[float, Credential | None]] = OrderedDict()

    def give(self, credential: Credential | None) -> str:
        """A ticket for whoever shows `credential`."""
        now = time.monotonic()
        while self._given and (len(self._given) >= _MOST or next(iter(self._given.values()))[0] <= now):
            self._given.popitem(last=False)
        ticket = f"bst_{secrets.token_hex(32)}"
        self._given[ticket] = now + LIFETIME_S, credential
        return ticket

    def take(self, ticket: str) -> Credential | None:
        """What the ticket was given for; None for one that was taken, is too old or was never given. It is worth nothing from now on."""
        until, credential = self._given.pop(ticket, (0.0, None))
        return credential if time.monotonic() < until else None
