"""The protocol every hypervisor (VMM) module fulfils.

A VMM starts as a process of its own that outlives its creator and is driven through files and sockets of the
machine's two directories, so that any process of the same user can drive it. Nothing is kept in memory: all
that is needed later stands in the `LaunchSpec` and the `VMRecord`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bandsox.models import UNLIMITED, Balloon, Confinement, Isolation, RateLimits, Shape, Transport
from bandsox.process import ProcessId


@dataclass(frozen=True, slots=True)
class Accelerator:
    """How a VMM runs guest code on this host, and why this way.

    ``proven``: it is known to work everywhere; another one has to boot a guest before it is chosen.
    """

    name: str
    isolation: Isolation
    reason: str
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """One raw disk. The guest sees disks in the order of the list: vda, vdb, …"""

    path: Path
    read_only: bool


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """A TAP device in a network namespace: its name there, and a descriptor of it or the user who may open it by that name.

    ``mac`` is the guest's hardware address; ``mtu``, in bytes, and ``gateway``, its way to the world over IPv6, are what it has before it
    knows whose it is; ``namespace`` is a descriptor too, and so is ``users``, of the user namespace that owns it
    where that is not the host's.
    """

    mac: str
    name: str
    tap: int | None
    namespace: int
    users: int | None = None
    owner: int | None = None
    mtu: int = 1500
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The snapshot that a machine goes on from: the files that `VMM.save` and `VMM.settle` have made of it, and its shape.

    ``console`` is what the machine that was saved had printed, where that is to stand in the log of one that goes on.
    """

    directory: Path
    shape: Shape
    console: bytes = b""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Everything a VMM needs to start one machine.

    ``directory`` holds what lasts (console log, memory file), ``sockets`` the machine's sockets: both exist, are
    owner-only and belong to this machine alone. ``cpu_template`` is as `bandsox.vmm.cpu_template.load` gives it. With an ``origin``
    the machine does not boot but goes on from there.
    """

    vm_id: str
    directory: Path
    sockets: Path
    vcpu: int
    mem_mib: int
    kernel: Path
    initramfs: Path
    disks: Sequence[Disk]
    boot_args: str
    accelerator: Accelerator
    confinement: Confinement
    transport: Transport
    cpu_template: str | None = None
    disk_limits: RateLimits = UNLIMITED
    network_limits: RateLimits = UNLIMITED
    debug_console: bool = False
    network: NetworkDevice | None = None
    balloon_mib: int | None = None
    mmds: Mapping[str, Any] | None = None
    track_dirty_pages: bool = False
    origin: Origin | None = None

    @property
    def console_args(self) -> tuple[str, ...]:
        """The kernel arguments that say how much of the boot is seen on the console."""
        return ("ignore_loglevel", "earlyprintk=ttyS0") if self.debug_console else ("quiet",)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the host reaches a machine's agent.

    ``virtio-serial``: `path` is the directory of the sockets of `ports` ports. ``vsock``: `cid` tells the machine's address on the host's
    own vsock; without it, `path` is Firecracker's socket for the vsock device. ``console``: it is the socket of the relay to the serial
    console (`bandsox.vmm.serial`), which speaks as that does. ``more`` adds a port where there are only as many as it is given, and
    returns how many there are then.
    """

    transport: Transport
    path: Path
    ports: int = 0
    more: Callable[[int], Awaitable[int]] | None = None
    cid: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Transports:
    """How the host may reach the agents of a VMM's machines, best first: one that the guest's kernel lacks is followed by the next.

    ``reason``: why a better one is missing.
    """

    names: tuple[Transport, ...]
    reason: str | None = None


class Devices(Protocol):
    """What can be done with devices of a running machine that not every hypervisor has."""

    async def balloon(self, sockets: Path) -> Balloon:
        """How large the balloon is to be, and is."""

    async def set_balloon(self, sockets: Path, mib: int) -> None:
        """Have the balloon take `mib` MiB from the guest, as far as it can."""

    async def set_mmds(self, sockets: Path, data: Mapping[str, Any]) -> None:
        """Have the metadata service say something else."""


class VMM(Protocol):
    """One hypervisor."""

    name: str
    options: frozenset[str]
    """Which of the options of a machine it has that not every hypervisor has (`bandsox.models.VMSpec.special`)."""
    devices: Devices | None
    """What can be done with the devices of such options; None where it has none of them."""
    opens_taps: bool
    """Whether it opens a TAP device itself, by its name and in the namespace of that, instead of inheriting it."""
    grace_s: float
    """How many seconds longer the programs of a machine stand still whose saver was killed, because its agent is not sure to tell the
    machine from a copy: more than a copy takes to be renewed. 0: it is sure."""

    async def version(self) -> str:
        """The hypervisor's version.

        Raises
        ------
        MissingTool: it is not installed.
        Unsupported: it is too old.
        """

    def transports(self) -> Transports:
        """How the host may reach the agents of its machines, as far as can be told without trying one."""

    def reads(self, written_by: str, version: str) -> bool:
        """Whether its `version` goes on from what the version `written_by` has saved."""

    def endpoint(self, sockets: Path, transport: Transport) -> Endpoint:
        """Where the agent of the machine with these sockets is reached over `transport`."""

    async def revive(self, sockets: Path, directory: Path) -> None:
        """Start again what helps a running VMM to be reached, if that is gone.

        Raises
        ------
        MachineStopped: the VMM has ended.
        """

    async def start(self, spec: LaunchSpec) -> ProcessId:
        """Start a machine, confined as `spec` says, and return its process; the guest has only begun to boot, or goes on.

        Raises
        ------
        VMMError: the hypervisor refused, in its own words.
        """

    async def pause(self, sockets: Path) -> None:
        """Stop the guest's CPUs."""

    async def resume(self, sockets: Path) -> None:
        """Let the guest's CPUs go on."""

    def boot_key(self, spec: LaunchSpec) -> str | None:
        """A digest of all that a machine's state depends on while it boots, before it looks at its disks; None: it cannot be saved then.

        Blocks.
        """

    async def prepare(self, spec: LaunchSpec, target: Path) -> None:
        """Do what can be done for saving a machine to the empty directory `target` while it still runs.

        Raises
        ------
        StorageFull: there is no room.
        """

    async def kept(self, spec: LaunchSpec, directory: Path) -> None:
        """Learn that what the machine was saved as last is kept in `directory`: the next time, what has changed since is enough."""

    async def save(self, spec: LaunchSpec, target: Path) -> Shape:
        """Have the state and the memory of a paused machine written to files of `target`, which `prepare` has seen, and return its shape.

        This is what the machine has to stay paused for; `settle` does the rest.

        Raises
        ------
        Unsupported: this VMM cannot, or not for such a machine.
        VMMError: the hypervisor refused, or wrote what cannot be. StorageFull: there is no room.
        MachineStopped: it ended meanwhile.
        """

    async def settle(self, target: Path, shape: Shape) -> None:
        """Make of what `save` has written to `target` what a machine goes on from: files that are never written to again.

        Raises
        ------
        VMMError: it is not what this hypervisor writes. StorageFull: there is no room.
        """

    def console(self, directory: Path) -> bytes:
        """What the guest printed on its console, as far as it is kept."""

    def errors(self, directory: Path) -> str:
        """What the VMM itself complained of."""

    async def accelerators(self) -> tuple[Accelerator, ...]:
        """How this VMM could run guest code on this host, best first, as far as can be told without trying.

        Raises
        ------
        Unsupported: in no way; the message says why.
        """
