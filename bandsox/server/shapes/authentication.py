"""The password, sessions, keys, and the audit log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bandsox.server.auth.file import MAX_PASSWORD, MIN_PASSWORD
from bandsox.server.shapes.base import Given, Seconds, Shape


class Login(Shape):
    """The password."""

    password: str = Field(max_length=MAX_PASSWORD)


class LoggedIn(Given):
    """A session's token, which is in a cookie as well."""

    status: Literal["ok"] = "ok"
    token: str


class NewPassword(Shape):
    """Another password, and the one that it is now."""

    current: str = Field(max_length=MAX_PASSWORD)
    new: str = Field(min_length=MIN_PASSWORD, max_length=MAX_PASSWORD)


class ChangedPassword(Given):
    """That the password was changed."""

    status: Literal["changed"] = "changed"
    token: str | None = Field(description="of a new session, which is in a cookie as well, for whoever asked by one")


class BrowserSession(Given):
    """What is known of a session."""

    id: str
    created_at: float
    expires_at: float
    last_used_at: float | None
    client: str = Field(description="the address from which the password came", examples=["192.0.2.1"])
    agent: str = Field(description="what called itself so there", examples=["Mozilla/5.0"])
    current: bool = Field(description="whether this request is of it")


class EndedSessions(Given):
    """That sessions were ended."""

    status: Literal["ended"] = "ended"
    count: int


class Ticket(Given):
    """What opens one WebSocket."""

    ticket: str = Field(examples=["bst_…"])
    expires_in: float = Field(description="seconds")


class QuotaShape(Shape):
    """How much a key's VMs may have, all together. Null: no limit."""

    vms: int | None = Field(default=None, ge=0)
    vcpu: int | None = Field(default=None, ge=0)
    mem_mib: int | None = Field(default=None, ge=0)
    disk_mib: int | None = Field(default=None, ge=0)
    creates_per_minute: int | None = Field(default=None, ge=0)


class QuotaUse(Given):
    """How much VMs have together."""

    vms: int
    vcpu: int
    mem_mib: int
    disk_mib: int


class CallerInfo(Given):
    """Who calls. `session` is the id of the session, if it is by one."""

    id: str = Field(examples=["bsx_k_1f2e3d4c"])
    name: str
    scopes: list[str]
    prefix: str
    quotas: QuotaShape
    session: str | None


class Authenticated(Given):
    """Whether the caller is known, and who that is."""

    authenticated: bool
    auth_enabled: bool
    caller: CallerInfo | None


class NewKeyShape(Shape):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=128, examples=["ci"])
    scopes: list[Literal["read", "exec", "admin"]] = Field(["admin"], min_length=1)
    expires_in: Seconds | None = Field(None, description="seconds")
    prefix: str = Field("", max_length=64, description="what the names of all VMs begin with that exist for it")
    quotas: QuotaShape = QuotaShape()


class EditedKey(Shape):
    """What is to be changed of a key; what is not named stays. `expires_in` counts from now on, null: it does not expire."""

    name: str = Field(default_factory=str, min_length=1, max_length=128)
    scopes: list[Literal["read", "exec", "admin"]] = Field(default_factory=list, min_length=1)
    expires_in: Seconds | None = Field(default_factory=lambda: None, description="seconds")
    prefix: str = Field(default_factory=str, max_length=64, description="what the names of all VMs begin with that exist for it")
    quotas: QuotaShape = Field(default_factory=QuotaShape, description="all of them: those that are not named have no limit")


class CreatedKey(Given):
    """A key, which is never shown again."""

    key_id: str = Field(examples=["bsx_k_1f2e3d4c"])
    key: str = Field(examples=["bsx_…"])
    name: str


class KeyInfo(Given):
    """What is known of a key."""

    id: str
    name: str
    created_at: float
    last_used_at: float | None
    expires_at: float | None
    scopes: list[str]
    prefix: str
    quotas: QuotaShape
    used: QuotaUse = Field(description="of these quotas, by VMs")


class AuditEntry(Given):
    """Who did what."""

    id: str
    time: str = Field(examples=["2026-01-01T12:00:00.000Z"])
    caller: str | None = Field(description="a key's id, or `session`; null: nobody who is known")
    session: str | None = Field(description="the id of the session, if it was one")
    name: str | None
    client: str | None = Field(examples=["192.0.2.1"])
    method: str = Field(examples=["POST"])
    path: str = Field(examples=["/api/vms"])
    status: int
    ms: int = Field(description="how long it took")


class AuditPage(Given):
    """A page of the audit log."""

    entries: list[AuditEntry]
    next: str | None = Field(description="the `after` of the next page; null: there are no more")
