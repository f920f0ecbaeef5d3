"""Firecracker as a VMM: start, pause, resume, save, go on, console, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from bandsox.errors import MachineStopped, Unsupported, VMMError
from bandsox.models import Confinement, Isolation, Shape, Transport
from bandsox.process import ProcessId
from bandsox.vmm import console, inotify, serial
from bandsox.vmm.base import Accelerator, Devices, Endpoint, LaunchSpec, Transports
from bandsox.vmm.confinement import Confiner
from bandsox.vmm.firecracker import configuration, output, release, saving, tracking
from bandsox.vmm.firecracker.client import DEADLINE_S, Client, send
from bandsox.vmm.firecracker.devices import FirecrackerDevices
from bandsox.vmm.firecracker.features import VersionTriple, snapshot_format
from bandsox.vmm.firecracker.requests import Action, State
from bandsox.vmm.room import Room

_KVM = Path("/dev/kvm")
_TUN = Path("/dev/net/tun")
_METRICS_LIMIT = 1 << 20

_PAUSED, _RESUMED = State(state="Paused"), State(state="Resumed")

_OWN_MIB = 512
"""Address space of Firecracker itself."""

_THREADS = 16
"""Besides one for each virtual CPU: the event loop, the API, and room for more."""


class Firecracker:
    """The Firecracker of this host, run by `confiner`; `installed` is where `bandsox init` has put it."""

    name = "firecracker"
    options = frozenset({"cpu_template", "network_bandwidth_mbps", "balloon_mib", "mmds", "track_dirty_pages"})
    devices: Devices | None = FirecrackerDevices()
    opens_taps = True
    grace_s = 15.0

    def __init__(self, installed: Path, confiner: Confiner) -> None:
        self._installed = installed
        self._confiner = confiner

    async def version(self) -> str:
        """Firecracker's version, such as ``1.12.1``.

        Raises
        ------
        MissingTool: it is not installed.
        Unsupported: its version is too old.
        """
        return (await asyncio.to_thread(release.find, "firecracker", self._installed)).version_text

    async def accelerators(self) -> tuple[Accelerator, ...]:
        """KVM, which Firecracker does nothing without.

        Raises
        ------
        Unsupported: its device cannot be opened.
        """
        if not os.access(_KVM, os.R_OK | os.W_OK):
            missing = "there is none" if not _KVM.exists() else "this user may not open it"
            raise Unsupported(f"Firecracker needs /dev/kvm, and {missing}", remedy="choose QEMU: vmm='qemu'")
        return (Accelerator("kvm", Isolation.HARDWARE, "/dev/kvm is there"),)

    def transports(self) -> Transports:
        """vsock, and for guests whose kernel has none, the serial console."""
        return Transports(("vsock", "console"))

    def endpoint(self, sockets: Path, transport: Transport) -> Endpoint:
        """The vsock socket of the machine with these sockets, or that of the relay to its console."""
        socket = configuration.VSOCK_SOCKET if transport == "vsock" else serial.SOCKET
        return Endpoint(transport, sockets / socket)

    async def revive(self, sockets: Path, directory: Path) -> None:
        """See `VMM.revive`: the relay to the console."""
        await serial.revive(sockets, directory, serial.Logs(_log(directory), _errors_log(directory)))

    async def start(self, spec: LaunchSpec) -> ProcessId:
        """Start Firecracker detached from this process, and the guest in it.

        Raises
        ------
        MissingTool, Unsupported: as `version`.
        VMMError: Firecracker refused, in its own words. Nothing of it runs any more.
        """
        return await asyncio.to_thread(self._start, spec)

    async def pause(self, sockets: Path) -> None:
        """Stop the guest's CPUs."""
        await send(f"{sockets}/{configuration.API_SOCKET}", _PAUSED)

    async def resume(self, sockets: Path) -> None:
        """Let the guest's CPUs go on."""
        await send(f"{sockets}/{configuration.API_SOCKET}", _RESUMED)

    def reads(self, written_by: str, version: str) -> bool:
        """See `VMM.reads`: snapshots have a format, which versions share; what a later one wrote an earlier one is not given."""
        writer, reader = release.parse(written_by)[:2], release.parse(version)[:2]
        format_ = snapshot_format(release.parse(version))
        if format_ is None:
            return writer == reader
        return writer <= reader and snapshot_format(release.parse(written_by)) == format_

    async def prepare(self, spec: LaunchSpec, target: Path) -> None:
        """See `VMM.prepare`."""
        if spec.track_dirty_pages:
            await asyncio.to_thread(saving.start_from_before, spec.directory, target, spec.mem_mib << 20)

    def boot_key(self, spec: LaunchSpec) -> str | None:
        """See `VMM.boot_key`; that a guest goes on with other disks has not been seen here, and Firecracker boots one in 0.1 s."""
        return None

    async def save(self, spec: LaunchSpec, target: Path) -> Shape:
        """See `VMM.save`."""
        if spec.transport != "vsock":
            raise Unsupported("a VM whose agent is reached over its console cannot be saved")
        shape = Shape(spec.mem_mib << 20)
        api = spec.sockets / configuration.API_SOCKET
        bandwidth = spec.disk_limits.bandwidth  # the room's, which holds for all that it writes
        await asyncio.to_thread(saving.save, api, spec.directory, target, shape.ram_bytes, bandwidth)
        return shape

    async def settle(self, target: Path, shape: Shape) -> None:
        """See `VMM.settle`."""
        await asyncio.to_thread(saving.settle, target, shape.ram_bytes)

    async def kept(self, spec: LaunchSpec, directory: Path) -> None:
        """See `VMM.kept`."""
        if spec.track_dirty_pages:
            await asyncio.to_thread(tracking.begin, spec.directory, directory / saving.MEMORY)

    async def metrics(self, directory: Path, sockets: Path) -> list[dict[str, Any]]:
        """Firecracker's own counters (Firecracker, ``docs/metrics.md``) since they were last read.

        Each record counts what has happened since the one before it: there is one a minute, and one of this moment. Those of the first
        minutes are kept for a reader, and later ones dropped.

        Raises
        ------
        MachineStopped: it is not running.
        """
        return await asyncio.to_thread(_metrics, directory / configuration.METRICS, sockets)

    def console(self, directory: Path) -> bytes:
        """What the guest printed on its console, as far as it is kept."""
        return output.console(_log(directory))

    def errors(self, directory: Path) -> str:
        """What Firecracker itself complained of."""
        last_words = output.read(_errors_log(directory)).decode(errors="replace").strip()
        return "\n".join(text for text in (output.messages(_log(directory)), last_words) if text)

    def _start(self, spec: LaunchSpec) -> ProcessId:
        program = release.find("firecracker", self._installed)
        _prepare(spec)
        with contextlib.ExitStack() as undo:
            log = output.create(_log(spec.directory))
            undo.callback(os.close, log)
            watch = undo.enter_context(inotify.Watch({spec.sockets: inotify.CREATE, _log(spec.directory): inotify.MODIFY}))
            wires = undo.enter_context(serial.wires(spec.sockets)) if spec.transport == "console" else None
            process = self._spawn(program.path, spec, log, wires)
            undo.push(lambda kind, error, trace: None if kind is None else _kill(process))
            _track(spec)
            if wires is not None:
                logs = serial.Logs(_log(spec.directory), _errors_log(spec.directory))
                serial.start_relay(spec.sockets, spec.directory, logs)
            self._configure(spec, process, watch, program.version)
        return process

    def _spawn(self, program: Path, spec: LaunchSpec, log: int, wires: serial.Wires | None) -> ProcessId:
        api = f"{configuration.RUN}/{configuration.API_SOCKET}"
        arguments = [str(program), "--id", spec.vm_id, "--api-sock", api, "--level", "Info", "--show-level"]
        errors = output.create(_errors_log(spec.directory))
        try:
            return self._confiner.launch(
                arguments,
                _room(spec, program),
                spec.confinement,
                input_=wires.standard_input if wires else None,
                output=wires.standard_output if wires else log,
                errors=errors,
            )
        except VMMError as error:
            raise VMMError(error.message, cause=self.errors(spec.directory)) from error
        finally:
            os.close(errors)

    def _configure(self, spec: LaunchSpec, process: ProcessId, watch: inotify.Watch, version: VersionTriple) -> None:
        """Make the machine and start its guest, once the API is there."""
        try:
            with _connect(spec.sockets / configuration.API_SOCKET, process, watch) as client:
                *prepared, last = configuration.configure(spec, version)
                client.send_all(prepared)
                client.send(last)
        except MachineStopped as error:
            _kill(process)
            raise VMMError("Firecracker ended while it was started", cause=self.errors(spec.directory) or error.cause) from error


def _links(spec: LaunchSpec) -> dict[str, Path]:
    """What the names in the machine's directory stand for, in a room or without one."""
    return {configuration.RUN: spec.sockets, **configuration.links(spec)}


def _prepare(spec: LaunchSpec) -> None:
    """Put into the machine's directory what Firecracker finds there by itself: in a room, only the place where it writes."""
    saving.prepare(spec.directory)
    for name in (saving.STATE, saving.MEMORY):
        (spec.directory / name).unlink(missing_ok=True)
    if spec.confinement is Confinement.NONE:
        for name, target in _links(spec).items():
            _link(spec.directory / name, target)


def _track(spec: LaunchSpec) -> None:
    """Begin to keep track of what the machine changes, if it is to."""
    tracking.forget(spec.directory)
    if spec.track_dirty_pages:
        tracking.begin(spec.directory, None if spec.origin is None else spec.origin.directory / saving.MEMORY)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _room(spec: LaunchSpec, program: Path) -> Room:
    """What Firecracker needs: the names in the machine's directory, what they lead to, and where it writes and has its sockets.

    A limit on file size would end it; see `bandsox.vmm.firecracker.output`.
    """
    own_disks = [disk.path for disk in spec.disks if not disk.read_only]
    return Room(
        owner=spec.vm_id,
        directory=spec.directory,
        program=program,
        data=(),
        readable=[path for path in configuration.shared(spec).values() if path not in own_disks],
        links={spec.directory / name: target for name, target in _links(spec).items()},
        writable=[spec.sockets, spec.directory / saving.PLACE, *own_disks],
        devices=[_KVM] if spec.network is None else [_KVM, _TUN],
        memory_mib=spec.mem_mib + _OWN_MIB,
        threads=spec.vcpu + _THREADS,
        resident_mib=spec.mem_mib + _OWN_MIB,
        cpus=spec.vcpu + 1,  # its own threads' work besides the guest's
        disk_limits=spec.disk_limits,
        memory_files=True,  # the queues of its vsock device are mapped twice in a row
        local_only=True,
        network=None if spec.network is None else spec.network.namespace,
        users=None if spec.network is None else spec.network.users,
        user=None if spec.network is None else spec.network.owner,
    )


def _connect(api: Path, process: ProcessId, watch: inotify.Watch) -> Client:
    """A client of a Firecracker that has just been started.

    Its socket exists a moment before it can be connected to; the messages that follow in the log tell that it can.
    """
    deadline = time.monotonic() + DEADLINE_S
    with process.handle() as pidfd:
        while pidfd is not None and watch.wait(deadline, pidfd):
            with contextlib.suppress(MachineStopped):
                return Client(api)
    if process.is_alive():
        raise VMMError(f"Firecracker did not offer its API within {DEADLINE_S:.0f} s")
    raise MachineStopped("the VMM ended")


def _kill(process: ProcessId) -> None:
    """End a VMM, and wait until it has ended with what confines it."""
    keeper = process.keeper()
    process.signal(signal.SIGKILL)
    for ending in filter(None, (process, keeper)):
        with ending.handle() as pidfd:
            if pidfd is not None:
                select.select([pidfd], [], [], DEADLINE_S)
        ending.reap()


def _metrics(fifo: Path, sockets: Path) -> list[dict[str, Any]]:
    """Have the counters written, and read them with what was written before."""
    try:
        descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:  # the place is the VMM's own, to put there what it likes
        raise MachineStopped("the VMM is not running", cause=str(error)) from error
    try:
        lines = _lines(descriptor)
        with Client(sockets / configuration.API_SOCKET) as client:
            client.send(Action(action_type="FlushMetrics"))
        lines += _lines(descriptor)
    finally:
        os.close(descriptor)
    try:
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
    except msgspec.DecodeError as error:
        raise VMMError("Firecracker's metrics cannot be read", cause=str(error)) from error


def _lines(descriptor: int) -> list[bytes]:
    """The lines that are in a FIFO now."""
    content = bytearray()
    with contextlib.suppress(BlockingIOError):
        while len(content) < _METRICS_LIMIT and (data := os.read(descriptor, 1 << 16)):
            content += data
    return bytes(content).splitlines()


def _log(directory: Path) -> Path:
    """The guest's console and Firecracker's messages."""
    return directory / console.NAME


def _errors_log(directory: Path) -> Path:
    """What Firecracker says when it fails, bounded like the console."""
    return directory / "vmm.log"
