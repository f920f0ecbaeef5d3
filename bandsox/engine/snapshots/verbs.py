"""Snapshots: taking them, going on from them, forking machines.

A snapshot is a directory of immutable files: the memory, which all clones map and none changes, the state of the devices, the disk,
and a manifest with their checksums. It is made in this process's directory for work under way and takes its place when it is
whole, together with its row in the registry; so after a crash there is a whole snapshot or none.

Nothing depends on a snapshot but what is being started from it, under a lock that deleting waits for. A clone has a disk of its own,
and the memory's file lives on, without a name, as long as a VMM maps it. Hence a fork is a snapshot that is never given a
place: its files lose their names as soon as its clones run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from bandsox.engine import identity, launch, ownership, retention, sparse
from bandsox.engine.frozen import forget
from bandsox.engine.snapshots.capture import DISK, Captured, captured
from bandsox.engine.snapshots.fitness import COLD, check_artefacts, check_host, chosen_anew, with_network
from bandsox.engine.snapshots.shelf import Shelf
from bandsox.errors import (
    BandSoxError,
    InvalidRequest,
    MachineStopped,
    Unsupported,
)
from bandsox.locks import Locks
from bandsox.models import Belonging, ProgressCallback, Snapshot, StoredFile, VMRecord, VMStatus, report
from bandsox.network.vault import read
from bandsox.store.snapshots import name_taken
from bandsox.tracing import span, traced
from bandsox.vmm.base import Origin
from bandsox.vmm.host_cpu import host_cpu
from bandsox.workers import Task, in_thread, together

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine
    from bandsox.network.vault import Vault

MAX_FORKS = 256
_AT_ONCE = 8
"""How many clones are started at a time."""

_THAW_TIMEOUT_S = 20.0
"""How long the agent of a machine whose saver was killed may take to let its programs go on."""


@dataclass(frozen=True, slots=True)
class Start:
    """What machines are started with from a snapshot: what they go on from, None where they boot, and the disk that they get a copy of."""

    past: launch.Past | None
    disk: Path | None

    def as_itself(self) -> launch.Past | None:
        """What the machine goes on from that was saved."""
        return None if self.past is None else dataclasses.replace(self.past, itself=True)


class Snapshots:
    """The snapshots of one storage directory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._layout = engine.layout
        self.shelf = Shelf(engine.layout, engine.database)

    # ── taking ──────────────────────────────────────────────────────────────────────────────────

    async def take(
        self, vm_id: str, name: str | None = None, metadata: Mapping[str, Any] | None = None, progress: ProgressCallback | None = None
    ) -> Snapshot:
        """Save a running or paused machine, which then is as it was before.

        Parameters
        ----------
        name: a label, unique among snapshots; by default made of the machine's id and the time.

        Raises
        ------
        Conflict: the machine does not run, or the name is taken.
        Unsupported: its VMM cannot save it.
        StorageFull: there is no room. Nothing is left of the snapshot then, as after every error.
        """
        name = identity.check_name(name) if name is not None else f"{vm_id}_{time.time_ns() // 1_000_000}"
        labels = identity.check_metadata(metadata or {})
        if await asyncio.to_thread(self.shelf.table.has_name, name):
            raise name_taken(name)
        report(progress, "snapshot", "saving the machine")
        async with self._engine.locked(vm_id):
            snapshot = await self.save(await self._engine.get(vm_id), name, labels)
        report(progress, "snapshot", "the machine is saved", finished=True)
        return snapshot

    async def save(
        self, record: VMRecord, name: str, labels: Mapping[str, Any], belonging: Belonging | None = None, *, synced: bool = False
    ) -> Snapshot:
        """Save a machine whose lock the caller holds; as `take`.

        Parameters
        ----------
        belonging: what the snapshot is for, where it is not taken for itself.
        synced: with all that the guest has written on its disk, so that the disk can be read without the memory.
        """
        async with captured(self._engine, record, synced=synced) as taken:
            snapshot = await asyncio.to_thread(self.describe, record, taken, name, labels)
            await asyncio.to_thread(self.shelf.publish, snapshot, taken.directory, belonging)
            await self._engine.vmms[record.vmm].kept(launch.launch_spec(self._layout, record), self.shelf.path(snapshot))
        return snapshot

    async def fork(
        self,
        vm_id: str,
        count: int = 1,
        name: str | None = None,
        *,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[VMRecord]:
        """Make `count` clones of a running or paused machine, which goes on. All clones run, or there is none.

        Parameters
        ----------
        name: the clone's name; of several, the beginning of their names, followed by ``-1``, ``-2``, ….
        env_vars: variables over the machine's own. metadata: in place of the machine's own.

        Raises
        ------
        As `take` and `restore`.
        """
        if not 1 <= count <= MAX_FORKS:
            raise InvalidRequest(f"a fork makes 1 to {MAX_FORKS} clones, not {count}")
        names = [name if count == 1 else f"{name}-{number}" for number in range(1, count + 1)] if name is not None else [None] * count
        async with contextlib.AsyncExitStack() as kept:
            await kept.enter_async_context(self.shelf.artefacts_kept())  # those of the source, which may be deleted meanwhile
            async with self._engine.locked(vm_id):
                record = await self._engine.get(vm_id)
                values = await asyncio.to_thread(read, self._layout.vm(vm_id)) if record.spec.secrets else None
                taken = await kept.enter_async_context(captured(self._engine, record))
            past = launch.Past(Origin(taken.directory, taken.shape), record.token, taken.frozen)
            source = with_network(record, record.network is not None)
            clones = [await self._clone(source, chosen, env_vars, metadata, restored_from=record.id) for chosen in names]
            disk = taken.directory / DISK
            return await self._start_all(clones, past, disk if disk.exists() else None, progress, values)

    # ── going on ────────────────────────────────────────────────────────────────────────────────

    @traced("restore")
    async def restore(
        self,
        id_or_name: str,
        name: str | None = None,
        *,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        enable_networking: bool | None = None,
        cold: bool = False,
        changes: Mapping[str, Any] | None = None,
        vault: Vault | None = None,
        ephemeral: bool = False,
        progress: ProgressCallback | None = None,
    ) -> VMRecord:
        """Make a machine that goes on from a snapshot.

        Parameters
        ----------
        name: by default ``from-`` and the snapshot's id, with a number where that is taken.
        env_vars: variables over those of the machine that was saved. metadata: in place of that machine's.
        enable_networking: None: a network if the machine that was saved had one. What it had cannot be taken away, nor added, but
            where the clone boots.
        cold: boot from the snapshot's disk instead; its memory is not needed then.
        changes: other fields of the specification in place of that machine's.
        vault: the values of its secrets; no snapshot has them.
        ephemeral: it ends with this process.

        Raises
        ------
        SnapshotNotFound: there is none. Conflict: it is a saved machine's memory alone.
        CorruptSnapshot: its files are not what was saved.
        Unsupported, RequirementNotMet: this host cannot go on from it; nothing was started.
        """
        snapshot = await self.get(id_or_name)
        await asyncio.to_thread(self.shelf.check_whole, snapshot)
        async with self.ready(snapshot, cold=cold) as start:
            source = await self._source(snapshot, enable_networking, cold=cold)
            chosen = name if name is not None else f"from-{snapshot.id}"
            clone = await self._clone(source, chosen, env_vars, metadata, restored_from=snapshot.id, changes=changes)
            return await self._start(clone, start.past, start.disk, progress, vault, numbered=name is None, ephemeral=ephemeral)

    @contextlib.asynccontextmanager
    async def ready(self, snapshot: Snapshot, *, cold: bool = False) -> AsyncIterator[Start]:
        """What machines are started with from a snapshot, which is whole and stays while this lasts.

        Raises
        ------
        As `restore`, but that it is not asked whether this host can go on from it.
        """
        async with self.shelf.in_use(snapshot):
            directory = self._layout.snapshots / snapshot.id
            needed = [DISK] if cold else list(snapshot.files)
            await asyncio.to_thread(self.shelf.verify, snapshot, [file for file in needed if file in snapshot.files])
            await asyncio.to_thread(check_artefacts, self._layout, snapshot)
            past = None if cold else launch.Past(Origin(directory, snapshot.shape), snapshot.token, snapshot.frozen)
            yield Start(past, directory / DISK if DISK in snapshot.files else None)

    async def thaw(self, record: VMRecord) -> None:
        """Bring a machine back to what it was before it was saved by a process that was killed meanwhile."""
        directory = self._layout.vm(record.id)
        with Locks(directory / "lock").try_hold() as held:
            if held:
                if record.status is VMStatus.SAVED:  # its VMM was about to be ended
                    await ownership.end_all(self._layout.vms, record.id)
                elif ownership.process_of(record, self._layout.vms) is not None:
                    vmm, sockets = self._engine.vmms[record.vmm], self._layout.sockets(record.id)
                    with contextlib.suppress(MachineStopped):
                        await vmm.resume(sockets)
                        with contextlib.suppress(BandSoxError):  # an agent that does not answer keeps nobody from pausing or ending it
                            await self._engine.client(record).thaw(timeout=_THAW_TIMEOUT_S)
                        if record.status is VMStatus.PAUSED:
                            await vmm.pause(sockets)
                forget(directory)

    # ── knowledge and labels ────────────────────────────────────────────────────────────────────

    async def get(self, id_or_name: str) -> Snapshot:
        """The snapshot with this id, name, or beginning of an id.

        Raises
        ------
        SnapshotNotFound: there is none.
        """
        return await asyncio.to_thread(self.shelf.table.get, id_or_name)

    async def all(self, *, of_their_own: bool = True) -> Sequence[Snapshot]:
        """All snapshots that belong to nothing else, newest first; without `of_their_own` also checkpoints, templates and memories."""
        return await asyncio.to_thread(functools.partial(self.shelf.table.list, of_their_own=of_their_own))

    async def rename(self, id_or_name: str, name: str) -> Snapshot:
        """Give a snapshot another name.

        Raises
        ------
        SnapshotNotFound: there is none. Conflict: another one has the name, or it belongs to something.
        """
        snapshot = await self.get(id_or_name)
        await asyncio.to_thread(self.shelf.check_free, snapshot)
        await asyncio.to_thread(self.shelf.table.rename, snapshot.id, identity.check_name(name))
        await asyncio.to_thread(retention.tell, self._layout)
        return dataclasses.replace(snapshot, name=name)

    async def set_metadata(self, id_or_name: str, metadata: Mapping[str, Any]) -> Snapshot:
        """Replace a snapshot's metadata; errors as `get`."""
        snapshot, labels = await self.get(id_or_name), identity.check_metadata(metadata)
        await asyncio.to_thread(self.shelf.table.set_metadata, snapshot.id, labels)
        return dataclasses.replace(snapshot, metadata=labels)

    async def delete(self, id_or_name: str) -> None:
        """Delete a snapshot; machines that were restored from it go on. Waits for those that are being started from it.

        Raises
        ------
        SnapshotNotFound: there is none. Conflict: it belongs to something.
        """
        snapshot = await self.get(id_or_name)
        await asyncio.to_thread(self.shelf.check_free, snapshot)
        async with self.shelf.given_up(snapshot):
            await asyncio.to_thread(self.shelf.remove, snapshot.id)

    async def compress(self, id_or_name: str, progress: ProgressCallback | None = None) -> Snapshot:
        """Pack a snapshot's files (`bandsox.engine.snapshots.cold`). Waits for machines that are being started from it.

        Raises
        ------
        SnapshotNotFound: there is none. CorruptSnapshot: its files are not what was saved.
        StorageFull: there is no room for what is packed beside what is not.
        """
        snapshot = await self.get(id_or_name)
        async with self.shelf.given_up(snapshot):
            await asyncio.to_thread(self.shelf.verify_present, snapshot)
            task = Task(progress, "compress", f"compressing {snapshot.name}", sum(file.size for file in snapshot.files.values()))
            await in_thread(lambda stop: self.shelf.cold.pack(snapshot, stop, task.update))
        task.finish()
        return snapshot

    # ── saving a machine ────────────────────────────────────────────────────────────────────────

    def describe(self, record: VMRecord, taken: Captured, name: str, metadata: Mapping[str, Any]) -> Snapshot:
        """The manifest of what was saved."""
        root = self._layout.root
        return Snapshot(
            id=identity.record_id(),
            name=name,
            created_at=time.time(),
            source_vm_id=record.id,
            spec=record.spec,
            image_id=record.image_id,
            image_config=record.image_config,
            rootfs=str(record.rootfs.relative_to(root)),
            kernel=str(record.kernel.relative_to(root)),
            initramfs=str(record.initramfs.relative_to(root)),
            vmm=record.vmm,
            vmm_version=record.vmm_version,
            accelerator=record.accelerator,
            isolation=record.isolation,
            transport=record.transport,
            shape=taken.shape,
            cpu=host_cpu(self._layout.runtime),
            files={file.name: StoredFile(file.stat().st_size, sparse.digest(file)) for file in sorted(taken.directory.iterdir())},
            token=record.token,
            frozen=taken.frozen,
            network=record.network,
            parent=record.restored_from,
            metadata=metadata,
        )

    # ── starting machines ───────────────────────────────────────────────────────────────────────

    async def _clone(
        self,
        source: VMRecord,
        name: str | None,
        env_vars: Mapping[str, str] | None,
        metadata: Mapping[str, Any] | None,
        *,
        restored_from: str,
        changes: Mapping[str, Any] | None = None,
    ) -> VMRecord:
        """The record of a new machine that goes on as `source`.

        What becomes of `source` when it is idle holds for the clone as well; its time to live, which somebody has given it, is its own.
        """
        spec = dataclasses.replace(
            source.spec,
            name=name if name is not None else self._engine.new_name(),
            env_vars={**source.spec.env_vars, **identity.check_environment(env_vars or {})},
            metadata=dict(source.spec.metadata if metadata is None else metadata),
            ttl=None,
            publish=tuple(dataclasses.replace(port, host_port=0) for port in source.spec.publish),  # the source has its ports
        )
        spec = dataclasses.replace(spec, **(changes or {}))
        identity.check_spec(spec)
        offer = await asyncio.to_thread(self._engine.confiner.choose, spec.confinement)
        return dataclasses.replace(
            source,
            id=identity.record_id(),
            spec=spec,
            status=VMStatus.CREATING,
            created_at=time.time(),
            confinement=offer.confinement,
            confinement_reason=offer.reason,
            pid=None,
            pid_start=None,
            token=secrets.token_hex(32),
            expires_at=None,
            restored_from=restored_from,
            receipt=None,
        )

    async def _start(
        self,
        clone: VMRecord,
        past: launch.Past | None,
        disk: Path | None,
        progress: ProgressCallback | None,
        vault: Vault | None,
        *,
        numbered: bool = False,
        ephemeral: bool = False,
    ) -> VMRecord:
        async with self._engine.making(clone.id, ephemeral=ephemeral):
            clone = await asyncio.to_thread(functools.partial(self._engine.vms.insert, clone, numbered=numbered))
            if disk is not None:
                target = self._layout.vm(clone.id) / DISK
                with span("disk"):
                    await asyncio.to_thread(sparse.copy, disk, target)
            await self._engine.keep_secrets(clone.id, vault)
            return await self._engine.bring_up(clone, progress, past)

    async def _start_all(
        self, clones: Sequence[VMRecord], past: launch.Past, disk: Path | None, progress: ProgressCallback | None, vault: Vault | None
    ) -> list[VMRecord]:
        try:
            return await together([self._start(clone, past, disk, progress, vault) for clone in clones], limit=_AT_ONCE)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for clone in clones:
                    await self._engine.delete(clone.id)
            raise

    async def _source(self, snapshot: Snapshot, enable_networking: bool | None, *, cold: bool) -> VMRecord:
        """The machine that was saved, as it can go on here.

        Raises
        ------
        Unsupported, RequirementNotMet: it cannot.
        """
        had_network = snapshot.network is not None
        if not cold:
            await check_host(self._engine, snapshot)
            if enable_networking not in {None, had_network}:
                what = "a network device" if had_network else "no network device"
                raise Unsupported(f"a VM with {what} was saved, and a machine that goes on keeps its devices", remedy=COLD)
        root = self._layout.root
        record = VMRecord(
            id=snapshot.source_vm_id,
            spec=snapshot.spec,
            status=VMStatus.CREATING,
            created_at=snapshot.created_at,
            image_id=snapshot.image_id,
            image_config=snapshot.image_config,
            rootfs=root / snapshot.rootfs,
            kernel=root / snapshot.kernel,
            initramfs=root / snapshot.initramfs,
            vmm=snapshot.vmm,
            vmm_version=snapshot.vmm_version,
            accelerator=snapshot.accelerator,
            accelerator_reason="as in its snapshot",
            isolation=snapshot.isolation,
            transport=snapshot.transport,
            network=snapshot.network,
        )
        if not cold:
            return with_network(record, had_network)
        return with_network(
            await chosen_anew(self._engine, record), record.spec.enable_networking if enable_networking is None else enable_networking
        )
