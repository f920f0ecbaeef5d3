"""Which files differ between two states of a machine: two of its checkpoints, or one and now.

What the disks hold was written by a guest that nobody trusts, so no kernel mounts them that matters: copies of both are given to a machine
that boots for this, mounts them read-only, compares them, and is thrown away. Whatever they do to it, a wrong list is the worst that comes
of it. Nothing is asked of the machine itself but to write out what it has not yet written to its disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from bandsox.engine import identity, sparse
from bandsox.engine.snapshots.capture import DISK, standing_still
from bandsox.engine.snapshots.fitness import chosen_anew
from bandsox.errors import InvalidRequest, LimitExceeded, Unsupported
from bandsox.models import UNLIMITED, FileDifference, ProgressCallback, VMRecord, VMStatus, report
from bandsox.workers import storage_errors

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

_MOST = 1_000_000
_MEM_MIB = 128


async def difference(
    engine: Engine, vm_id: str, before: str, after: str | None, limit: int, progress: ProgressCallback | None = None
) -> list[FileDifference]:
    """The files that differ between two checkpoints of a machine; without `after`, between one and now.

    Raises
    ------
    CheckpointNotFound: there is none with such a label.
    Unsupported: the machine keeps what it writes in its memory.
    LimitExceeded: there are more than `limit`.
    GuestFileError: the file system on a disk is damaged. StorageFull: there is no room for copies of the disks.
    """
    if not 1 <= limit <= _MOST:
        raise InvalidRequest(f"a limit is a number from 1 to {_MOST}, not {limit}")
    record = await engine.get(vm_id)
    if record.spec.disk_size_mib == 0:
        raise Unsupported("a VM without a disk cannot be compared", cause="it keeps what it writes in its memory")
    helper = await _helper(engine, record, progress)
    disks = [engine.layout.vm(helper.id) / name for name in ("before.img", "after.img")]
    async with _deleted_afterwards(engine, helper.id):
        async with engine.making(helper.id, ephemeral=True):
            await asyncio.to_thread(engine.vms.insert, helper)
            report(progress, "compare", "copying the disks")
            await _copy_checkpoint(engine, vm_id, before, disks[0])
            if after is not None:
                await _copy_checkpoint(engine, vm_id, after, disks[1])
            else:
                await _copy_present(engine, vm_id, disks[1])
            running = await engine.bring_up(helper, None, attached=disks)
        report(progress, "compare", "comparing")
        found, more = await engine.direct_client(running).compare("vdb", "vdc", limit=limit)
    report(progress, "compare", f"{len(found)} differences", finished=True)
    if more:
        raise LimitExceeded(f"more than {limit} files differ", remedy="give a higher limit")
    return found


async def _helper(engine: Engine, record: VMRecord, progress: ProgressCallback | None) -> VMRecord:
    """The machine that compares: of the same image, with the agent of this version."""
    files = await asyncio.to_thread(engine.kernels.boot_files, record.spec.kernel_path, progress)
    vm_id = identity.new_id()
    spec = dataclasses.replace(
        record.spec,
        name=f"compare-{vm_id}",
        vcpu=1,
        mem_mib=_MEM_MIB,
        disk_size_mib=0,
        env_vars={},
        metadata={},
        enable_networking=False,
        disk_limits=UNLIMITED,
        network_limits=UNLIMITED,
        balloon_mib=None,
        mmds=None,
        policy=None,
        secrets={},
        cni=None,
        mcp=None,
        ttl=None,
        idle_timeout=None,
        publish=(),
    )
    helper = dataclasses.replace(
        record,
        id=vm_id,
        spec=spec,
        status=VMStatus.CREATING,
        created_at=time.time(),
        kernel=files.kernel,
        initramfs=files.initramfs,
        pid=None,
        pid_start=None,
        token=secrets.token_hex(32),
        expires_at=None,
        restored_from=None,
        receipt=None,
        network=None,
    )
    return await chosen_anew(engine, helper)


async def _copy_checkpoint(engine: Engine, vm_id: str, label: str, target: Path) -> None:
    snapshot = await engine.timeline.find(vm_id, label)
    async with engine.snapshots.ready(snapshot, cold=True) as start:
        assert start.disk is not None  # the machine has one, and always had
        await asyncio.to_thread(_copy, start.disk, target)


async def _copy_present(engine: Engine, vm_id: str, target: Path) -> None:
    """The disk as it is now, with all that programs have written; they stand still while it is copied."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(engine.locked(vm_id))
        record = await engine.known(vm_id)
        if record.status in {VMStatus.RUNNING, VMStatus.PAUSED}:
            await stack.enter_async_context(standing_still(engine, record, synced=True))
        await asyncio.to_thread(_copy, engine.layout.vm(vm_id) / DISK, target)


def _copy(disk: Path, target: Path) -> None:
    with storage_errors(target.parent):
        sparse.copy(disk, target)


@contextlib.asynccontextmanager
async def _deleted_afterwards(engine: Engine, vm_id: str) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await engine.delete(vm_id)
