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
from bandsox.engine import disks
from bandsox.errors import Unsupported
from bandsox.guest import GuestClient, PortLink, frames
from bandsox.models import Confinement, VMRecord
from bandsox.process import ProcessId
from bandsox.vmm import console
from bandsox.vmm.base import Accelerator, Disk, LaunchSpec
from bandsox.vmm.qemu.command import MAX_PORTS, START_PORTS, command, console_log, port_socket

RAW_PORT = "org.bench.raw"


@dataclass
class RawVM:
    """A machine that the library knows nothing of."""

    sockets: Path
    process: ProcessId

    @property
    def client(self) -> GuestClient:
        return GuestClient(PortLink(self.sockets, START_PORTS), bytes(32))

    def connect_raw(self) -> socket.socket:
        """The host's end of the port that belongs to no agent."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.sockets / "raw.sock"))
        return connection

    async def first_byte(self) -> None:
        """Return when the agent has answered anything at all."""
        reader, writer = await asyncio.open_unix_connection(str(port_socket(self.sockets, 0)))
        writer.write(frames.hello(secrets.token_bytes(16), bytes(32)))
        await writer.drain()
        await reader.readexactly(1)
        writer.close()


@asynccontextmanager
async def raw_vm(bandsox: AsyncBandSox, like: VMRecord) -> AsyncIterator[RawVM]:
    """Start a machine with the artefacts of the machine `like`, which is reached over ports too; it has only begun to boot."""
    if like.transport != "virtio-serial":
        raise Unsupported("this floor is measured over virtio-serial ports", remedy="set BANDSOX_TRANSPORT=virtio-serial")
    with tempfile.TemporaryDirectory(dir=bandsox.engine.layout.temporary) as work:
        directory, sockets = Path(work), bandsox.engine.layout.runtime / f"raw-{secrets.token_hex(4)}"
        sockets.mkdir(mode=0o700)
        disks.create(bandsox.engine.layout, like.spec.disk_size_mib, directory / "disk.img")
        console.create(console_log(directory))
        listeners = [_listen(sockets / "qmp.sock"), *(_listen(port_socket(sockets, number)) for number in range(START_PORTS))]
        raw = _listen(sockets / "raw.sock")
        spec = LaunchSpec(
            vm_id="raw",
            directory=directory,
            sockets=sockets,
            vcpu=like.spec.vcpu,
            mem_mib=like.spec.mem_mib,
            kernel=like.kernel,
            initramfs=like.initramfs,
            disks=(Disk(like.rootfs, True), Disk(directory / "disk.img", False)),
            boot_args="bandsox.root=vda bandsox.overlay=vdb bandsox.transport=virtio-serial",
            accelerator=Accelerator(like.accelerator, like.isolation, ""),
            confinement=Confinement.NONE,
            transport="virtio-serial",
        )
        descriptors = [listener.fileno() for listener in listeners]
        khz = int((bandsox.engine.layout.runtime / "tsc-khz").read_text())
        binary = shutil.which("qemu-system-x86_64") or ""
        arguments = command(spec, binary, descriptors[0], descriptors[1:], khz)
        arguments += ["-chardev", f"socket,id=raw,fd={raw.fileno()},server=on,wait=off"]
        arguments += ["-device", f"virtserialport,chardev=raw,name={RAW_PORT},nr={MAX_PORTS}"]
        child = await asyncio.create_subprocess_exec(
            *arguments, stdin=asyncio.subprocess.DEVNULL, pass_fds=[*descriptors, raw.fileno()], cwd=directory
        )
        for listener in (*listeners, raw):
            listener.close()
        process = ProcessId.of(child.pid)
        assert process is not None
        try:
            yield RawVM(sockets, process)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            await child.wait()
            shutil.rmtree(sockets)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener
