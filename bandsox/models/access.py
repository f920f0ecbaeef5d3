"""Who may use a server, and for how much: what administrators see of keys, sessions and what was done.

Times are in seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much a caller's machines may have, all together: those that it can see. None: no limit.

    `creates_per_minute` counts attempts to make a machine.
    """

    vms: int | None = None
    vcpu: int | None = None
    mem_mib: int | None = None
    disk_mib: int | None = None
    creates_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """How much machines have together."""

    vms: int
    vcpu: int
    mem_mib: int
    disk_mib: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key, which is never the key itself.

    ``scopes`` are of ``read``, ``exec`` and ``admin``; ``prefix`` is what the names of all machines begin with that exist for it. ``used``
    is what these have, of ``quotas``.
    """

    id: str
    name: str
    created_at: float
    last_used_at: float | None
    expires_at: float | None
    scopes: tuple[str, ...]
    prefix: str
    quotas: Quotas
    used: QuotaUse


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was made; it is never shown again."""

    key_id: str
    key: str = field(repr=False)
    name: str


class KeyChanges(TypedDict, total=False):
    """What is to be changed of a key; what is absent stays. ``expires_in`` is in seconds from now on, None: it does not expire."""

    name: str
    scopes: Sequence[str]
    expires_in: float | None
    prefix: str
    quotas: Quotas


@dataclass(frozen=True, slots=True)
class LoginSession:
    """A session of somebody who logged in with the password: from which address, and what called itself so there.

    ``current``: it is the one by which this was asked for.
    """

    id: str
    created_at: float
    expires_at: float
    last_used_at: float | None
    client: str
    agent: str
    current: bool = False


@dataclass(frozen=True, slots=True)
class CallerInfo:
    """Who a server takes a caller for. ``id`` is a key's, ``session`` that of a session where it calls by one."""

    id: str
    name: str
    scopes: tuple[str, ...]
    prefix: str
    quotas: Quotas
    session: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, when (ISO 8601, UTC), from which address, with which outcome (a status of HTTP), and how long it took.

    ``caller`` is a key's id, or ``session``, None: nobody who is known. ``id`` is the entry's place in the log.
    """

    id: str
    time: str
    caller: str | None
    session: str | None
    name: str | None
    client: str | None
    method: str
    path: str
    status: int
    ms: int
