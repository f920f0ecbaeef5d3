"""Where whole snapshots are kept: their files, what is known of them, and who is using them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from bandsox.engine import retention, sparse
from bandsox.engine.snapshots.cold import ColdStorage
from bandsox.errors import BandSoxError, Conflict, CorruptSnapshot
from bandsox.locks import DEADLINE_S, Locks
from bandsox.models import Belonging, Purpose, Snapshot, VMRecord
from bandsox.settings import Layout, sync, write_atomically
from bandsox.store import Database
from bandsox.store import Snapshots as Table
from bandsox.store.identity import identity
from bandsox.store.records import encode
from bandsox.workers import storage_errors

MANIFEST = "manifest.json"

IMPORTED = "imported-"
"""How the directory of a kernel begins that came with a snapshot of elsewhere."""

_PUBLISHING = "publishing"
_ARTEFACTS = "artefacts"

_BELONGS: dict[Purpose, tuple[str, str]] = {
    "checkpoint": ("a checkpoint of a VM", "see `bandsox vm checkpoint --remove`"),
    "memory": ("the memory of a saved VM", "start or delete that VM"),
    "template": ("a template", "see `bandsox template`"),
}
"""What a snapshot is that belongs to something, and how it is removed then."""


class Shelf:
    """The snapshots of a storage directory, as files and rows. Its methods block, but for the locks."""

    def __init__(self, layout: Layout, database: Database) -> None:
        self.table = Table(database)
        self._layout = layout
        self._locks = Locks(layout.locks / "snapshots")
        self.cold = ColdStorage(layout, self.table, self._locks)

    def path(self, snapshot: Snapshot) -> Path:
        """The directory of a snapshot's files."""
        return self._layout.snapshots / snapshot.id

    def publish(self, snapshot: Snapshot, directory: Path, belonging: Belonging | None = None) -> None:
        """Give what was saved its place, and say what it belongs to.

        Its files are on the disk before its manifest is, and that before its row.
        """
        with storage_errors(directory):
            for name in snapshot.files:
                sync(directory / name)
            write_atomically(directory / MANIFEST, encode(snapshot).encode())
            sync(directory)
            verified = {name: identity(directory / name) for name in snapshot.files}
            with self._locks.hold_blocking(_PUBLISHING):
                place = self._layout.snapshots / snapshot.id
                rootfs = str(self._layout.root / snapshot.rootfs)
                self.table.insert(snapshot, rootfs, verified, lambda: directory.rename(place), belonging)
            sync(self._layout.snapshots)
        retention.tell(self._layout)

    def damage(self, snapshot: Snapshot) -> str | None:
        """What is wrong with a snapshot's manifest: ``no_metadata``, ``metadata_corrupted``; None when nothing is. Blocks."""
        try:
            self.check_manifest(snapshot)
        except FileNotFoundError:
            return "no_metadata"
        except CorruptSnapshot:
            return "metadata_corrupted"
        return None

    def check_manifest(self, snapshot: Snapshot) -> None:
        """Compare the manifest with what was recorded of it."""
        if (self.path(snapshot) / MANIFEST).read_text(errors="replace") != self.table.manifest(snapshot.id):
            raise _corrupt(snapshot, "its manifest is not what was saved")

    def verify(self, snapshot: Snapshot, names: Sequence[str]) -> None:
        """Compare files with their checksums; one that nobody has touched since that was done last is not read again.

        What is packed is unpacked.
        """
        try:
            self.check_manifest(snapshot)
            verified = self.table.verified(snapshot.id)
            for name in names:
                if self.cold.unpack(snapshot, name):
                    verified[name] = identity(self.path(snapshot) / name)
                    self.table.set_verified(snapshot.id, verified)
            changed = [name for name in names if verified.get(name) != identity(self.path(snapshot) / name)]
            for name in changed:
                before = identity(self.path(snapshot) / name)
                if before[1] != snapshot.files[name].size or sparse.digest(self.path(snapshot) / name) != snapshot.files[name].digest:
                    raise _corrupt(snapshot, f"its {name} is not what was saved")
                verified[name] = before
        except FileNotFoundError as error:
            if isinstance(error, BandSoxError):
                raise
            raise _corrupt(snapshot, f"{Path(error.filename).name} is missing") from error
        if changed:
            self.table.set_verified(snapshot.id, verified)

    def verify_present(self, snapshot: Snapshot) -> None:
        """Compare with their checksums the files that are not packed."""
        self.table.get(snapshot.id)
        self.verify(snapshot, [name for name in snapshot.files if not self.cold.is_file_packed(snapshot, name)])

    def check_free(self, snapshot: Snapshot) -> None:
        """See to it that a snapshot belongs to nothing else.

        Raises
        ------
        Conflict: it does.
        """
        belonging = self.table.belonging(snapshot.id)
        if belonging is not None:
            what, remedy = _BELONGS[belonging.purpose]
            raise Conflict(f"the snapshot {snapshot.name} is {what}", remedy=remedy)

    def check_whole(self, snapshot: Snapshot) -> None:
        """See to it that a snapshot is of a whole machine, with its disk if it has one.

        Raises
        ------
        Conflict: it is not.
        """
        belonging = self.table.belonging(snapshot.id)
        if belonging is not None and belonging.purpose == "memory":
            raise Conflict(
                f"the snapshot {snapshot.name} is the memory of a saved VM, whose disk is not with it",
                remedy="resume that VM and take a snapshot of it, or take one of its checkpoints",
            )

    def remove(self, snapshot_id: str) -> None:
        """Remove a snapshot that nobody uses. What is packed on its files is packed anew first.

        Raises
        ------
        StorageFull: there is no room for that.
        """
        self.cold.release(snapshot_id, lambda: self._forget(snapshot_id))

    def remove_unused(self, snapshot_id: str, may_go: Callable[[], bool]) -> bool:
        """Remove a snapshot if nobody uses it, and it `may_go` while nobody can; whether it was removed. Blocks. Raises as `remove`."""
        with self._locks.try_hold(snapshot_id) as nobody_uses_it:
            gone = nobody_uses_it and may_go()
            if gone:
                self.remove(snapshot_id)
        return gone

    def _forget(self, snapshot_id: str) -> None:
        self.table.delete(snapshot_id)
        shutil.rmtree(self._layout.snapshots / snapshot_id, ignore_errors=True)
        retention.tell(self._layout)

    def size(self, snapshot: Snapshot) -> int:
        """The bytes that a snapshot takes on the disk. Blocks."""
        with contextlib.suppress(FileNotFoundError):
            return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self.path(snapshot)))
        return 0

    def remove_abandoned(self) -> int:
        """Remove directories that are no snapshots: left where somebody was killed while he took or deleted one. Blocks."""
        with self._locks.try_hold(_PUBLISHING) as nobody_publishes:
            if not nobody_publishes:
                return 0
            known = {snapshot.id for snapshot in self.table.list()}
            abandoned = [entry for entry in self._layout.snapshots.iterdir() if entry.name not in known]
            for entry in abandoned:
                shutil.rmtree(entry, ignore_errors=True)
            return len(abandoned)

    @contextlib.asynccontextmanager
    async def artefacts_kept(self) -> AsyncIterator[None]:
        """While this lasts no kernel is removed: one may be needed by what is not recorded yet."""
        async with self._locks.hold(_ARTEFACTS, shared=True, deadline_s=DEADLINE_S, what="the kernels of snapshots"):
            yield

    def remove_unused_kernels(self, machines: Callable[[], Iterable[VMRecord]]) -> int:
        """Remove the kernels that came with snapshots of elsewhere and that no snapshot needs, nor any machine; how many there were.

        None is removed while something is being recorded. Blocks.

        Parameters
        ----------
        machines: lists all machines.
        """
        with self._locks.try_hold(_ARTEFACTS) as nobody_records:
            if not nobody_records:
                return 0
            root = self._layout.root
            needed = {(root / path).parent for snapshot in self.table.list() for path in (snapshot.kernel, snapshot.initramfs)}
            needed |= {path.parent for machine in machines() for path in (machine.kernel, machine.initramfs)}
            unused = [entry for entry in self._layout.kernels.glob(f"{IMPORTED}*") if entry not in needed]
            for entry in unused:
                shutil.rmtree(entry)
            return len(unused)

    @contextlib.asynccontextmanager
    async def in_use(self, snapshot: Snapshot) -> AsyncIterator[None]:
        """While this lasts the snapshot is not deleted.

        Raises
        ------
        SnapshotNotFound: it has been deleted meanwhile.
        """
        async with self._locks.hold(snapshot.id, shared=True, deadline_s=DEADLINE_S, what=f"the snapshot {snapshot.name}"):
            await asyncio.to_thread(self.table.get, snapshot.id)
            yield

    @contextlib.asynccontextmanager
    async def given_up(self, snapshot: Snapshot) -> AsyncIterator[None]:
        """While this lasts nobody uses the snapshot, and nobody begins to."""
        async with self._locks.hold(snapshot.id, deadline_s=DEADLINE_S, what=f"the snapshot {snapshot.name}"):
            yield

    async def give_up(self, snapshot_ids: Sequence[str]) -> None:
        """Remove snapshots, each once nobody starts machines from it any more."""
        for snapshot_id in snapshot_ids:
            async with self._locks.hold(snapshot_id, deadline_s=DEADLINE_S, what=f"the snapshot {snapshot_id}"):
                await asyncio.to_thread(self.remove, snapshot_id)

    async def remove_orphans(self) -> None:
        """Remove the snapshots of machines that are gone: whoever deleted such a machine was killed."""
        await self.give_up(await asyncio.to_thread(self.table.orphans))


def _corrupt(snapshot: Snapshot, cause: str) -> CorruptSnapshot:
    return CorruptSnapshot(f"the snapshot {snapshot.name} is damaged", cause=cause, remedy="delete it, and take another")
