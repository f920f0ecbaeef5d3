"""Callers: who they are, what they may do, and how much of the host they may have."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from bandsox.errors import InvalidRequest
from bandsox.models import Quotas


class Scope(str, enum.Enum):
    """What a caller may do; each includes those before it.

    ``read``: look at machines, their files and images. ``exec``: everything with machines. ``admin``: images, this host, and keys.
    """

    READ = "read"
    EXEC = "exec"
    ADMIN = "admin"

    @classmethod
    def named(cls, name: str) -> Scope:
        """The scope of a name.

        Raises
        ------
        InvalidRequest: there is none.
        """
        try:
            return cls(name)
        except ValueError:
            raise InvalidRequest(f"{name!r} is no scope", remedy=f"choose one of: {', '.join(cls)}") from None


_RANK = {scope: rank for rank, scope in enumerate(Scope)}


NO_QUOTAS = Quotas()


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls. `id` is a key's id, ``session`` or ``everybody``; `prefix` is what the names of its machines begin with.

    `session` is the id of the session by which it calls, if it does; `until` is when it is not known any more, in seconds since the epoch.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    prefix: str = ""
    quotas: Quotas = field(default=NO_QUOTAS)
    by_cookie: bool = False
    session: str | None = None
    until: float | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it has this scope, or one that includes it."""
        return any(_RANK[own] >= _RANK[scope] for own in self.scopes)

    def sees(self, machine: str) -> bool:
        """Whether a machine of this name exists for it."""
        return machine.startswith(self.prefix)


EVERYBODY = Caller("everybody", "everybody", frozenset({Scope.ADMIN}))
"""Whoever calls while authentication is off."""


def scopes_of(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes of these names.

    Raises
    ------
    InvalidRequest: one of them does not exist, or there are none.
    """
    scopes = frozenset(Scope.named(name) for name in names)
    if not scopes:
        raise InvalidRequest("a key without a scope can do nothing", remedy=f"give one of: {', '.join(Scope)}")
    return scopes
