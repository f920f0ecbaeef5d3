"""Saving only what has changed: what comes of it is what all of the memory would have been."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bandsox.engine import sparse
from bandsox.vmm.base import LaunchSpec, Origin
from bandsox.vmm.firecracker import Firecracker, saving, tracking
from bandsox.vmm.firecracker.client import Client
from bandsox.vmm.firecracker.requests import Request, SnapshotCreate
from tests.vmm.firecracker.conftest import MakeSpec
from tests.vmm.firecracker.test_saving import LINE
from tests.vmm.firecracker.test_vmm import printed, started, state

pytestmark = pytest.mark.anyio


class Kinds(list[str]):
    """What kinds of snapshots Firecracker was asked for."""


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Kinds:
    seen, send = Kinds(), Client.send

    def noting(client: Client, request: Request, deadline_s: float = 10) -> None:
        if isinstance(request, SnapshotCreate):
            seen.append(request.snapshot_type)
        send(client, request, deadline_s)

    monkeypatch.setattr(Client, "send", noting)
    return seen


async def save(firecracker: Firecracker, machine: LaunchSpec, target: Path, *, kept: bool = True) -> Origin:
    """A machine saved twice at one instant: as it is done, and then all of its memory. Both are the same."""
    for directory in (target, target.with_suffix(".whole")):
        directory.mkdir()
    await firecracker.prepare(machine, target)
    await firecracker.pause(machine.sockets)
    shape = await firecracker.save(machine, target)
    whole = await firecracker.save(machine, target.with_suffix(".whole"))
    await firecracker.settle(target, shape)
    await firecracker.settle(target.with_suffix(".whole"), whole)
    assert _content(target) == _content(target.with_suffix(".whole"))
    if kept:
        await firecracker.kept(machine, target)
    await firecracker.resume(machine.sockets)
    return Origin(target, shape)


def _content(directory: Path) -> str:
    return hashlib.sha256((directory / saving.MEMORY).read_bytes()).hexdigest()


async def let_it_run(firecracker: Firecracker, machine: LaunchSpec) -> None:
    """Until the guest has had a good many turns; the counters are written by the thread that its CPU has to share."""
    for _ in range(3):
        await firecracker.metrics(machine.directory, machine.sockets)


async def test_changes_since_boot_and_since_each_snapshot_make_the_whole(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, kinds: Kinds
) -> None:
    machine = spec("scribble", text=LINE, track_dirty_pages=True)
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, len(LINE))
        contents = set()
        for number in range(3):
            await let_it_run(firecracker, machine)
            origin = await save(firecracker, machine, tmp_path / f"snapshot{number}")
            contents.add(_content(origin.directory))
        assert kinds == ["Diff", "Full"] * 3
        assert len(contents) == 3
    copy = spec(origin=origin, track_dirty_pages=True)
    kinds.clear()
    async with started(firecracker, copy):
        await let_it_run(firecracker, copy)
        again = await save(firecracker, copy, tmp_path / "of-the-copy")
        assert _content(again.directory) not in contents
        assert kinds == ["Diff", "Full"]
    grandchild = spec(origin=again)
    async with started(firecracker, grandchild):
        assert state(grandchild) == "Running"


async def test_what_is_written_while_it_stands_still_is_what_has_changed(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, kinds: Kinds
) -> None:
    machine = spec(text=LINE, track_dirty_pages=True)  # it prints, and halts: nothing changes any more
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, len(LINE))
        for number in range(2):
            target = tmp_path / f"snapshot{number}"
            target.mkdir()
            await firecracker.prepare(machine, target)
            await firecracker.pause(machine.sockets)
            shape = await firecracker.save(machine, target)
            await firecracker.resume(machine.sockets)
            written = (target / "memory.raw").stat()
            assert written.st_size == 64 << 20
            assert written.st_blocks * 512 < 1 << 20
            await firecracker.settle(target, shape)
            await firecracker.kept(machine, target)
        assert kinds == ["Diff", "Diff"]


@pytest.mark.parametrize("lost", ["nothing was kept", "it was deleted", "it is another file", "it has changed"])
async def test_without_what_the_changes_are_to_all_is_written(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, kinds: Kinds, lost: str
) -> None:
    machine = spec("scribble", text=LINE, track_dirty_pages=True)
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, len(LINE))
        first = await save(firecracker, machine, tmp_path / "first", kept=lost != "nothing was kept")
        memory = first.directory / saving.MEMORY
        if lost == "it was deleted":
            memory.unlink()
        elif lost == "it is another file":
            sparse.copy(memory, tmp_path / "copy")
            (tmp_path / "copy").rename(memory)
        elif lost == "it has changed":
            memory.chmod(0o600)
            with memory.open("r+b") as content:
                content.write(b"other")
        kinds.clear()
        await save(firecracker, machine, tmp_path / "second")
        await save(firecracker, machine, tmp_path / "third")
        assert kinds == ["Full", "Full", "Diff", "Full"]


async def test_where_holes_are_not_seen_all_is_written(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "SEEK_DATA", os.SEEK_SET)  # what a file system says that knows of no holes
    machine = spec(text=LINE, track_dirty_pages=True)
    async with started(firecracker, machine):
        assert not tracking.shows_holes(tmp_path)
        (tmp_path / "target").mkdir()
        await firecracker.prepare(machine, tmp_path / "target")
        assert list((tmp_path / "target").iterdir()) == []


async def test_a_machine_that_boots_again_has_changed_nothing_yet(
    firecracker: Firecracker, spec: MakeSpec, tmp_path: Path, kinds: Kinds
) -> None:
    machine = spec("scribble", text=LINE, track_dirty_pages=True)
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, len(LINE))
        await save(firecracker, machine, tmp_path / "before")
    for socket in machine.sockets.iterdir():
        socket.unlink()
    async with started(firecracker, machine) as process:
        await printed(firecracker, machine, process, len(LINE))
        await save(firecracker, machine, tmp_path / "after")
    assert kinds == ["Diff", "Full", "Diff", "Full"]
