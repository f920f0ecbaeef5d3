"""The bodies of Firecracker's API, one class for each resource that is written (Firecracker, ``swagger/firecracker.yaml``).

A field that is left at its default is not sent, so a request is understood by every version that knows the fields which were given.
`bandsox.vmm.firecracker.features` says which version knows which. Paths are relative to the working directory of the VMM.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

Method = Literal["GET", "PUT", "PATCH"]
StaticTemplate = Literal["C3", "T2", "T2S", "T2CL", "T2A", "V1N1"]
LogLevel = Literal["Off", "Error", "Warning", "Info", "Debug", "Trace"]


class Body(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A part of a request."""


class Request(Body, frozen=True):
    """A request: what it is put to, and its body."""

    method: ClassVar[Method] = "PUT"
    resource: ClassVar[str] = ""

    @property
    def path(self) -> str:
        """The resource that is written."""
        return self.resource

    def encoded(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self)


# ── rate limiters ───────────────────────────────────────────────────────────────────────────────


class TokenBucket(Body, frozen=True):
    """`size` tokens (bytes or operations), refilled within `refill_time` ms; `one_time_burst` more at first."""

    size: int
    refill_time: int
    one_time_burst: int | None = None


class RateLimiter(Body, frozen=True):
    """Limits on bytes and on operations; None: none. In an update, a bucket of size 0 takes the limit away."""

    bandwidth: TokenBucket | None = None
    ops: TokenBucket | None = None


# ── the machine ─────────────────────────────────────────────────────────────────────────────────


class MachineConfig(Request, frozen=True):
    """CPUs (1 to 32) and memory."""

    resource = "/machine-config"

    vcpu_count: int
    mem_size_mib: int
    smt: bool = False
    cpu_template: StaticTemplate | None = None
    track_dirty_pages: bool = False
    huge_pages: Literal["None", "2M"] | None = None


class CpuConfig(Request, frozen=True):
    """A custom CPU template (Firecracker, ``docs/cpu_templates``), of the user's making."""

    resource = "/cpu-config"

    cpuid_modifiers: list[Any] | None = None
    msr_modifiers: list[Any] | None = None
    reg_modifiers: list[Any] | None = None
    vcpu_features: list[Any] | None = None
    kvm_capabilities: list[str] | None = None


class BootSource(Request, frozen=True):
    """An ELF kernel, its initramfs and its arguments."""

    resource = "/boot-source"

    kernel_image_path: str
    initrd_path: str | None = None
    boot_args: str | None = None


class Action(Request, frozen=True):
    """Something that happens once."""

    resource = "/actions"

    action_type: Literal["InstanceStart", "FlushMetrics", "SendCtrlAltDel"]


class State(Request, frozen=True):
    """Whether the CPUs run."""

    method = "PATCH"
    resource = "/vm"

    state: Literal["Paused", "Resumed"]


# ── devices ─────────────────────────────────────────────────────────────────────────────────────


class Drive(Request, frozen=True):
    """A raw disk. The guest sees disks in the order in which they were added."""

    drive_id: str
    path_on_host: str
    is_root_device: bool
    is_read_only: bool
    cache_type: Literal["Unsafe", "Writeback"] | None = None
    io_engine: Literal["Sync", "Async"] | None = None
    rate_limiter: RateLimiter | None = None

    @property
    def path(self) -> str:
        """See `Request.path`."""
        return f"/drives/{self.drive_id}"


class DriveUpdate(Request, frozen=True):
    """Another file behind a disk, or other limits, while the guest runs."""

    method = "PATCH"

    drive_id: str
    path_on_host: str | None = None
    rate_limiter: RateLimiter | None = None

    @property
    def path(self) -> str:
        """See `Request.path`."""
        return f"/drives/{self.drive_id}"


class NetworkInterface(Request, frozen=True):
    """A network card on a TAP device of the host; the limits are seen from the guest."""

    iface_id: str
    host_dev_name: str
    guest_mac: str | None = None
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None

    @property
    def path(self) -> str:
        """See `Request.path`."""
        return f"/network-interfaces/{self.iface_id}"


class NetworkInterfaceUpdate(Request, frozen=True):
    """Other limits for a network card, while the guest runs."""

    method = "PATCH"

    iface_id: str
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None

    @property
    def path(self) -> str:
        """See `Request.path`."""
        return f"/network-interfaces/{self.iface_id}"


class Vsock(Request, frozen=True):
    """A vsock device. The host connects to `uds_path`, the guest to a socket there whose name ends in its port."""

    resource = "/vsock"

    guest_cid: int
    uds_path: str


class Entropy(Request, frozen=True):
    """A source of random numbers."""

    resource = "/entropy"

    rate_limiter: RateLimiter | None = None


class Balloon(Request, frozen=True):
    """A balloon, which takes memory from the guest; statistics only with an interval."""

    resource = "/balloon"

    amount_mib: int
    deflate_on_oom: bool
    stats_polling_interval_s: int = 0


class BalloonUpdate(Request, frozen=True):
    """Another size of the balloon, while the guest runs."""

    method = "PATCH"
    resource = "/balloon"

    amount_mib: int


class BalloonStatisticsUpdate(Request, frozen=True):
    """Another interval of the balloon's statistics, which had one from the beginning."""

    method = "PATCH"
    resource = "/balloon/statistics"

    stats_polling_interval_s: int


class MmdsConfig(Request, frozen=True):
    """The metadata service, for the cards that are named. Version 2 asks for a token, which a confused program does not have."""

    resource = "/mmds/config"

    network_interfaces: list[str]
    version: Literal["V1", "V2"] = "V1"
    ipv4_address: str | None = None


class MmdsContents(Request, frozen=True):
    """What the metadata service says, in the place of what it said before: any JSON object."""

    resource = "/mmds"

    contents: dict[str, Any]

    def encoded(self) -> bytes:
        """See `Request.encoded`."""
        return msgspec.json.encode(self.contents)


# ── what the VMM says of itself ─────────────────────────────────────────────────────────────────


class Logger(Request, frozen=True):
    """Where messages go, and which of them; without a path to standard output."""

    resource = "/logger"

    level: LogLevel | None = None
    log_path: str | None = None
    show_level: bool | None = None
    show_log_origin: bool | None = None
    module: str | None = None


class Metrics(Request, frozen=True):
    """Where the counters go, as one line of JSON a minute and whenever they are asked for."""

    resource = "/metrics"

    metrics_path: str


# ── snapshots ───────────────────────────────────────────────────────────────────────────────────


class SnapshotCreate(Request, frozen=True):
    """Write a paused machine's state and memory to files."""

    resource = "/snapshot/create"

    snapshot_path: str
    mem_file_path: str
    snapshot_type: Literal["Full", "Diff"] = "Full"


class MemoryBackend(Body, frozen=True):
    """The memory of a snapshot, which is mapped from a file."""

    backend_type: Literal["File"]
    backend_path: str


class NetworkOverride(Body, frozen=True):
    """Another TAP device for a card of a snapshot."""

    iface_id: str
    host_dev_name: str


class VsockOverride(Body, frozen=True):
    """Another socket for the vsock device of a snapshot."""

    uds_path: str


class SnapshotLoad(Request, frozen=True):
    """Make this VMM, which has no machine yet, the machine of a snapshot.

    ``enable_diff_snapshots`` became ``track_dirty_pages`` with Firecracker 1.13.
    """

    resource = "/snapshot/load"

    snapshot_path: str
    mem_backend: MemoryBackend
    resume_vm: bool = False
    enable_diff_snapshots: bool = False
    track_dirty_pages: bool = False
    network_overrides: list[NetworkOverride] = []
    vsock_override: VsockOverride | None = None
    clock_realtime: bool = False


# ── questions ───────────────────────────────────────────────────────────────────────────────────


class InstanceInfo(msgspec.Struct, frozen=True):
    """The answer to ``GET /``."""

    id: str
    state: Literal["Not started", "Running", "Paused"]
    vmm_version: str
    app_name: str


class Version(msgspec.Struct, frozen=True):
    """The answer to ``GET /version``."""

    firecracker_version: str


class BalloonStatistics(msgspec.Struct, frozen=True):
    """The answer to ``GET /balloon/statistics``: sizes in MiB, and what the guest says, in bytes."""

    target_mib: int
    actual_mib: int
    swap_in: int | None = None
    swap_out: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    free_memory: int | None = None
    total_memory: int | None = None
    available_memory: int | None = None
    disk_caches: int | None = None


class Fault(msgspec.Struct, frozen=True):
    """The answer to a request that was refused."""

    fault_message: str
