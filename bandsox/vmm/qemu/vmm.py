"""QEMU as a VMM: start, pause, resume, save, go on, console."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import anyio

from bandsox.errors import MachineStopped, MissingTool, Unsupported, VMMError
from bandsox.models import UNLIMITED, Isolation, Shape, Transport
from bandsox.process import ProcessId
from bandsox.sockets import listen
from bandsox.vmm import console, serial
from bandsox.vmm.base import Accelerator, Devices, Endpoint, LaunchSpec, NetworkDevice, Transports
from bandsox.vmm.confinement import Confiner
from bandsox.vmm.host_cpu import host_cpu
from bandsox.vmm.qemu import preload, qmp, saving, vhost
from bandsox.vmm.qemu.command import (
    SERIAL_BYTES,
    START_PORTS,
    address_space_mib,
    command,
    console_log,
    monitor_socket,
    most_memory,
    port_socket,
    resident_mib,
)
from bandsox.vmm.qemu.ports import add_port, count_ports
from bandsox.vmm.room import Room
from bandsox.vmm.tsc import known_khz

_KVM = Path("/dev/kvm")
_BINARY = "qemu-system-x86_64"

_THREADS = 80
"""Besides one for each virtual CPU: the main loop and RCU, and up to 64 for disks (QEMU, util/thread-pool.c)."""


_READS_ONLY = (8, 2)
"""The first QEMU that can be told to map a file privately without opening it for writing."""


@dataclass(frozen=True, slots=True)
class _PrivateMemory:
    """Options for the memory backend, or a library to load first."""

    options: str = ""
    preload: Path | None = None


class Qemu:
    """The QEMU of this host, run by `confiner`; `facts` is a directory that lasts until the next reboot."""

    name = "qemu"
    options: frozenset[str] = frozenset()
    devices: Devices | None = None
    opens_taps = False
    grace_s = 0.0

    def __init__(self, facts: Path, confiner: Confiner) -> None:
        self._facts = facts
        self._confiner = confiner

    async def version(self) -> str:
        """QEMU's version, such as ``7.2.22``.

        Raises
        ------
        MissingTool: QEMU is not installed.
        """
        return await asyncio.to_thread(_version, _binary())

    async def accelerators(self) -> tuple[Accelerator, ...]:
        """KVM where its device can be opened, then TCG, which works everywhere."""
        emulation = Accelerator("tcg", Isolation.EMULATED, "TCG emulates the CPU in software", proven=True)
        if not os.access(_KVM, os.R_OK | os.W_OK):
            missing = "there is no /dev/kvm" if not _KVM.exists() else "this user may not open /dev/kvm"
            return (replace(emulation, reason=f"{emulation.reason}; {missing}"),)
        return Accelerator("kvm", Isolation.HARDWARE, "/dev/kvm is there"), emulation

    def transports(self) -> Transports:
        """vsock where the host's kernel has its side of it, and else, or where the guest's has not, virtio-serial."""
        missing = vhost.unavailable()
        return Transports(("virtio-serial",), f"no vsock: {missing}") if missing else Transports(("vsock", "virtio-serial"))

    def endpoint(self, sockets: Path, transport: Transport) -> Endpoint:
        """The vsock address or the virtio-serial ports of the machine with these sockets, or the relay to its console."""
        if transport == "vsock":
            return Endpoint(transport, sockets, cid=partial(vhost.cid_of, sockets))
        if transport == "console":
            return Endpoint(transport, sockets / serial.SOCKET)
        return Endpoint(transport, sockets, START_PORTS, partial(add_port, sockets))

    async def revive(self, sockets: Path, directory: Path) -> None:
        """See `VMM.revive`: the relay to the console."""
        await serial.revive(sockets, directory, _relay_logs(directory))

    async def start(self, spec: LaunchSpec) -> ProcessId:
        """Start QEMU detached from this process, with its sockets already listening.

        QEMU inherits listening sockets, so a client that connects at once is kept waiting, never refused.

        Raises
        ------
        MissingTool: QEMU is not installed.
        VMMError: QEMU refused to start, in its own words.
        """
        process = await asyncio.to_thread(self._start, spec)
        if spec.origin is not None:
            try:
                async with qmp.connect(monitor_socket(spec.sockets)) as monitor:
                    await saving.load(monitor, spec.origin.directory)
            except BaseException as error:
                await _end(process)
                if isinstance(error, MachineStopped):
                    raise VMMError("QEMU could not go on from the snapshot", cause=self.errors(spec.directory)) from error
                raise
        return process

    def reads(self, written_by: str, version: str) -> bool:
        """See `VMM.reads`: within a series such as 7.2."""
        return written_by.split(".")[:2] == version.split(".")[:2]

    def boot_key(self, spec: LaunchSpec) -> str | None:
        """See `VMM.boot_key`: of this QEMU, its command line but for what is the machine's own, and the CPU where guests see it."""
        if spec.transport == "console" or spec.debug_console:
            return None
        binary = Path(_binary()).resolve()
        anyone = replace(
            spec,
            vm_id="",
            directory=Path("/"),
            sockets=Path("/"),
            disks=[replace(disk, path=Path("/")) for disk in spec.disks],
            disk_limits=UNLIMITED,
            network=NetworkDevice("", "", None, 0) if spec.network is not None else None,
            origin=None,
        )
        count = START_PORTS if spec.transport == "virtio-serial" else 0
        arguments = command(anyone, str(binary), 0, [0] * count, known_khz(self._facts), serial="")
        status = [path.stat() for path in (binary, spec.kernel, spec.initramfs)]
        files = [f"{each.st_ino}:{each.st_size}:{each.st_mtime_ns}" for each in status]
        cpu = "" if spec.accelerator.name == "tcg" else repr(host_cpu(self._facts))
        facts = (self.name, _version(str(binary)), spec.transport, cpu, *files, *arguments)
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]

    async def prepare(self, spec: LaunchSpec, target: Path) -> None:
        """See `VMM.prepare`; there is nothing to do."""

    async def kept(self, spec: LaunchSpec, directory: Path) -> None:
        """See `VMM.kept`; it makes no difference."""

    async def save(self, spec: LaunchSpec, target: Path) -> Shape:
        """See `VMM.save`."""
        if spec.transport == "console":
            raise Unsupported("a VM whose agent is reached over its console cannot be saved")
        async with qmp.connect(monitor_socket(spec.sockets)) as monitor:
            return await saving.save(monitor, target, most_memory(spec.mem_mib), count_ports(spec.sockets))

    async def settle(self, target: Path, shape: Shape) -> None:
        """See `VMM.settle`."""
        await asyncio.to_thread(saving.settle, target, shape)

    async def pause(self, sockets: Path) -> None:
        """Stop the guest's CPUs."""
        async with qmp.connect(monitor_socket(sockets)) as monitor:
            await monitor.execute("stop")

    async def resume(self, sockets: Path) -> None:
        """Let the guest's CPUs go on."""
        async with qmp.connect(monitor_socket(sockets)) as monitor:
            await saving.go_on(monitor)

    def console(self, directory: Path) -> bytes:
        """What the guest printed on its console, as far as it is kept."""
        return console.read(console_log(directory))

    def errors(self, directory: Path) -> str:
        """What QEMU itself complained of."""
        return console.read(_errors_log(directory)).decode(errors="replace").strip()

    def _start(self, spec: LaunchSpec) -> ProcessId:
        console.create(console_log(spec.directory), b"" if spec.origin is None else spec.origin.console)
        console.create(_errors_log(spec.directory))
        with contextlib.ExitStack() as stack:
            monitor = stack.enter_context(listen(monitor_socket(spec.sockets), queue=1))
            wires = stack.enter_context(serial.wires(spec.sockets)) if spec.transport == "console" else None
            vsock = stack.enter_context(vhost.claimed(spec.sockets)) if spec.transport == "vsock" else None
            count = 0 if spec.transport != "virtio-serial" else START_PORTS if spec.origin is None else spec.origin.shape.ports
            ports = [stack.enter_context(listen(port_socket(spec.sockets, number), queue=1)).fileno() for number in range(count)]
            inherited = [monitor.fileno(), *ports, *([vsock.descriptor] if vsock else [])]
            binary = Path(_binary()).resolve()
            memory = self._private_memory(binary) if spec.origin is not None else _PrivateMemory()
            khz = known_khz(self._facts)
            serial_number = secrets.token_hex(SERIAL_BYTES)
            arguments = command(
                spec, str(binary), monitor.fileno(), ports, khz, serial=serial_number, vsock=vsock, private_memory=memory.options
            )
            inherited += [spec.network.tap] if spec.network is not None and spec.network.tap is not None else []
            log = stack.enter_context(_errors_log(spec.directory).open("ab")).fileno()
            try:
                process = self._confiner.launch(
                    arguments,
                    _room(spec, binary, memory.preload),
                    spec.confinement,
                    input_=wires.standard_input if wires else None,
                    output=wires.standard_output if wires else log,
                    errors=log,
                    inherited=inherited,
                )
            except VMMError as error:
                raise VMMError(error.message, cause=self.errors(spec.directory)) from error
            if wires:
                serial.start_relay(spec.sockets, spec.directory, _relay_logs(spec.directory))
            return process

    def _private_memory(self, binary: Path) -> _PrivateMemory:
        """How this QEMU maps a memory file that it may only read."""
        if tuple(map(int, _version(str(binary)).split(".")[:2])) >= _READS_ONLY:
            return _PrivateMemory(options=",readonly=on,rom=off")
        return _PrivateMemory(preload=preload.library(self._facts))


async def _end(process: ProcessId) -> None:
    with anyio.CancelScope(shield=True):
        process.signal(signal.SIGKILL)
        await process.wait()


def _relay_logs(directory: Path) -> serial.Logs:
    return serial.Logs(console_log(directory), _errors_log(directory), console.FILE_SIZE_LIMIT)


def _room(spec: LaunchSpec, binary: Path, library: Path | None) -> Room:
    """What QEMU needs: the machine's artefacts and logs. Its sockets it inherits, and the state that it goes on from it is given."""
    memory = [] if spec.origin is None else [spec.origin.directory / saving.RAM]
    return Room(
        owner=spec.vm_id,
        directory=spec.directory,
        program=binary,
        data=_data(binary),
        readable=[*memory, spec.kernel, spec.initramfs, *(disk.path for disk in spec.disks if disk.read_only)],
        writable=[console_log(spec.directory), *(disk.path for disk in spec.disks if not disk.read_only)],
        devices=[_KVM] if spec.accelerator.name == "kvm" else [],
        memory_mib=address_space_mib(spec),
        threads=spec.vcpu + _THREADS,
        resident_mib=resident_mib(spec),
        cpus=spec.vcpu + 1,  # its own threads' work besides the guest's
        disk_limits=spec.disk_limits,
        largest_file=console.FILE_SIZE_LIMIT,
        preload=library,
        huge_pages=spec.origin is None,  # clones are many, and mostly wait
    )


def _data(binary: Path) -> Sequence[Path]:
    """The firmware of the microvm machine, and the module with the emulator where QEMU's package has made it one."""
    prefix = binary.parent.parent
    places = ("share/qemu/pvh.bin", "share/qemu/bios-microvm.bin", "lib*/qemu/accel-tcg-x86_64.so", "lib/*/qemu/accel-tcg-x86_64.so")
    return [found for place in places for found in sorted(prefix.glob(place))]


def _errors_log(directory: Path) -> Path:
    """What QEMU prints, bounded like the console: a guest may provoke it."""
    return directory / "vmm.log"


def _binary() -> str:
    found = shutil.which(_BINARY)
    if found is None:
        raise MissingTool(f"{_BINARY} is not installed", remedy="apt-get install qemu-system-x86")
    return found


@cache
def _version(binary: str) -> str:
    printed = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+\.\d+(?:\.\d+)*)", printed)
    if found is None:
        raise VMMError(f"{binary} does not say its version", cause=printed.strip())
    return found[1]
