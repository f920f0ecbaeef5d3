"""Saving a machine of the real Firecracker, and going on from what was saved; the guests are a few bytes long, and run on every KVM."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bandsox.engine import ownership
from bandsox.errors import MachineStopped, StorageFull, Unsupported, VMMError
from bandsox.models import Shape
from bandsox.vmm.base import LaunchSpec, Origin
from bandsox.vmm.confinement import Confiner
from bandsox.vmm.firecracker import Firecracker, saving
from bandsox.vmm.firecracker.client import Client
from bandsox.vmm.firecracker.requests import Request
from tests.vmm.firecracker.conftest import MakeSpec
from tests.vmm.firecracker.test_vmm import printed, processes, started, state

pytestmark = pytest.mark.anyio

LINE = b"0123456789abcde\n"
SHAPE = Shape(64 << 20)


async def saved(firecracker: Firecracker, machine: LaunchSpec, target: Path) -> Origin:
    """A machine that runs, saved to the new directory `target`; it is paused meanwhile."""
    target.mkdir()
    await firecracker.prepare(machine, target)
    await firecracker.pause(machine.sockets)
    shape = await firecracker.save(machine, target)
    await firecracker.resume(machine.sockets)
    await firecracker.settle(target, shape)
    for file in target.iterdir():
        file.chmod(0o444)
    return Origin(target, shape)


async def test_a_saved_machine_goes_on_and_so_do_its_copies(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    machine = spec("print", text=LINE)
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, 1000)
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
        assert origin.shape == SHAPE
        assert state(machine) == "Running"
        assert [path.name for path in (machine.directory / saving.PLACE).iterdir()] == ["metrics"]
        copies = [spec(origin=origin) for _ in range(4)]
        running = await asyncio.gather(*(firecracker.start(copy) for copy in copies))
        shutil.rmtree(origin.directory)  # nothing needs it once they run
        try:
            for copy, its in zip(copies, running, strict=True):
                assert state(copy) == "Running"
                text = await printed(firecracker, copy, its, 1000)
                assert LINE in text
                assert set(text) <= set(LINE)
                assert (copy.sockets / "vsock.sock").is_socket()
        finally:
            for its in running:
                await ownership.end(its)
        assert state(machine) == "Running"


async def test_a_copy_can_be_saved_again(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    machine = spec("print", text=LINE)
    async with started(firecracker, machine):
        origin = await saved(firecracker, machine, tmp_path / "first")
    child = spec(origin=origin)
    async with started(firecracker, child):
        second = await saved(firecracker, child, tmp_path / "second")
    grandchild = spec(origin=second)
    async with started(firecracker, grandchild) as process:
        assert LINE in await printed(firecracker, grandchild, process, 1000)


async def test_the_memory_is_what_the_guest_has_without_its_zero_pages(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    machine = spec()
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, 21)
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
        memory = origin.directory / saving.MEMORY
        assert sorted(file.name for file in origin.directory.iterdir()) == ["memory", "state"]
        assert memory.stat().st_size == SHAPE.ram_bytes
        assert memory.stat().st_blocks * 512 < 1 << 20
        program = machine.kernel.read_bytes()[0x1000:]
        with memory.open("rb") as content:
            content.seek(0x100000)
            assert content.read(len(program)) == program
        kept = {file.stat().st_ino for file in origin.directory.iterdir()}
        opened = Path(f"/proc/{process.pid}/fd")
        assert not kept & {descriptor.stat().st_ino for descriptor in opened.iterdir()}, "the machine has files that its copies map"


async def test_a_copy_maps_the_memory_and_cannot_write_to_it(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    machine = spec()
    async with started(firecracker, machine):
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
    copy = spec(origin=origin)
    async with started(firecracker, copy) as process:
        memory = (origin.directory / saving.MEMORY).stat()
        maps = [line.split() for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()]
        mapped = [words[1] for words in maps if int(words[4]) == memory.st_ino]
        assert mapped
        assert all(mode.endswith("p") for mode in mapped)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for machines, but not for their memory."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


async def test_without_room_it_is_said_and_the_machine_goes_on(full: Path, firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec()
    (full / "snapshot").mkdir()
    async with started(firecracker, machine):
        await firecracker.pause(machine.sockets)
        with pytest.raises(StorageFull):
            await firecracker.save(machine, full / "snapshot")
        await firecracker.resume(machine.sockets)
        assert state(machine) == "Running"
        assert [path.name for path in (machine.directory / saving.PLACE).iterdir()] == ["metrics"]


def test_without_room_for_the_copy_it_is_said(full: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (full / "memory.raw").symlink_to("nowhere")
    (full / "state.raw").write_bytes(os.urandom(6 << 20))
    with pytest.raises(StorageFull):
        saving.settle(full, SHAPE.ram_bytes)


async def test_a_machine_that_is_killed_while_it_is_saved(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    machine = spec()
    async with started(firecracker, machine) as process:
        await firecracker.pause(machine.sockets)
        process.signal(signal.SIGSTOP)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def save() -> None:
                    with pytest.raises(MachineStopped):
                        await firecracker.save(machine, tmp_path)

                tasks.start_soon(save)
                process.signal(signal.SIGKILL)


@pytest.mark.parametrize("name", ["state", "memory"])
@pytest.mark.parametrize("kind", ["a link", "a pipe", "a directory", "too small", "too large", "nothing"])
def test_what_is_no_snapshot_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """A VMM that was taken over may leave anything."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(SHAPE.ram_bytes))
    for other, size in {"state": 100, "memory": SHAPE.ram_bytes}.items():
        (tmp_path / f"{other}.raw").touch()
        os.truncate(tmp_path / f"{other}.raw", size)
    raw = tmp_path / f"{name}.raw"
    raw.unlink()
    if kind == "a link":
        raw.symlink_to(secret)
    elif kind == "a pipe":
        os.mkfifo(raw)
    elif kind == "a directory":
        raw.mkdir()
    elif kind != "nothing":
        raw.touch()
        os.truncate(raw, 0 if kind == "too small" else SHAPE.ram_bytes + saving.STATE_LIMIT)
    with pytest.raises(VMMError, match="not a snapshot"):
        saving.settle(tmp_path, SHAPE.ram_bytes)


def test_a_copy_has_the_same_content_and_as_few_blocks_as_it_can(tmp_path: Path) -> None:
    noise = os.urandom(40_000)
    with (tmp_path / "memory.raw").open("wb") as memory:
        memory.truncate(SHAPE.ram_bytes)
        for place in (0, 1_000_000, 1 << 24, SHAPE.ram_bytes - len(noise)):
            memory.seek(place)
            memory.write(noise)
        memory.seek(8 << 20)
        memory.write(bytes(4 << 20))
    (tmp_path / "state.raw").write_bytes(b"state")
    expected = (tmp_path / "memory.raw").read_bytes()
    saving.settle(tmp_path, SHAPE.ram_bytes)
    assert (tmp_path / "memory").read_bytes() == expected
    assert (tmp_path / "memory").stat().st_blocks * 512 < 1 << 19
    assert (tmp_path / "state").read_bytes() == b"state"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory", "state"]


@pytest.mark.parametrize("name", ["state", "memory"])
async def test_what_cannot_be_gone_on_from_is_said_in_firecrackers_words(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, name: str
) -> None:
    machine = spec()
    async with started(firecracker, machine):
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
    (origin.directory / name).unlink()
    if name == "state":
        (origin.directory / name).write_bytes(os.urandom(5000))
    copy = spec(origin=origin)
    with pytest.raises(VMMError, match="/snapshot/load"):
        await firecracker.start(copy)
    assert processes(copy.directory) == []


async def test_a_firecracker_that_is_killed_before_it_goes_on(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = spec()
    async with started(firecracker, machine):
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
    copy = spec(origin=origin)
    send_all = Client.send_all

    def killing(client: Client, requests: Sequence[Request]) -> None:
        for process in processes(copy.directory):
            process.signal(signal.SIGKILL)
        send_all(client, requests)

    monkeypatch.setattr(Client, "send_all", killing)
    with pytest.raises(VMMError, match="ended while it was started"):
        await firecracker.start(copy)
    assert processes(copy.directory) == []


async def test_a_machine_that_boots_after_it_went_on_finds_nothing_of_its_past(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path
) -> None:
    machine = spec()
    async with started(firecracker, machine):
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
    copy = spec(origin=origin)
    async with started(firecracker, copy) as process:
        assert Path(f"/proc/{process.pid}/root/{copy.directory}/{saving.MEMORY}").is_symlink()
    for socket in copy.sockets.iterdir():
        socket.unlink()
    async with started(firecracker, replace(copy, origin=None)) as process:
        assert await printed(firecracker, copy, process, 21) == b"hello from the guest\n"
        assert not Path(f"/proc/{process.pid}/root/{copy.directory}/{saving.MEMORY}").is_symlink()


async def test_a_machine_on_its_console_cannot_be_saved(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="console"):
        await firecracker.save(spec(transport="console"), tmp_path)


@pytest.mark.parametrize(
    ("written_by", "version", "expected"),
    [
        ("1.12.0", "1.12.1", True),
        ("1.12.1", "1.12.0", True),
        ("1.13.0", "1.14.2", True),
        ("1.14.2", "1.13.0", False),
        ("1.12.1", "1.13.0", False),
        ("1.10.0", "1.10.1", False),
        ("1.16.0", "1.99.0", False),
        ("1.99.0", "1.99.1", True),
    ],
)
def test_what_a_version_reads(confiner: Confiner, tmp_path: Path, written_by: str, version: str, expected: bool) -> None:
    assert Firecracker(tmp_path, confiner).reads(written_by, version) is expected
