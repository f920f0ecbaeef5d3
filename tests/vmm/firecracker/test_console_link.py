"""A Firecracker whose console is the line to the agent: what it prints, its relay, and the end of both."""

from __future__ import annotations

import signal

import pytest

from bandsox.engine import ownership
from bandsox.errors import MachineStopped
from bandsox.guest import VsockLink
from bandsox.guest.link import Lane
from bandsox.process import ProcessId
from bandsox.vmm.base import LaunchSpec
from bandsox.vmm.firecracker import Firecracker
from tests.vmm.firecracker.conftest import MakeSpec
from tests.vmm.firecracker.test_vmm import printed, processes, started

pytestmark = pytest.mark.anyio


def relay_of(spec: LaunchSpec, process: ProcessId) -> ProcessId:
    (relay,) = (other for other in processes(spec.directory) if other not in {process, process.keeper()})
    return relay


async def test_what_the_guest_prints_is_kept(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec(text=b"first line\nsecond line\n", transport="console")
    async with started(firecracker, machine) as process:
        assert await printed(firecracker, machine, process, 23) == b"first line\nsecond line\n"
        assert firecracker.errors(machine.directory) == ""
        assert (machine.sockets / "console.sock").stat().st_mode & 0o777 == 0o600
        assert not (machine.sockets / "vsock.sock").exists()


async def test_a_relay_that_is_killed_is_started_again(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec("print", text=b"0123456789abcde\n", transport="console")
    link = VsockLink(
        firecracker.endpoint(machine.sockets, "console").path, revive=lambda: firecracker.revive(machine.sockets, machine.directory)
    )
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, 1000)
        first = relay_of(machine, process)
        await firecracker.revive(machine.sockets, machine.directory)
        assert relay_of(machine, process) == first  # it was there
        await ownership.end(first)
        before = len(firecracker.console(machine.directory))
        (await link.open(Lane.SHORT, None)).release(clean=False)
        assert relay_of(machine, process) != first
        await printed(firecracker, machine, process, before + 1000)


async def test_the_relay_ends_with_the_machine(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec(transport="console")
    async with started(firecracker, machine) as process:
        relay = relay_of(machine, process)
        process.signal(signal.SIGKILL)
        await process.wait()
        await relay.wait()
        with pytest.raises(MachineStopped):
            await firecracker.revive(machine.sockets, machine.directory)
