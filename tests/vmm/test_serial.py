"""The serial console as the only way to the agent: a real machine without vsock and virtio-serial, through the real relay."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bandsox.engine import boot, ownership
from bandsox.engine.engine import Engine
from bandsox.errors import BandSoxError, MachineStopped
from bandsox.guest import GuestClient
from bandsox.models import Confinement
from bandsox.process import ProcessId
from bandsox.vmm.base import VMM, Disk, LaunchSpec

pytestmark = pytest.mark.anyio

_EVERY_BYTE = bytes(range(256))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Machine:
    """A machine with nothing but a serial console, and a client of its agent."""

    vmm: VMM
    spec: LaunchSpec
    process: ProcessId
    client: GuestClient = field(init=False)

    def __post_init__(self) -> None:
        endpoint = self.vmm.endpoint(self.spec.sockets, self.spec.transport)
        self.client = boot.guest_client(endpoint, bytes(32), self.revive)

    async def revive(self) -> None:
        await self.vmm.revive(self.spec.sockets, self.spec.directory)

    def relays(self) -> list[ProcessId]:
        """Whatever works in the machine's directory beside its VMM."""
        parent, name = self.spec.directory.parent, self.spec.directory.name
        return [process for owner, process in ownership.processes_in(parent) if owner == name and process != self.process]

    async def run(self, command: str) -> bytes:
        done = await self.client.run(shell=command)
        assert done.exit_code == 0, done
        return bytes(done.stdout)


@pytest.fixture(scope="module")
async def machine(storage: Path) -> AsyncIterator[Machine]:
    engine = Engine(storage)
    files = engine.kernels.boot_files()
    image = await engine.images.resolve("python:3-alpine", pull="missing")
    vmm = engine.vmms["qemu"]
    (emulated,) = [accelerator for accelerator in await vmm.accelerators() if accelerator.proven]
    with tempfile.TemporaryDirectory(dir=engine.layout.temporary) as work, tempfile.TemporaryDirectory(dir=engine.layout.runtime) as run:
        spec = LaunchSpec(
            vm_id="serial",
            directory=Path(work),
            sockets=Path(run),
            vcpu=1,
            mem_mib=256,
            kernel=files.kernel,
            initramfs=files.initramfs,
            disks=(Disk(image.rootfs, read_only=True),),
            boot_args="bandsox.root=vda bandsox.overlay=tmpfs bandsox.transport=console",
            accelerator=emulated,
            transport="console",
            confinement=Confinement.NONE,
        )
        async with boot.started(vmm, spec) as booting:
            await boot.first_answer(vmm, spec, booting, lambda client: client.setup(hostname="serial"), bytes(32), 120.0)
            yield Machine(vmm, spec, booting.process)
            await ownership.end(booting.process)
    engine.close()


async def test_the_machine_says_what_it_uses(machine: Machine) -> None:
    assert (await machine.client.info()).transport == "console"


async def test_many_operations_at_once(machine: Machine) -> None:
    answers = await asyncio.gather(*(machine.run(f"echo {number}") for number in range(12)))
    assert answers == [f"{number}\n".encode() for number in range(12)]


async def test_bytes_of_every_value_both_ways(machine: Machine) -> None:
    content = _EVERY_BYTE * 4096
    await machine.client.write_bytes(b"/root/bytes", content[: 256 << 10], timeout=250.0)
    assert await machine.run("for i in 1 2 3 4; do cat /root/bytes; done >/root/more; wc -c </root/more") == b"1048576\n"
    assert await machine.client.read_bytes(b"/root/more", timeout=250.0) == content


async def test_transfers_survive_floods_of_messages(machine: Machine) -> None:
    content = os.urandom(64 << 10)
    flood = "i=0; while [ $i -lt 1000 ]; do echo '<1>kernel message '$i >/dev/kmsg; echo 'prügram '$i >/dev/console; i=$((i+1)); done"
    session = asyncio.create_task(machine.client.run(shell=f"dmesg -n 8 2>/dev/null; {flood}", timeout=200.0))
    await machine.client.write_bytes(b"/root/flooded", content, timeout=200.0)
    assert await machine.client.read_bytes(b"/root/flooded", timeout=200.0) == content
    assert (await session).exit_code == 0
    printed = machine.vmm.console(machine.spec.directory)
    assert "prügram 999".encode() in printed
    assert b"kernel message 999" in printed
    assert b"\x1e" not in printed


async def test_a_relay_that_is_killed_is_started_again(machine: Machine) -> None:
    (relay,) = machine.relays()
    reading = asyncio.create_task(machine.client.run(shell="cat /dev/zero", timeout=200.0))
    await machine.run("true")
    relay.signal(signal.SIGKILL)
    with pytest.raises(BandSoxError):
        await reading
    await relay.wait()
    answers = await asyncio.gather(*(machine.run("echo again") for _ in range(3)))
    assert answers == [b"again\n"] * 3
    (successor,) = machine.relays()
    assert successor != relay
    assert (await machine.run("pgrep cat || echo none")) == b"none\n"  # what the lost connection had started


async def test_the_relay_ends_with_its_machine(machine: Machine) -> None:
    (relay,) = machine.relays()
    await ownership.end(machine.process)
    await relay.wait()
    with pytest.raises(MachineStopped):
        await machine.client.ping()
