"""The requests that make one machine, or have it go on from a snapshot, in the order in which Firecracker wants them.

Everything is named relative to the machine's directory, where links lead to what lies elsewhere. So machines never collide, a snapshot
can move, and a VMM that is locked into a directory of its own finds everything under the same names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

from bandsox.decoding import ready
from bandsox.models import RateLimits
from bandsox.vmm import cpu_template
from bandsox.vmm.base import LaunchSpec
from bandsox.vmm.firecracker import requests, saving
from bandsox.vmm.firecracker.features import Feature, VersionTriple
from bandsox.vmm.firecracker.requests import RateLimiter, Request, StaticTemplate, TokenBucket

RUN = "run"
"""The link to the directory of the machine's sockets, which has a short path."""

API_SOCKET = "firecracker.sock"
VSOCK_SOCKET = "vsock.sock"
KERNEL = "vmlinux"
INITRAMFS = "initramfs"
METRICS = f"{saving.PLACE}/{saving.METRICS}"

NETWORK = "eth0"
"""What the network device is called here. The TAP device behind it has the same name in each machine's namespace, so a machine that goes
on finds it as its source did."""

GUEST_CID = 3
"""The guest's address on its own vsock device: the first that is not reserved. No two machines share a device."""

_BOOT_ARGS = ("console=ttyS0", "8250.nr_uarts=1", "reboot=k", "panic=-1", "pci=off", "audit=0", "random.trust_cpu=on")
_FASTER_BOOT_ARGS = (
    *("i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd"),
    *("cryptomgr.notests", "rcupdate.rcu_expedited=1", "swiotlb=noforce"),
)
"""As Firecracker's test of its boot time has them (``tests/integration_tests/performance/test_boottime.py``), with two differences: the
one serial port stays, because what it says explains a machine that does not come up, and so do modules."""

_REFILL_MS = 1000

_BALLOON_INTERVAL_S = 1
"""How often the guest is asked for what the balloon's statistics say."""


def links(spec: LaunchSpec) -> dict[str, Path]:
    """What the names in the machine's directory stand for, besides `RUN`."""
    return {name: path for name, path in shared(spec).items() if path != spec.directory / name}


def shared(spec: LaunchSpec) -> dict[str, Path]:
    """The files of this host that the machine needs, by the names that it knows them by."""
    disks = {_disk_name(spec, number): disk.path for number, disk in enumerate(spec.disks)}
    if spec.origin is not None:
        return {name: spec.origin.directory / name for name in (saving.STATE, saving.MEMORY)} | disks
    return {KERNEL: spec.kernel, INITRAMFS: spec.initramfs} | disks


def configure(spec: LaunchSpec, version: VersionTriple) -> Iterator[Request]:
    """The requests up to where the guest runs, for this version of Firecracker."""
    yield requests.Logger(level="Warning", show_level=True)
    yield requests.Metrics(metrics_path=METRICS)
    yield from _boot(spec) if spec.origin is None else _go_on(spec, version)


def _go_on(spec: LaunchSpec, version: VersionTriple) -> Iterator[Request]:
    """The devices are as in the snapshot, and so are their names: each stands in this machine's directory for what is this machine's.

    What the metadata service says is in no snapshot.
    """
    memory = requests.MemoryBackend(backend_type="File", backend_path=saving.MEMORY)
    renamed = Feature.TRACK_DIRTY_PAGES_ON_LOAD.available(version)
    yield requests.SnapshotLoad(
        snapshot_path=saving.STATE,
        mem_backend=memory,
        track_dirty_pages=spec.track_dirty_pages and renamed,
        enable_diff_snapshots=spec.track_dirty_pages and not renamed,
    )
    if spec.mmds is not None:
        yield requests.MmdsContents(contents=dict(spec.mmds))
    yield requests.State(state="Resumed")


def _boot(spec: LaunchSpec) -> Iterator[Request]:
    static: StaticTemplate | None = None
    if spec.cpu_template in cpu_template.STATIC:
        static = cast(StaticTemplate, spec.cpu_template)
    elif spec.cpu_template is not None:
        yield msgspec.json.decode(spec.cpu_template, type=ready(requests.CpuConfig))
    yield requests.MachineConfig(
        vcpu_count=spec.vcpu, mem_size_mib=spec.mem_mib, cpu_template=static, track_dirty_pages=spec.track_dirty_pages
    )
    yield requests.BootSource(kernel_image_path=KERNEL, initrd_path=INITRAMFS, boot_args=boot_args(spec))
    for number, disk in enumerate(spec.disks):
        yield requests.Drive(
            drive_id=_drive_id(number),
            path_on_host=_disk_name(spec, number),
            is_root_device=False,
            is_read_only=disk.read_only,
            cache_type=None if disk.read_only else "Writeback",
            rate_limiter=rate_limiter(spec.disk_limits),
        )
    if spec.network is not None:
        limiter = rate_limiter(spec.network_limits)
        yield requests.NetworkInterface(
            iface_id=NETWORK,
            host_dev_name=spec.network.name,
            guest_mac=spec.network.mac,
            rx_rate_limiter=limiter,
            tx_rate_limiter=limiter,
        )
        if spec.mmds is not None:
            yield requests.MmdsConfig(network_interfaces=[NETWORK], version="V2")
            yield requests.MmdsContents(contents=dict(spec.mmds))
    if spec.balloon_mib is not None:
        yield requests.Balloon(amount_mib=spec.balloon_mib, deflate_on_oom=True, stats_polling_interval_s=_BALLOON_INTERVAL_S)
    if spec.transport == "vsock":
        yield requests.Vsock(guest_cid=GUEST_CID, uds_path=f"{RUN}/{VSOCK_SOCKET}")
    yield requests.Entropy()
    yield requests.Action(action_type="InstanceStart")


def boot_args(spec: LaunchSpec) -> str:
    """The kernel's command line."""
    return " ".join([*_BOOT_ARGS, *_FASTER_BOOT_ARGS, *spec.console_args, spec.boot_args]).strip()


def rate_limiter(limits: RateLimits) -> RateLimiter | None:
    """Buckets that hold what one second allows."""
    if limits.bandwidth is None and limits.operations is None:
        return None
    return RateLimiter(bandwidth=_bucket(limits.bandwidth), ops=_bucket(limits.operations))


def _bucket(rate: int | None) -> TokenBucket | None:
    return None if rate is None else TokenBucket(size=rate, refill_time=_REFILL_MS)


def _drive_id(number: int) -> str:
    return f"disk{number}"


def _disk_name(spec: LaunchSpec, number: int) -> str:
    """A disk of the machine's own under its own name; another by a link."""
    path = spec.disks[number].path
    return path.name if path.parent == spec.directory else _drive_id(number)
