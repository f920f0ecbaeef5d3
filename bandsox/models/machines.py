"""Machines: what they were asked to be, what they are, and what a copy was given to be one of its own."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from bandsox.models.images import ImageConfig
from bandsox.models.networks import NetworkConfig, Policy, PublishedPort
from bandsox.models.secret import SecretUse


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


class Deadlines(TypedDict, total=False):
    """What can be changed of how long a machine may run, as in `VMSpec`; what is not there stays as it is."""

    ttl: float | None
    idle_timeout: float | None
    on_expiry: OnExpiry
    auto_resume: bool


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
    ``cni`` is the CNI network that it is attached to, None: none.
    ``secrets`` are what its programs use and do not have, by the variables that hold their placeholders; the values are elsewhere
    (`bandsox.network.vault`).
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
    cni: str | None = None
    secrets: Mapping[str, SecretUse] = field(default_factory=dict)

    @property
    def filtered(self) -> bool:
        """Whether its network has a filter from its start, so that what it does there is written down."""
        return self.policy is not None or bool(self.secrets)

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
