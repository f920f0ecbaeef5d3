"""A QEMU that cannot write all of its machine, wherever its stream breaks off: the machine goes on as soon as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.settings import Layout
from bandsox.vmm.confinement import Confiner
from bandsox.vmm.qemu import Qemu, qmp
from bandsox.vmm.qemu.command import monitor_socket

_CHUNK = 1 << 20
_PIPE = 64 << 10
_STEP = 4 << 10
_END = 160 << 10
"""More than the devices' state takes, which comes last, and the pipe: while QEMU writes that state it is neither as before nor done."""


@pytest.fixture(scope="module")
def machine(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=128, vmm="qemu", enable_networking=False) as made:
        yield made


async def _written(sockets: Path, limit: int | None) -> int:
    """Stop a machine, have it written to a pipe that is closed after `limit` bytes, and return how many came."""
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE)
    received = 0
    with contextlib.closing(os.fdopen(reading, "rb", buffering=0)) as pipe:
        async with qmp.connect(monitor_socket(sockets)) as monitor:
            await monitor.execute("stop")
            await monitor.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 60})
            await monitor.execute("getfd", fdname="test", descriptor=writing)
            os.close(writing)
            await monitor.execute("migrate", uri="fd:test")
        while limit is None or received < limit:
            chunk = await asyncio.to_thread(pipe.read, _CHUNK if limit is None else min(_CHUNK, limit - received))
            if not chunk:
                break
            received += len(chunk)
    return received


async def _break_off(qemu: Qemu, sockets: Path) -> None:
    whole = await _written(sockets, None)
    await qemu.resume(sockets)
    for missing in range(0, _END, _STEP):
        await _written(sockets, whole - missing)
        await qemu.resume(sockets)
        async with qmp.connect(monitor_socket(sockets)) as monitor:
            assert (await monitor.execute("query-status"))["status"] == "running", missing


def test_a_machine_goes_on_wherever_its_stream_broke_off(bandsox: BandSox, machine: MicroVM) -> None:
    layout = Layout.open(bandsox.storage_dir)
    qemu = Qemu(layout.runtime, Confiner(layout.programs, layout.runtime))
    asyncio.run(_break_off(qemu, layout.sockets(machine.vm_id)))
    assert machine.run(["echo", "still there"]).stdout == b"still there\n"
