"""Machines whose memory is on the disk and whose VMM is gone, and which go on under the same id when they are wanted.

The memory is a snapshot that belongs to the machine, without a disk: that of the machine stays where it is, and nobody writes to it
meanwhile. So saving costs nothing that grows with the disk; but the memory fits that disk alone, as it was then. What it was then is kept
with the memory (`_identity`): a machine that was on its way back when somebody was killed, and had written to its disk, cannot go on from
that memory again. It is ``dead`` then, and boots from its disk, which holds all that its programs had written when it was saved.

The record says ``saved`` once the memory is whole; before that the machine goes on, whoever is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import TYPE_CHECKING

import anyio

from bandsox.engine import deadlines, ownership
from bandsox.engine.snapshots.capture import DISK, ended
from bandsox.engine.snapshots.fitness import as_then, check_host
from bandsox.errors import CorruptSnapshot
from bandsox.models import Belonging, ProgressCallback, Snapshot, VMRecord, VMStatus, report

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine


async def hibernate(engine: Engine, vm_id: str, progress: ProgressCallback | None = None) -> VMRecord:
    """Write a running or paused machine's memory to the disk, and end its VMM. Nothing happens when that was done already.

    Raises
    ------
    Conflict: it does not run. Unsupported: its VMM cannot save it. StorageFull: there is no room. It goes on then.
    """
    async with engine.locked(vm_id):
        record = await engine.known(vm_id)
        if record.status is VMStatus.SAVED:
            return record
        await forget_memory(engine, vm_id)  # of somebody who was killed
        report(progress, "save", "saving the memory")
        async with ended(engine, record) as captured:
            disk = {"disk": _identity(engine, record)}
            snapshots = engine.snapshots
            snapshot = await asyncio.to_thread(snapshots.describe, record, captured, f"{vm_id}:memory", disk)
            await asyncio.to_thread(snapshots.shelf.publish, snapshot, captured.directory, Belonging("memory", vm_id, ""))
            with anyio.CancelScope(shield=True):
                saved = await engine.update(vm_id, status=VMStatus.SAVED, pid=None, pid_start=None)
        await ownership.end_all(engine.layout.vms, vm_id, ownership.HELPERS_GRACE_S)
        shutil.rmtree(engine.layout.sockets(vm_id), ignore_errors=True)
        await asyncio.to_thread(engine.confiner.forget, vm_id)
    deadlines.ended(engine.layout, saved)
    report(progress, "save", "the memory is saved", finished=True)
    return saved


async def wake(engine: Engine, record: VMRecord, progress: ProgressCallback | None = None) -> VMRecord:
    """Let a machine whose memory is on the disk go on. The caller holds its lock.

    Raises
    ------
    CorruptSnapshot: its memory is damaged, or does not fit its disk.
    Unsupported, RequirementNotMet: this host cannot go on from it. BootFailed: going on failed.
    """
    await ownership.end_all(engine.layout.vms, record.id)  # of somebody who was killed
    snapshot = await _memory(engine, record)
    async with engine.snapshots.ready(snapshot) as start:
        await check_host(engine, snapshot)
        then = await as_then(engine, record, snapshot)
        try:
            awake = await engine.bring_up(then, progress, start.as_itself())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await engine.update(record.id, status=VMStatus.SAVED, pid=None, pid_start=None)
            raise
    await engine.snapshots.shelf.give_up([snapshot.id])
    return awake


async def forget_memory(engine: Engine, vm_id: str) -> None:
    """Delete what is kept of a machine's memory."""
    kept = await asyncio.to_thread(engine.snapshots.shelf.table.belongings, "memory", vm_id)
    await engine.snapshots.shelf.give_up([snapshot.id for _, snapshot in kept])


async def _memory(engine: Engine, record: VMRecord) -> Snapshot:
    """What a saved machine goes on from.

    Raises
    ------
    CorruptSnapshot: there is nothing; the machine is ``dead`` then.
    """
    kept = await asyncio.to_thread(engine.snapshots.shelf.table.belongings, "memory", record.id)
    for _, snapshot in kept:
        if snapshot.metadata["disk"] == _identity(engine, record):
            return snapshot
    await engine.update(record.id, status=VMStatus.DEAD)
    await forget_memory(engine, record.id)
    raise CorruptSnapshot(
        f"the memory of VM {record.spec.name} does not fit its disk",
        cause="it had begun to go on, and that was broken off",
        remedy="start it again: it boots from its disk",
    )


def _identity(engine: Engine, record: VMRecord) -> list[int] | None:
    """What changes when somebody writes to a machine's disk; None where it has none."""
    with contextlib.suppress(FileNotFoundError):
        status = (engine.layout.vm(record.id) / DISK).stat()
        return [status.st_ino, status.st_size, status.st_mtime_ns]
    return None
