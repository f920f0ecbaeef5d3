"""How busy a VM is."""

from __future__ import annotations

from pydantic import Field

from bandsox.server.shapes.base import Given


class ProcessInfo(Given):
    """One process of a guest."""

    pid: int
    ppid: int
    uid: int
    name: str
    argv: list[str]
    state: str = Field(examples=["S"])
    rss: int = Field(description="its memory in bytes")
    cpu_ms: int


class Metrics(Given):
    """A guest's own view of its load: times in milliseconds since it has booted, sizes in bytes."""

    uptime_ms: int
    load: tuple[float, float, float] = Field(description="of the last 1, 5 and 15 minutes")
    cpu_count: int
    cpu_user_ms: int
    cpu_system_ms: int
    cpu_idle_ms: int
    cpu_steal_ms: int
    memory_total: int
    memory_available: int
    memory_free: int
    memory_cached: int
    disk_total: int = Field(description="of its root file system, as `disk_free`")
    disk_free: int
    process_count: int
    disk_read: int | None = Field(
        description="since it has booted, by all its disks, as `disk_written`; null, as the next, from a snapshot of an earlier version"
    )
    disk_written: int | None
    network_received: int | None = Field(description="since it has booted, by all its network devices, headers included, as `network_sent`")
    network_sent: int | None
    processes: list[ProcessInfo] = Field(description="where they were asked for")
