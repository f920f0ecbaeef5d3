"""The server's host."""

from __future__ import annotations

from pydantic import Field

from bandsox.server.shapes.base import Given


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
