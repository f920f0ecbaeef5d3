"""The password, sessions and keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bandsox.server.shapes.base import Given, Seconds, Shape


class Login(Shape):
    """The password."""

    password: str = Field(max_length=1024)


class LoggedIn(Given):
    """A session's token, which is in a cookie as well."""

    status: Literal["ok"] = "ok"
    token: str


class Authenticated(Given):
    """Whether the caller is known."""

    authenticated: bool
    auth_enabled: bool


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


class NewKeyShape(Shape):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=128, examples=["ci"])
    scopes: list[Literal["read", "exec", "admin"]] = Field(["admin"], min_length=1)
    expires_in: Seconds | None = Field(None, description="seconds")
    prefix: str = Field("", max_length=64, description="what the names of all VMs begin with that exist for it")
    quotas: QuotaShape = QuotaShape()


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
