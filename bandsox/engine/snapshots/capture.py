"""A machine at one instant: its memory, the state of its devices, and its disk, as files."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from bandsox.engine import launch, ownership, sparse
from bandsox.engine.frozen import forget, frozen
from bandsox.engine.snapshots.workplace import async_workplace
from bandsox.errors import Conflict, MachineStopped, OutcomeUnknown, Unsupported
from bandsox.guest import at_boundary
from bandsox.models import VMRecord, VMStatus
from bandsox.workers import together

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine
    from bandsox.models import Shape

DISK = "disk.img"


@dataclass(frozen=True, slots=True)
class Captured:
    """A machine at one instant: its files, which are never written to again. ``frozen``: none of its programs ran meanwhile."""

    directory: Path
    shape: Shape
    frozen: bool


@contextlib.asynccontextmanager
async def captured(engine: Engine, record: VMRecord, *, synced: bool = False) -> AsyncIterator[Captured]:
    """A directory with a machine's memory, state and disk of one instant, which is removed in the end if it is still there.

    The machine is as it was before once this is entered; until then at least the caller holds its lock.

    Parameters
    ----------
    synced: with all that the guest has written on the disk.

    Raises
    ------
    Conflict: it does not run. Unsupported: its VMM cannot save it. StorageFull: there is no room.
    """
    _check_runs(record)
    vmm, spec = engine.vmms[record.vmm], launch.launch_spec(engine.layout, record)
    shapes: list[Shape] = []

    async def save() -> None:
        shapes.append(await _saved(engine, record, directory))

    async def copy_disk() -> None:
        if record.spec.disk_size_mib:
            await asyncio.to_thread(sparse.copy, engine.layout.vm(record.id) / DISK, directory / DISK)

    async with async_workplace(engine.layout) as directory:
        await vmm.prepare(spec, directory)
        async with standing_still(engine, record, synced=synced) as programs_frozen:
            await together((save(), copy_disk()), limit=2)
        await _settle(engine, record, directory, shapes[0])
        yield Captured(directory, shapes[0], programs_frozen)


@contextlib.asynccontextmanager
async def ended(engine: Engine, record: VMRecord) -> AsyncIterator[Captured]:
    """A directory with a machine's memory and state, as `captured`. The machine stands still within the block, and is no more after it.

    If the block raises, the machine goes on. Its disk stays as it is at that instant, with all that the guest has written.
    """
    _check_runs(record)
    vmm, spec = engine.vmms[record.vmm], launch.launch_spec(engine.layout, record)
    over = False
    async with async_workplace(engine.layout) as directory:
        try:
            await vmm.prepare(spec, directory)
            async with standing_still(engine, record, synced=True) as programs_frozen:
                shape = await _saved(engine, record, directory)
                await _settle(engine, record, directory, shape)
                yield Captured(directory, shape, programs_frozen)
                with anyio.CancelScope(shield=True):
                    if (process := ownership.process_of(record, engine.layout.vms)) is not None:
                        await ownership.end(process)
                over = True
        except (MachineStopped, OutcomeUnknown):  # what was to let it go on finds that it is no more
            if not over:
                raise
        forget(engine.layout.vm(record.id))


@contextlib.asynccontextmanager
async def standing_still(engine: Engine, record: VMRecord, *, synced: bool) -> AsyncIterator[bool]:
    """Within the block a machine's programs, and then its CPUs, stand still; the value is whether the programs do.

    Afterwards it is as before. A paused one goes on for the moment that its agent needs. The caller holds its lock.
    """
    vmm, sockets = engine.vmms[record.vmm], engine.layout.sockets(record.id)
    paused = record.status is VMStatus.PAUSED
    with frozen(engine.layout.vm(record.id)):
        try:
            if paused:
                await vmm.resume(sockets)
            async with _programs_frozen(engine, record) as programs_frozen:
                if synced:
                    await engine.direct_client(record).sync()
                try:
                    await vmm.pause(sockets)
                    yield programs_frozen
                finally:
                    with anyio.CancelScope(shield=True), contextlib.suppress(MachineStopped):
                        await vmm.resume(sockets)
        finally:
            if paused:
                with anyio.CancelScope(shield=True), contextlib.suppress(MachineStopped):
                    await vmm.pause(sockets)


@contextlib.asynccontextmanager
async def _programs_frozen(engine: Engine, record: VMRecord) -> AsyncIterator[bool]:
    """While this lasts no program of the guest runs, so that none runs in a copy before that is a machine of its own; False where the
    guest's kernel cannot do that, which the receipts of the copies tell."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(engine.direct_client(record).frozen(grace=engine.vmms[record.vmm].grace_s))
        except Unsupported:
            yield False
        else:
            yield True


async def _saved(engine: Engine, record: VMRecord, directory: Path) -> Shape:
    """Have the memory and state of a machine that stands still written to a directory."""
    shape = await engine.vmms[record.vmm].save(launch.launch_spec(engine.layout, record), directory)
    return dataclasses.replace(shape, at_boundary=at_boundary(engine.layout.sockets(record.id), shape.ports))


async def _settle(engine: Engine, record: VMRecord, directory: Path, shape: Shape) -> None:
    await engine.vmms[record.vmm].settle(directory, shape)
    for file in directory.iterdir():
        file.chmod(0o444)


def _check_runs(record: VMRecord) -> None:
    if record.status not in {VMStatus.RUNNING, VMStatus.PAUSED}:
        raise Conflict(f"VM {record.spec.name} is {record.status.value}", remedy="only a running or paused VM can be saved")
