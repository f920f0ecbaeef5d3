"""The hypervisor as the engine sees it: start, pause, resume, console, errors, counters, and its end at every stage."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from bandsox.engine import boot, ownership
from bandsox.errors import BootFailed, MachineStopped, MissingTool, VMMError
from bandsox.guest import UnixDoorbell
from bandsox.models import Confinement
from bandsox.process import ProcessId
from bandsox.vmm import console, follow
from bandsox.vmm.base import Disk, LaunchSpec
from bandsox.vmm.confinement import Confiner
from bandsox.vmm.firecracker import Firecracker, configuration, output
from bandsox.vmm.firecracker.client import Client
from bandsox.vmm.firecracker.requests import InstanceInfo
from tests.vmm.firecracker.conftest import MakeSpec

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def started(firecracker: Firecracker, spec: LaunchSpec) -> AsyncIterator[ProcessId]:
    """A machine for the time of the block."""
    process = await firecracker.start(spec)
    try:
        yield process
    finally:
        await ownership.end(process)


async def printed(firecracker: Firecracker, spec: LaunchSpec, process: ProcessId, length: int) -> bytes:
    """The console once it has at least `length` bytes, or the machine has ended."""
    text = b""
    pieces = follow.follow(spec.directory / console.NAME, lambda: firecracker.console(spec.directory), process)
    with anyio.fail_after(30):
        async for piece in pieces:
            text += piece
            if len(text) >= length:
                break
    await pieces.aclose()
    return text


def state(spec: LaunchSpec) -> str:
    with Client(spec.sockets / configuration.API_SOCKET) as client:
        return client.get("/", InstanceInfo).state


def processes(directory: Path) -> list[ProcessId]:
    return [process for name, process in ownership.processes_in(directory.parent) if name == directory.name]


async def test_a_guest_runs_and_its_console_is_kept(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec(text=b"first line\nsecond line\n")
    async with started(firecracker, machine) as process:
        assert await printed(firecracker, machine, process, 23) == b"first line\nsecond line\n"
        assert firecracker.errors(machine.directory) == ""
    assert firecracker.console(machine.directory) == b"first line\nsecond line\n"


async def test_pause_and_resume(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec()
    async with started(firecracker, machine):
        await firecracker.pause(machine.sockets)
        assert state(machine) == "Paused"
        await firecracker.resume(machine.sockets)
        assert state(machine) == "Running"


async def test_a_guest_that_resets_itself_ends_the_process(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec("reset")
    process = await firecracker.start(machine)
    with anyio.fail_after(30):
        await process.wait()
    with pytest.raises(MachineStopped):
        await firecracker.pause(machine.sockets)
    with pytest.raises(MachineStopped):
        await firecracker.metrics(machine.directory, machine.sockets)


async def test_a_console_flood_is_cut_and_the_machine_goes_on(
    firecracker: Firecracker, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "CAPACITY", 4096)
    machine = spec("print", text=b"0123456789abcde\n")
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, 3000)
        errors = 0
        with anyio.fail_after(30):
            while errors < 100:  # each turn asks the machine, which writes on meanwhile
                errors += sum(
                    record["uart"]["error_count"] + record["uart"]["missed_write_count"]
                    for record in await firecracker.metrics(machine.directory, machine.sockets)
                )
        kept = firecracker.console(machine.directory)
        assert 3000 <= len(kept) <= 4096
        assert kept.startswith(b"0123456789abcde\n" * 100)
        await firecracker.pause(machine.sockets)
        assert state(machine) == "Paused"
    assert (machine.directory / console.NAME).stat().st_blocks * 512 <= 8192


async def test_counters_are_read_and_do_not_pile_up(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec(text=b"x" * 100)
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, 100)
        first = await firecracker.metrics(machine.directory, machine.sockets)
        assert sum(record["uart"]["write_count"] for record in first) == 100
        second = await firecracker.metrics(machine.directory, machine.sockets)
        assert [record["uart"]["write_count"] for record in second] == [0]


async def test_everything_is_named_relative_to_the_machines_directory(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)  # longer than the name of a Unix socket may be
    deep.mkdir(parents=True)
    (deep / "disk.img").write_bytes(bytes(1 << 20))
    machine = spec()
    machine = replace(machine, directory=deep, disks=(machine.disks[0], Disk(deep / "disk.img", read_only=False)))
    async with started(firecracker, machine) as process:
        assert Path(f"/proc/{process.pid}/cwd").readlink() == deep
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert [word for word in arguments[1:] if word.startswith(b"/")] == []
        seen = Path(f"/proc/{process.pid}/root/{deep}")
        assert (seen / "disk0").readlink() == machine.disks[0].path
        assert not (seen / "disk1").exists()
        assert (deep / "disk0").is_symlink() is (machine.confinement is Confinement.NONE)
        assert (machine.sockets / configuration.VSOCK_SOCKET).is_socket()


async def test_many_machines_at_once(firecracker: Firecracker, spec: MakeSpec) -> None:
    machines = [spec(text=b"machine %d\n" % number) for number in range(8)]
    starts = await asyncio.gather(*(firecracker.start(machine) for machine in machines), return_exceptions=True)
    running = [process for process in starts if isinstance(process, ProcessId)]
    try:
        assert len(running) == len(machines), starts
        for number, (machine, process) in enumerate(zip(machines, running, strict=True)):
            expected = b"machine %d\n" % number
            assert await printed(firecracker, machine, process, len(expected)) == expected
    finally:
        for process in running:
            await ownership.end(process)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": "noise"}, "kernel"),
        ({"cpu_template": '{"msr_modifiers": [{"addr": "zero", "bitmap": "0b1"}]}'}, "number system prefix"),
        ({"vcpu": 33}, "vCPU|vcpu"),
        ({"boot_args": "x" * 5000}, "command line|cmdline"),
    ],
)
async def test_what_is_refused_is_said_in_firecrackers_words_and_leaves_no_process(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    if "kernel" in changes:
        changes["kernel"] = tmp_path / "noise"
        (tmp_path / "noise").write_bytes(os.urandom(8192))
    machine = spec(**changes)
    with pytest.raises(VMMError, match=words) as refused:
        await firecracker.start(machine)
    assert refused.value.detail["fault_message"]
    assert processes(machine.directory) == []


async def test_a_missing_disk_is_refused(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec()
    (machine.directory / "disk.img").unlink()
    with pytest.raises(VMMError, match=r"disk\.img"):
        await firecracker.start(machine)
    assert processes(machine.directory) == []


@pytest.mark.parametrize(("step", "path"), [("_take", "/machine-config"), ("_take", "/drives/disk1"), ("send", "/actions")])
async def test_a_firecracker_that_is_killed_while_it_is_configured(
    firecracker: Firecracker, spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, step: str, path: str
) -> None:
    machine = spec()
    original = getattr(Client, step)

    def killing(client: Client, *arguments: Any) -> Any:
        if path in {arguments[0], *arguments[1:2]} or getattr(arguments[0], "path", None) == path:
            for process in processes(machine.directory):
                process.signal(signal.SIGKILL)
        return original(client, *arguments)

    monkeypatch.setattr(Client, step, killing)
    with pytest.raises(VMMError, match="ended while it was started"):
        await firecracker.start(machine)
    assert processes(machine.directory) == []


async def test_a_firecracker_that_ends_at_once(firecracker: Firecracker, spec: MakeSpec) -> None:
    with pytest.raises(VMMError, match="ended while it was started") as raised:
        await firecracker.start(spec(vm_id="not/an/id"))
    assert "Invalid instance ID" in (raised.value.cause or "")


async def test_a_firecracker_that_is_killed_while_its_guest_boots(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec()
    with pytest.raises(BootFailed, match="stopped while it came up"):
        async with boot.started(firecracker, machine) as booting:
            booting.process.signal(signal.SIGKILL)
            await boot.first_answer(firecracker, machine, booting, lambda client: client.ping(timeout=20), bytes(32), 20)
    assert processes(machine.directory) == []


async def test_a_guest_that_never_rings_is_given_up_at_the_deadline(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec()
    with pytest.raises(BootFailed, match="did not come up") as raised:
        async with boot.started(firecracker, machine) as booting:
            await printed(firecracker, machine, booting.process, 21)
            await boot.first_answer(firecracker, machine, booting, lambda client: client.ping(timeout=20), bytes(32), 0.1)
    assert raised.value.stage == "kernel"
    assert "hello from the guest" in raised.value.console
    assert processes(machine.directory) == []


async def test_who_stops_waiting_for_a_start_leaves_no_process(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec()

    async def start() -> None:
        async with boot.started(firecracker, machine):
            pytest.fail("it was cancelled before")

    task = asyncio.create_task(start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes(machine.directory) == []


async def test_the_doorbell_is_rung_by_a_connection(tmp_path: Path) -> None:
    with UnixDoorbell(tmp_path / "vsock.sock") as doorbell:
        _, writer = await asyncio.open_unix_connection(tmp_path / "vsock.sock_1025")
        with anyio.fail_after(10):
            await doorbell.rung()
        writer.close()
    assert list(tmp_path.iterdir()) == []


async def test_without_the_program_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BANDSOX_FIRECRACKER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="bandsox init"):
        await Firecracker(tmp_path, Confiner(tmp_path, tmp_path)).version()


async def test_firecrackers_own_messages_are_told_from_the_guests(tmp_path: Path) -> None:
    descriptor = output.create(tmp_path / "log")
    os.write(descriptor, b"2026-11-22T01:06:11.698481645 [vm-1:main:INFO] Running Firecracker v1.12.1\nhel")
    os.write(descriptor, b"2026-11-22T01:06:11.7 [vm-1:fc_vcpu 0:ERROR] something broke\nlo\n")
    os.close(descriptor)
    assert output.console(tmp_path / "log") == b"hello\n"
    assert output.messages(tmp_path / "log") == "something broke"


async def test_a_log_is_empty_then_full_and_never_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "CAPACITY", 4096)
    descriptor = output.create(tmp_path / "log")
    assert output.read(tmp_path / "log") == b""
    written = 0
    with pytest.raises(OSError, match=r"too large|Invalid argument"):
        while True:
            written += os.write(descriptor, b"0123456789")
    os.close(descriptor)
    kept = output.read(tmp_path / "log")
    assert len(kept) == written
    assert kept.startswith(b"01234567890123456789")
    assert output.read(tmp_path / "none") == b""
