"""The server's host."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from bandsox.server.shapes.base import Failure, Given


class Host(Given):
    """How much the host has, and how much of it is free: bytes. `vms`: how many there are in each status."""

    version: str
    cpus: int
    load: list[float] = Field(description="of the last 1, 5 and 15 minutes")
    mem_total: int
    mem_available: int
    disk_total: int
    disk_free: int
    vms: dict[str, int]


class Outcome(Given):
    """What has become of a request. `unknown`: its server was killed; send it again to find out."""

    status: Literal["running", "done", "unknown"]
    result: dict[str, Any] | None = Field(description="as it was answered")
    failure: Failure | None
