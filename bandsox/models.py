"""What is passed between the rooms: specifications, records and results.

Frozen, typed and free of behaviour beyond what can be derived from their own fields. Values are
validated where they enter (CLI, REST, library call); from then on they are trusted.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# ── progress of long work ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a piece of long work.

    ``task`` identifies the piece (a layer's digest, a stage name) among those that go on at once;
    ``done`` and ``total`` are in ``unit``; ``total`` is None while it is unknown.
    """

    task: str
    label: str
    done: int = 0
    total: int | None = None
    unit: Literal["bytes", "steps"] = "steps"
    finished: bool = False


ProgressCallback = Callable[[Progress], None]


def report(progress: ProgressCallback | None, task: str, label: str, *, finished: bool = False) -> None:
    """Tell whoever wants to know how far a piece of long work has come."""
    if progress is not None:
        progress(Progress(task, label, finished=finished))


# ── images ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of an OCI image configuration that a machine honours (OCI image-spec, ``config.md``)."""

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    healthcheck: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """An image in this storage directory, ready to run.

    ``id`` is the digest of its configuration (``sha256:…``), as in Docker. ``rootfs`` is the flattened,
    read-only squashfs, named by the digest ``rootfs_digest`` of the layers it was made of.
    """

    id: str
    references: tuple[str, ...]
    manifest_digest: str
    rootfs_digest: str
    rootfs: Path
    size: int
    architecture: str
    created_at: float
    config: ImageConfig
    source: str


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A step in which an image was made (OCI image-spec, ``config.md``, ``history``).

    ``created`` is when, in RFC 3339; ``size`` is the stored, mostly compressed, layer's in bytes, 0 for a step that made none.
    """

    created: str = ""
    created_by: str = ""
    comment: str = ""
    size: int = 0
    layer: str | None = None


# ── machines ────────────────────────────────────────────────────────────────────────────────────


class VMStatus(str, enum.Enum):
    """Where a machine is in its life.

    ``SAVED``: its memory is on the disk, and its VMM is gone; it can go on from there. ``DEAD``: its VMM ended without having been asked
    to; it can be started again.
    """

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    SAVED = "saved"
    STOPPED = "stopped"
    DEAD = "dead"


class Isolation(enum.IntEnum):
    """What stands between the guest's code and the host, weakest first.

    ``EMULATED``: a software CPU in an ordinary process. ``HARDWARE``: the CPU's virtualisation.
    """

    EMULATED = 1
    HARDWARE = 2


Transport = Literal["virtio-serial", "vsock", "console"]
"""How the host reaches the agent in the guest. ``console``: over the serial console, where the guest's kernel has no vsock."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits on one device: bytes and operations a second; None: none."""

    bandwidth: int | None = None
    operations: int | None = None


UNLIMITED = RateLimits()


class Confinement(enum.IntEnum):
    """What the VMM itself is locked into, weakest first: what a guest that has taken it over still cannot reach.

    ``NAMESPACES``: a root directory, network and process table of its own, no privileges, a filter on system calls.
    ``JAIL``: that, and a user of its own; only root can give it.
    """

    NONE = 0
    NAMESPACES = 1
    JAIL = 2


ConfinementDemand = Literal["auto", "none", "namespaces", "jail"]
"""``auto``: the strongest that works here. ``namespaces``, ``jail``: at least that, or the machine is refused."""


OnExpiry = Literal["delete", "stop", "pause", "snapshot"]
"""What becomes of a machine whose time is over. ``snapshot``: its memory goes to the disk and its VMM ends (`VMStatus.SAVED`)."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A machine's place in its network.

    ``host_…`` is the end of the namespace, the guest's gateway. ``ipv6``: the host reaches the world over IPv6 too, so the guest has a way
    there. ``dns``: its name servers. ``mtu`` is in bytes.
    """

    uplink: Literal["veth", "pasta"]
    host_ip: str
    guest_ip: str
    host_mac: str
    guest_mac: str
    tap_name: str
    host_ipv6: str
    guest_ipv6: str
    dns: tuple[str, ...] = ()
    mtu: int = 1500
    ipv6: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """Where a machine may go: what `allow` has and `deny` has not. `bandsox.network.policy` says what rules look like.

    Without rules it is everything but what is not the Internet's. ``learn``: look for the names of all connections, so that the log tells
    which rules would have allowed just what the machine did. ``upload_mbit`` and ``download_mbit`` are limits in 10^6 bits a second,
    headers included; ``connections`` is how many may be open at a time (those that the filter carries, and the others, each). None: no
    limit.
    """

    allow: tuple[str, ...] = ("internet",)
    deny: tuple[str, ...] = ()
    learn: bool = False
    upload_mbit: float | None = None
    download_mbit: float | None = None
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkEvent:
    """A line of a machine's network log: a connection was ``opened``, ``closed``, or one, or the question for a name, was ``refused``.

    ``time`` is in seconds since the epoch, ``id`` the connection's; ``protocol`` is ``dns`` for a name; ``sent`` and ``received`` are the
    machine's bytes, known when it is closed.
    """

    id: int
    time: float
    event: Literal["opened", "closed", "refused"]
    protocol: str
    name: str = ""
    address: str = ""
    port: int = 0
    sent: int = 0
    received: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """What a machine connected to, or tried to. ``name`` is that which the connection said it was for, or which the address was given for.

    ``time`` and ``ended`` are in seconds since the epoch, ``sent`` and ``received`` in bytes, known when it has ended. ``reason`` says
    why it was refused.
    """

    time: float
    protocol: str
    name: str
    address: str
    port: int
    verdict: Literal["allowed", "refused"]
    reason: str = ""
    sent: int = 0
    received: int = 0
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class NetworkStats:
    """How much a machine has used its network since its filter was started.

    ``sent`` and ``received`` are bytes of packets, headers included. ``open`` and ``opened`` are connections; ``refused`` counts names that
    were not answered for too.
    """

    sent: int
    received: int
    open: int
    opened: int
    refused: int


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A TCP port of this host that leads to one of a guest. ``host`` is an IP address of this host; ``host_port`` 0 takes a free one."""

    guest_port: int
    host_port: int = 0
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Where a browser on this host finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 — all of its addresses, one of which is that
        return f"http://[{host}]:{self.host_port}" if ":" in host else f"http://{host}:{self.host_port}"

    @property
    def address(self) -> str:
        """The host's side as text, such as ``127.0.0.1:8080``."""
        return f"[{self.host}]:{self.host_port}" if ":" in self.host else f"{self.host}:{self.host_port}"


@dataclass(frozen=True, slots=True)
class PortState:
    """A published port as it is now: whether anybody listens, and how many connections are open, came, and were refused by the guest."""

    port: PublishedPort
    listening: bool
    open: int = 0
    accepted: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class VMSpec:
    """What a machine was asked to be.

    ``ttl`` is how many seconds it may run, ``idle_timeout`` how many without being used; ``auto_resume``: a paused or saved one goes on at
    the next operation. ``cpu_template`` is a static template's name or a custom one's JSON text; ``disk_limits`` hold for each disk.
    ``enable_networking`` None: a network where host and guest can have one; ``dns``: other name servers than the host's.
    The host's ports in ``publish`` are numbers once the machine has run. ``network_limits`` hold in each direction. ``balloon_mib`` is what
    a balloon takes from the guest, None: it has no balloon; ``mmds`` what its metadata service says, None: it has no such service.
    ``track_dirty_pages``: of its memory only what has changed is saved.
    ``policy`` is where it may go in its network; None: wherever the rules of every network let it (`bandsox.network.rules`).
    """

    image: str
    name: str
    vcpu: int = 1
    mem_mib: int = 128
    disk_size_mib: int = 4096
    env_vars: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    enable_networking: bool | None = None
    dns: tuple[str, ...] = ()
    kernel_path: str | None = None
    boot_args: str = ""
    debug_console: bool = False
    cpu_template: str | None = None
    disk_limits: RateLimits = UNLIMITED
    vmm: str | None = None
    confinement: ConfinementDemand = "auto"
    ttl: float | None = None
    idle_timeout: float | None = None
    on_expiry: OnExpiry = "delete"
    auto_resume: bool = False
    publish: tuple[PublishedPort, ...] = ()
    mcp: Mapping[str, Any] | None = None
    network_limits: RateLimits = UNLIMITED
    balloon_mib: int | None = None
    mmds: Mapping[str, Any] | None = None
    track_dirty_pages: bool = False
    policy: Policy | None = None

    @property
    def special(self) -> frozenset[str]:
        """What it asks for that not every hypervisor has, by the names of the options."""
        asked = {
            "cpu_template": self.cpu_template is not None,
            "network_bandwidth_mbps": self.network_limits != UNLIMITED,
            "balloon_mib": self.balloon_mib is not None,
            "mmds": self.mmds is not None,
            "track_dirty_pages": self.track_dirty_pages,
        }
        return frozenset(name for name, asked_for in asked.items() if asked_for)


@dataclass(frozen=True, slots=True)
class VMRecord:
    """A machine as the store knows it. ``status`` is what was last decided; the engine adds what is alive.

    ``pid`` and ``pid_start`` (clock ticks since boot, field 22 of ``/proc/<pid>/stat``) name the VMM's process
    beyond doubt. ``rootfs`` and ``kernel`` are artefacts shared with other machines.
    """

    id: str
    spec: VMSpec
    status: VMStatus
    created_at: float
    image_id: str
    image_config: ImageConfig
    rootfs: Path
    kernel: Path
    initramfs: Path
    vmm: str
    vmm_version: str
    accelerator: str
    accelerator_reason: str
    isolation: Isolation
    transport: Transport
    confinement: Confinement = Confinement.NONE
    confinement_reason: str = ""
    pid: int | None = None
    pid_start: int | None = None
    token: str = ""
    expires_at: float | None = None
    restored_from: str | None = None
    receipt: RestoreReceipt | None = None
    network: NetworkConfig | None = None
    network_reason: str = ""


# ── snapshots ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Shape:
    """What a VMM has to be given for a machine to fit its saved state: bytes of memory, and ports to the agent where there are such."""

    ram_bytes: int
    ports: int = 0


@dataclass(frozen=True, slots=True)
class HostCPU:
    """The host's CPU, as far as a guest that ran on it depends on it. ``flags`` are those of ``/proc/cpuinfo``."""

    architecture: str
    vendor: str
    model: str
    flags: tuple[str, ...]
    tsc_khz: int | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a snapshot: its size in bytes, and the digest of its content (`bandsox.engine.sparse.digest`)."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine's memory, devices and disk at one instant: the manifest of a snapshot.

    ``spec`` is the machine's own; ``rootfs``, ``kernel`` and ``initramfs`` are relative to the storage directory and hold the digests of
    what they name. ``frozen``: none of its programs ran while it was saved. ``parent`` is the snapshot that the machine itself was
    restored from. ``name`` and ``metadata`` are labels that can change; all else is as it was taken.
    """

    id: str
    name: str
    created_at: float
    source_vm_id: str
    spec: VMSpec
    image_id: str
    image_config: ImageConfig
    rootfs: str
    kernel: str
    initramfs: str
    vmm: str
    vmm_version: str
    accelerator: str
    isolation: Isolation
    transport: Transport
    shape: Shape
    cpu: HostCPU
    files: Mapping[str, StoredFile]
    token: str
    frozen: bool
    network: NetworkConfig | None = None
    parent: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened in a storage directory: the entry `id` of its journal, at `at` (seconds since the epoch).

    ``kind`` is ``vm.created``, ``vm.status``, ``vm.renamed``, ``vm.updated`` (metadata or published ports), ``vm.deleted``,
    ``snapshot.created``, ``snapshot.updated``, ``snapshot.deleted``, ``image.created``, ``image.named``, ``image.unnamed``,
    ``image.deleted``, or ``lost``: changes up to this one are not in the journal any more. ``subject`` is the id of what it happened to,
    ``name`` its name (of an image the reference), ``owner`` the name of the machine that it is, or is of; ``status`` is a machine's.
    """

    id: int
    at: float
    kind: str
    subject: str
    name: str
    owner: str | None = None
    status: str | None = None


Purpose = Literal["checkpoint", "memory", "template"]
"""What a snapshot is for that was not taken for itself: a place in a machine's timeline, the memory of a machine that is saved, a
template."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """What a snapshot belongs to. ``owner`` is the machine's id, or the template's key."""

    purpose: Purpose
    owner: str
    label: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in a machine's timeline that it can go back to.

    ``snapshot`` is the id of the snapshot that it is; ``after`` that of the one from which the machine had gone on when it was taken.
    """

    label: str
    created_at: float
    snapshot: str
    after: str | None = None


TEMPLATE_PREFIX = "template:"
"""What stands before a template's id where an image could be meant."""


@dataclass(frozen=True, slots=True)
class Template:
    """A machine that was set up once, to start others from. ``size`` is what it takes on this host's disk, in bytes.

    ``image`` is the reference that it was made of, ``image_id`` what that named then; ``setup`` the commands that were run. ``used_at`` is
    when a machine was last made of it, in seconds since the epoch.
    """

    id: str
    snapshot: str
    image: str
    image_id: str
    vcpu: int
    mem_mib: int
    disk_size_mib: int
    setup: tuple[str, ...]
    created_at: float
    used_at: float
    size: int


# ── results ─────────────────────────────────────────────────────────────────────────────────────


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
    """A guest's own view of its load: times in ms since boot, sizes in bytes."""

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


# ── what a copy of a machine was given ──────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RestoreStep:
    """One thing that was done to make a copy a machine of its own; `failure` says why it was not."""

    name: str
    took_ms: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class HookResult:
    """How the guest's ``/etc/bandsox/on-restore`` has ended; `output` is the beginning of what it wrote, at most 16 KiB."""

    exit_code: int
    timed_out: bool
    output: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class RestoreReceipt:
    """What was done to make a copy a machine of its own.

    `frozen`: that none of the guest's programs has run in the copy before. `machine_id`: its new one; None for a machine that went on as
    itself. `clock_step_s`: how far its clock was moved, and `clock_error_s` by how much it may still be wrong. `connections_closed`:
    operations of the source's clients that ended in the copy.
    """

    frozen: bool
    machine_id: str | None
    clock_step_s: float
    clock_error_s: float
    connections_closed: int
    steps: tuple[RestoreStep, ...]
    hook: HookResult | None = None

    @property
    def failures(self) -> tuple[RestoreStep, ...]:
        """The steps that could not be done, such as on a full disk."""
        return tuple(step for step in self.steps if step.failure is not None)
