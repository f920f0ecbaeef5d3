"""What the guest answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended. ``exit_code`` is 128 + ``signal`` where a signal ended it."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    signal: int | None = None
    timed_out: bool = False
    cpu_ms: int = 0
    max_rss: int = 0

    @property
    def text(self) -> str:
        """stdout as text; bytes that are not UTF-8 appear as U+FFFD."""
        return self.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class FileStat:
    """A guest's file. ``mode`` holds the permission bits only, ``mtime`` seconds since the epoch, ``size`` bytes."""

    type: Literal["file", "directory", "symlink", "fifo", "socket", "char", "block", "unknown"]
    size: int
    mode: int
    uid: int
    gid: int
    mtime: float
    nlink: int = 1
    ino: int = 0
    target: bytes | None = None


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One entry of a guest's directory; ``name`` as the guest's kernel has it, undecoded."""

    name: bytes
    stat: FileStat


@dataclass(frozen=True, slots=True)
class LineWindow:
    """Some lines of a guest's file as they are there; `skipped` lines before them, `left` lines after them.

    `truncated` tells that a bound on bytes ended it before the last line that was asked for.
    """

    data: bytes
    skipped: int
    returned: int
    left: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class TreeResult:
    """A tree that was copied. `refused` counts the entries left out because they are unsafe or of no use on the other side."""

    entries: int
    bytes: int
    refused: int = 0


@dataclass(frozen=True, slots=True)
class FileChange:
    """One event of a watch."""

    type: Literal["created", "modified", "removed", "moved", "attributes", "overflow"]
    path: bytes
    to: bytes | None = None


MOST_DIFFERENCES = 100_000
"""How many differences are told where nobody says how many."""


@dataclass(frozen=True, slots=True)
class FileDifference:
    """A file that is not the same in two states of a machine: another content, type, mode or owner, or there in one of them only.

    ``size`` is in bytes: in the later state, or, where the file was removed, in the earlier one. ``path`` is as the guest's kernel has it.
    """

    change: Literal["created", "modified", "removed"]
    path: bytes
    type: Literal["file", "directory", "symlink", "fifo", "socket", "char", "block", "unknown"]
    size: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A long-running process of a guest, which outlives its client."""

    id: str
    pid: int
    argv: tuple[bytes, ...]
    tty: bool
    started: float
    running: bool
    exit_code: int | None
    attached: int


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process of a guest."""

    pid: int
    ppid: int
    uid: int
    name: bytes
    argv: tuple[bytes, ...]
    state: str
    rss: int
    cpu_ms: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """A guest's own view of its load: times in ms since boot, sizes in bytes.

    ``disk_total`` and ``disk_free`` are of its root file system. What its disks have read and written and its network devices have received
    and sent is counted since boot, packets with their headers; None from a guest that goes on from a snapshot of an earlier version.
    """

    uptime_ms: int
    load: tuple[float, float, float]
    cpu_count: int
    cpu_user_ms: int
    cpu_system_ms: int
    cpu_idle_ms: int
    cpu_steal_ms: int
    memory_total: int
    memory_available: int
    memory_free: int
    memory_cached: int
    disk_total: int
    disk_free: int
    process_count: int
    disk_read: int | None = None
    disk_written: int | None = None
    network_received: int | None = None
    network_sent: int | None = None
    processes: tuple[ProcessInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Balloon:
    """The balloon in a guest's memory, in MiB: how large it is to be, and how large it is; and what the guest says of the rest."""

    target_mib: int
    actual_mib: int
    free_mib: int | None = None
    available_mib: int | None = None
    total_mib: int | None = None


@dataclass(frozen=True, slots=True)
class GuestInfo:
    """What the agent says of itself and its kernel."""

    agent: str
    kernel: str
    boot_id: bytes
    arch: str
    uptime_ms: int
    transport: str
    capabilities: tuple[str, ...]
    time: float
