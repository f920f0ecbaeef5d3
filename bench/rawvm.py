"""The floor: the same hypervisor, kernel, initramfs and disks, driven without the library.

The machine has one port more than the library gives it, which the agent leaves alone, so that a plain `dd` in the guest can be
timed over the same kind of channel.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.engine import disks, sparse
from bandsox.errors import Unsupported
from bandsox.guest import GuestClient, PortLink, frames
from bandsox.models import Confinement, VMRecord
from bandsox.process import ProcessId
from bandsox.sockets import listen
from bandsox.vmm import console
from bandsox.vmm.base import Accelerator, Disk, LaunchSpec, Origin
from bandsox.vmm.qemu import preload, qmp, saving
from bandsox.vmm.qemu.command import MAX_PORTS, START_PORTS, command, console_log, monitor_socket, port_socket

RAW_PORT = "org.bench.raw"


@dataclass(frozen=True)
class RawDevice:
    """A TAP device, by its name in the network namespace that a command leads into; with the guest's hardware address."""

    within: tuple[str, ...]
    name: str
    mac: str


@dataclass
class RawVM:
    """A machine that the library knows nothing of."""

    sockets: Path
    process: ProcessId

    @property
    def client(self) -> GuestClient:
        return self.client_with(bytes(32))

    def client_with(self, token: bytes) -> GuestClient:
        """A client of an agent that was set up."""
        return GuestClient(PortLink(self.sockets, START_PORTS), token)

    def connect_raw(self) -> socket.socket:
        """The host's end of the port that belongs to no agent."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.sockets / "raw.sock"))
        return connection

    async def first_byte(self, token: bytes = bytes(32)) -> None:
        """Return when the agent has answered anything at all."""
        reader, writer = await asyncio.open_unix_connection(str(port_socket(self.sockets, 0)))
        writer.write(frames.hello(secrets.token_bytes(16), token))
        await writer.drain()
        await reader.readexactly(1)
        writer.close()


@asynccontextmanager
async def raw_vm(
    bandsox: AsyncBandSox, like: VMRecord, origin: Origin | None = None, device: RawDevice | None = None
) -> AsyncIterator[RawVM]:
    """Start a machine with the artefacts of the machine `like`, which is reached over ports too.

    It has only begun to boot, or goes on from `origin`.
    """
    if like.transport != "virtio-serial":
        raise Unsupported("this floor is measured over virtio-serial ports", remedy="set BANDSOX_TRANSPORT=virtio-serial")
    with tempfile.TemporaryDirectory(dir=bandsox.engine.layout.temporary) as work:
        directory, sockets = Path(work), bandsox.engine.layout.runtime / f"raw-{secrets.token_hex(4)}"
        sockets.mkdir(mode=0o700)
        if origin is None:
            disks.create(bandsox.engine.layout, like.spec.disk_size_mib, directory / "disk.img")
        else:
            sparse.copy(origin.directory / "disk.img", directory / "disk.img")
        console.create(console_log(directory))
        ports = START_PORTS if origin is None else origin.shape.ports
        listeners = [listen(sockets / "qmp.sock", queue=1), *(listen(port_socket(sockets, number), queue=1) for number in range(ports))]
        raw = listen(sockets / "raw.sock", queue=1)
        spec = LaunchSpec(
            vm_id="raw",
            directory=directory,
            sockets=sockets,
            vcpu=like.spec.vcpu,
            mem_mib=like.spec.mem_mib,
            kernel=like.kernel,
            initramfs=like.initramfs,
            disks=(Disk(like.rootfs, True), Disk(directory / "disk.img", False)),
            boot_args="bandsox.root=vda bandsox.overlay=vdb bandsox.transport=virtio-serial" + (" bandsox.network" if device else ""),
            accelerator=Accelerator(like.accelerator, like.isolation, ""),
            confinement=Confinement.NONE,
            transport="virtio-serial",
            origin=origin,
        )
        descriptors = [listener.fileno() for listener in listeners]
        khz = int((bandsox.engine.layout.runtime / "tsc-khz").read_text())
        binary = shutil.which("qemu-system-x86_64") or ""
        arguments = command(spec, binary, descriptors[0], descriptors[1:], khz, serial="")
        if device is not None:
            arguments = [*device.within, *arguments, "-netdev", f"tap,id=net0,ifname={device.name},script=no,downscript=no"]
            arguments += ["-device", f"virtio-net-device,netdev=net0,mac={device.mac}"]
        environment = dict(os.environ)
        if origin is None:  # what goes on has the devices that were saved
            arguments += ["-chardev", f"socket,id=raw,fd={raw.fileno()},server=on,wait=off"]
            arguments += ["-device", f"virtserialport,chardev=raw,name={RAW_PORT},nr={MAX_PORTS}"]
        else:
            environment["LD_PRELOAD"] = str(preload.library(bandsox.engine.layout.runtime))
        child = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[*descriptors, raw.fileno()],
            cwd=directory,
            env=environment,
            start_new_session=True,  # as the library does: a session has its own share of the processors (sched(7), "autogroup")
        )
        for listener in (*listeners, raw):
            listener.close()
        process = ProcessId.of(child.pid)
        assert process is not None
        try:
            if origin is not None:
                async with qmp.connect(monitor_socket(sockets)) as monitor:
                    await saving.load(monitor, origin.directory)
            yield RawVM(sockets, process)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            await child.wait()
            shutil.rmtree(sockets)
