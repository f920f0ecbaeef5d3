"""A machine's timeline: instants that it can go back to, under the same id.

A checkpoint is a snapshot that belongs to its machine and ends with it. Its disk holds all that had been written, because the guest is made
to write it out before it is saved; so states can be compared by their disks (`bandsox.engine.comparison`).

To rewind is to end the machine's VMM and to start another one from the checkpoint, in the same directory: the machine keeps its id, names,
notes, variables and place in its network. Everything that can be checked is checked before its present ends. Whoever is killed after that
leaves a machine that is ``dead`` or ``stopped``, with the disk of then or of now, whole: it can be rewound or started.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bandsox.engine import identity, ownership, sparse
from bandsox.engine.frozen import forget
from bandsox.engine.hibernation import forget_memory
from bandsox.engine.snapshots.capture import DISK
from bandsox.engine.snapshots.fitness import as_then, check_host
from bandsox.errors import CheckpointNotFound, Conflict, InvalidRequest
from bandsox.models import Belonging, Checkpoint, ProgressCallback, Snapshot, VMRecord, VMStatus, report
from bandsox.workers import storage_errors

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

LABEL_LIMIT = 100

_REWOUND = "disk.rewound"


class Timeline:
    """The timelines of the machines of one storage directory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._layout = engine.layout
        self._table = engine.snapshots.shelf.table

    async def checkpoint(self, vm_id: str, label: str | None = None, progress: ProgressCallback | None = None) -> Checkpoint:
        """Keep this instant of a running or paused machine, which goes on.

        Parameters
        ----------
        label: unique in the machine's timeline; by default the number of the checkpoint.

        Raises
        ------
        Conflict: there is one with this label, or the machine does not run. Otherwise as `Snapshots.take`.
        """
        label = _check_label(label) if label is not None else await self._free_label(vm_id)
        await self._check_new(vm_id, label)
        report(progress, "checkpoint", "saving the machine")
        record = await self._engine.get(vm_id)
        if record.status is VMStatus.RUNNING:  # most of it before its programs stand still
            await self._engine.direct_client(record).sync()
        async with self._engine.locked(vm_id):
            await self._check_new(vm_id, label)
            belonging = Belonging("checkpoint", vm_id, label)
            record = await self._engine.known(vm_id)
            taken = await self._engine.snapshots.save(record, f"{vm_id}@{label}", {}, belonging, synced=True)
        report(progress, "checkpoint", "the machine is saved", finished=True)
        return _checkpoint(label, taken)

    async def all(self, vm_id: str) -> Sequence[Checkpoint]:
        """A machine's checkpoints, oldest first."""
        found = await asyncio.to_thread(self._table.belongings, "checkpoint", vm_id)
        return [_checkpoint(belonging.label, snapshot) for belonging, snapshot in found]

    async def find(self, vm_id: str, label: str) -> Snapshot:
        """The snapshot that a checkpoint is.

        Raises
        ------
        CheckpointNotFound: the machine has none with this label.
        """
        for belonging, snapshot in await asyncio.to_thread(self._table.belongings, "checkpoint", vm_id):
            if belonging.label == label:
                return snapshot
        raise CheckpointNotFound(f"the VM has no checkpoint {label!r}", remedy="see `bandsox vm checkpoints`")

    async def remove(self, vm_id: str, label: str) -> None:
        """Delete a checkpoint; the others stay as they are.

        Raises
        ------
        CheckpointNotFound: there is none with this label.
        """
        await self._engine.snapshots.shelf.give_up([(await self.find(vm_id, label)).id])

    async def rewind(self, vm_id: str, label: str, progress: ProgressCallback | None = None) -> VMRecord:
        """Bring a machine, whatever it does now, back to a checkpoint: memory, programs and disk are those of then.

        What has changed since then is lost; checkpoints, also later ones, stay.

        Raises
        ------
        CheckpointNotFound: there is none with this label.
        CorruptSnapshot: it is damaged. Unsupported, RequirementNotMet: this host cannot go on from it. StorageFull: there is no room for
            its disk. The machine goes on as it was.
        BootFailed: the VMM did not go on from it. The machine is stopped then, and has the checkpoint's disk.
        """
        snapshot = await self.find(vm_id, label)
        await self._engine.get(vm_id)  # what its deadlines ask for is done
        async with self._engine.snapshots.ready(snapshot) as start, self._engine.locked(vm_id):
            await check_host(self._engine, snapshot)
            record = await as_then(self._engine, await self._engine.known(vm_id), snapshot)
            record = dataclasses.replace(record, token=secrets.token_hex(32))
            report(progress, "rewind", f"going back to {label}")
            await asyncio.to_thread(_copy_disk, start.disk, self._layout.vm(vm_id))
            await self._end(record)
            if start.disk is not None:
                (self._layout.vm(vm_id) / _REWOUND).replace(self._layout.vm(vm_id) / DISK)
            ended = {"status": VMStatus.STOPPED, "pid": None, "pid_start": None}
            await self._engine.update(vm_id, **ended, restored_from=snapshot.id)
            try:
                back = await self._engine.bring_up(record, progress, start.as_itself())
            except BaseException:
                await self._engine.update(vm_id, **ended)
                raise
            await forget_memory(self._engine, vm_id)  # of a present that was saved
            return back

    async def _end(self, record: VMRecord) -> None:
        """End the VMM of the present, and what helps it."""
        grace_s = 0.0
        if (process := ownership.process_of(record, self._layout.vms)) is not None:
            await ownership.end(process)
            grace_s = ownership.HELPERS_GRACE_S
        await ownership.end_all(self._layout.vms, record.id, grace_s)
        forget(self._layout.vm(record.id))

    async def _check_new(self, vm_id: str, label: str) -> None:
        try:
            await self.find(vm_id, label)
        except CheckpointNotFound:
            return
        raise Conflict(f"the VM has a checkpoint {label!r} already", remedy="choose another label, or remove that one")

    async def _free_label(self, vm_id: str) -> str:
        taken = {checkpoint.label for checkpoint in await self.all(vm_id)}
        return next(label for number in range(1, len(taken) + 2) if (label := str(number)) not in taken)


def _check_label(label: str) -> str:
    if len(identity.check_name(label)) > LABEL_LIMIT:
        raise InvalidRequest(f"a checkpoint's label has at most {LABEL_LIMIT} characters")
    return label


def _checkpoint(label: str, snapshot: Snapshot) -> Checkpoint:
    return Checkpoint(label, snapshot.created_at, snapshot.id, snapshot.parent)


def _copy_disk(disk: Path | None, directory: Path) -> None:
    """Have the disk of then ready beside that of now."""
    target = directory / _REWOUND
    target.unlink(missing_ok=True)  # of somebody who was killed
    if disk is not None:
        with storage_errors(directory):
            sparse.copy(disk, target)
