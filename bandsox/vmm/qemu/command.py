"""QEMU's command line for one machine.

Machine type: QEMU, docs/system/i386/microvm.rst. Only what is used is there: two disks, one virtio-serial
controller or a vsock device, an entropy source, a serial console, a network device where there is a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bandsox.models import RateLimits
from bandsox.vmm import console
from bandsox.vmm.base import LaunchSpec
from bandsox.vmm.qemu.migration_stream import RAM_BLOCK
from bandsox.vmm.qemu.saving import RAM
from bandsox.vmm.qemu.vhost import Vsock

START_PORTS = 4
"""Connections to the agent that can be open at once when a machine starts."""

MAX_PORTS = 31
"""How many there can be when more are needed (`bandsox.vmm.qemu.ports`), in a guest with enough memory for them."""

_PORT_MIB = 4
"""What a port costs in the guest: its kernel fills the receive queue, which has 1024 entries on virtio-mmio, with pages
(QEMU, hw/virtio/virtio-mmio.c; Linux, drivers/char/virtio_console.c). One more such queue carries control messages, and the queues of
ports that are not there yet take as much together. The guest gets the memory for what is there at the start on top of
what was asked for."""

_TRANSLATION_CACHE_MIB = 256
"""Bound on translated code under TCG. The default is 1 GiB for every machine; at 64 MiB the cache is emptied so often that booting
takes twice as long."""

_OWN_MIB = 2048
"""Address space of QEMU itself: libraries, heap, and 8 MiB for the stack of each thread."""

_OWN_RESIDENT_MIB = 512
"""Memory of QEMU itself, and the cache of its disks' files that it cannot do without."""

SERIAL_BYTES = 10
"""Half as many as the characters of a virtio disk's serial number (virtio 1.2, 5.2.6). Each start of a machine draws another one, by which
the agent tells a copy from the machine that was copied."""

_BOOT_ARGS = ("console=ttyS0", "pci=off", "panic=-1", "reboot=t", "audit=0", "random.trust_cpu=on")

_FASTER_BOOT_ARGS = ("cryptomgr.notests", "rcupdate.rcu_expedited=1")
"""No self-tests of the kernel's ciphers, and no waiting for quiet moments that a fresh kernel has anyway: a quarter of the boot."""

_EMULATION_ARGS = ("tsc=reliable", "no_timer_check", "mitigations=off", "nopti", "norandmaps")
"""An emulated CPU's clock needs no watching, and it does not speculate, so there is nothing to mitigate. QEMU
finds what it has translated by its address too: a program that starts at other addresses each time is translated anew, which for `true`
takes three times as long as running it. A VM's own arguments come later: ``sysctl.kernel.randomize_va_space=2`` takes that back."""

_EMULATED_CPU = "max,-erms"
"""All that QEMU can emulate, but no promise that byte-wise string instructions are fast (``erms``): they are emulated a byte at a time,
and a guest that believes the promise copies and clears memory with nothing else."""

_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def port_socket(sockets: Path, number: int) -> Path:
    """The Unix socket of the agent's port `number`."""
    return sockets / f"port{number}.sock"


def monitor_socket(sockets: Path) -> Path:
    """The Unix socket of the QEMU monitor (QMP)."""
    return sockets / "qmp.sock"


def console_log(directory: Path) -> Path:
    """The log of the machine's console."""
    return directory / console.NAME


def command(
    spec: LaunchSpec,
    binary: str,
    monitor_fd: int,
    port_fds: Sequence[int],
    tsc_khz: int | None,
    *,
    serial: str,
    vsock: Vsock | None = None,
    private_memory: str = "",
) -> list[str]:
    """The whole command line.

    Parameters
    ----------
    monitor_fd, port_fds: listening sockets that the process inherits.
    serial: the disks' serial number, another one for each start.
    vsock: the machine's end of its vsock, whose descriptor the process inherits.
    private_memory: options of this QEMU for a memory file that it may only read.
    """
    emulated = spec.accelerator.name == "tcg"
    accelerator = f"tcg,tb-size={_TRANSLATION_CACHE_MIB}" if emulated else spec.accelerator.name
    arguments = [
        binary,
        *("-name", f"bandsox-{spec.vm_id},process=bandsox-{spec.vm_id}"),
        *_machine(spec, private_memory),
        *("-accel", accelerator),
        *("-cpu", _EMULATED_CPU if emulated else "host"),
        *("-smp", str(spec.vcpu)),
        *("-m", f"{_guest_bytes(spec) >> 20}M"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-sandbox", _SANDBOX),
        *("-kernel", str(spec.kernel), "-initrd", str(spec.initramfs), "-append", boot_args(spec, tsc_khz)),
        *("-chardev", _console(spec), "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={monitor_fd},server=on,wait=off", "-mon", "chardev=monitor,mode=control"),
        *("-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-device,rng=entropy"),
    ]
    if port_fds:
        arguments += ["-device", f"virtio-serial-device,max_ports={MAX_PORTS + 1}"]
    for number, descriptor in enumerate(port_fds):
        arguments += ["-chardev", f"socket,id=port{number},fd={descriptor},server=on,wait=off"]
        arguments += ["-device", f"virtserialport,chardev=port{number},name=org.bandsox.{number},nr={number + 1}"]
    if vsock is not None:
        arguments += ["-device", f"vhost-vsock-device,guest-cid={vsock.cid},vhostfd={vsock.descriptor}"]
    for number, disk in enumerate(spec.disks):
        read_only = "on" if disk.read_only else "off"
        cache = "cache.direct=off,cache.no-flush=off,discard=unmap,detect-zeroes=unmap"
        errors = "rerror=report,werror=report"  # left to itself QEMU stops the guest where the host is full
        options = f"id=disk{number},if=none,format=raw,read-only={read_only},{errors},{cache}{_throttling(spec.disk_limits)}"
        arguments += ["-drive", f"{options},file={_escape(disk.path)}"]
        arguments += ["-device", f"virtio-blk-device,drive=disk{number},serial={serial}"]
    if spec.network is not None:
        arguments += ["-netdev", f"tap,id=net0,fd={spec.network.tap}"]
        arguments += ["-device", f"virtio-net-device,netdev=net0,mac={spec.network.mac}"]
    return arguments


def _throttling(limits: RateLimits) -> str:
    """QEMU's options for the limits on a disk (QEMU, docs/throttle.txt)."""
    rates = {"bps-total": limits.bandwidth, "iops-total": limits.operations}
    return "".join(f",throttling.{option}={rate}" for option, rate in rates.items() if rate is not None)


def _console(spec: LaunchSpec) -> str:
    """Where the console goes: into its log, or through QEMU's own input and output to the relay."""
    if spec.transport == "console":
        return "stdio,id=console,signal=off"
    return f"file,id=console,path={_escape(console_log(spec.directory))},append=on"


def address_space_mib(spec: LaunchSpec) -> int:
    """The most that the process has a use for."""
    return (_guest_bytes(spec) >> 20) + _TRANSLATION_CACHE_MIB + _OWN_MIB


def resident_mib(spec: LaunchSpec) -> int:
    """The most memory that the process uses at once: the guest's, with every port that can be added, translated code, and its own."""
    return (most_memory(spec.mem_mib) >> 20) + _TRANSLATION_CACHE_MIB + _OWN_RESIDENT_MIB


def _guest_bytes(spec: LaunchSpec) -> int:
    """The guest's memory: what was asked for, and what the ports take that are there at the start; or what it had in its snapshot."""
    if spec.origin is not None:
        return spec.origin.shape.ram_bytes
    ports = _PORT_MIB * (START_PORTS + 2) if spec.transport == "virtio-serial" else 0
    return (spec.mem_mib + ports) << 20


def most_memory(mem_mib: int) -> int:
    """The bytes that no machine's memory exceeds for which `mem_mib` was asked."""
    return (mem_mib + _PORT_MIB * (MAX_PORTS + 2)) << 20


def _machine(spec: LaunchSpec, private_memory: str) -> list[str]:
    """The machine type, and where its memory is if not in QEMU's own: a file that it sees but never changes."""
    machine = "microvm,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=on"
    if spec.origin is None:
        return ["-M", machine]
    file = f"mem-path={_escape(spec.origin.directory / RAM)}"
    backend = f"memory-backend-file,id={RAM_BLOCK},size={spec.origin.shape.ram_bytes},share=off{private_memory},{file}"
    return ["-object", backend, "-M", f"{machine},memory-backend={RAM_BLOCK}", "-incoming", "defer"]


def most_ports(guest_mib: int) -> int:
    """How many ports a guest with so much memory gets at most: those that are added take less than a quarter of it."""
    return min(MAX_PORTS, START_PORTS + guest_mib // (5 * _PORT_MIB))


def boot_args(spec: LaunchSpec, tsc_khz: int | None) -> str:
    """The kernel's command line."""
    words = [*_BOOT_ARGS, *_FASTER_BOOT_ARGS, *spec.console_args]
    if spec.accelerator.name == "tcg":
        words += _EMULATION_ARGS
        if tsc_khz is not None:
            words += [f"tsc_early_khz={tsc_khz}", f"lpj={tsc_khz * 4}"]
    return " ".join([*words, spec.boot_args]).strip()


def _escape(path: Path) -> str:
    """A path inside a QEMU option, where a comma is written twice."""
    return str(path).replace(",", ",,")
