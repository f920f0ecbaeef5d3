"""The engine of one storage directory: the verbs on its machines.

Every verb that changes a machine's life holds that machine's lock, which the kernel gives back if the process dies. A
machine's record says `creating` until its agent has answered; a record found in that state with its lock free was left
by a process that died, and is removed by `cleanup`.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import dataclasses
import functools
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bandsox.engine import deadlines, frozen, identity, ownership
from bandsox.engine.beginnings import Beginnings
from bandsox.engine.ephemeral import abandoned, is_abandoned
from bandsox.engine.frozen import is_frozen
from bandsox.errors import BandSoxError, Conflict, HostError, VMNotFound
from bandsox.locks import DEADLINE_S, Locks
from bandsox.models import Isolation, ProgressCallback, VMRecord, VMSpec, VMStatus
from bandsox.settings import Layout
from bandsox.store import Snapshots as SnapshotTable
from bandsox.tracing import traced

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from bandsox.engine.cleanup import Removed
    from bandsox.engine.launch import Ground
    from bandsox.engine.published import Published
    from bandsox.engine.snapshots import Snapshots
    from bandsox.engine.templates import Templates
    from bandsox.engine.timeline import Timeline
    from bandsox.guest import GuestClient
    from bandsox.network.vault import Vault

STOP_DEADLINE_S = 10.0


class Engine(Beginnings):
    """What can be done with the machines of one storage directory, over its rooms.

    Parameters
    ----------
    storage_dir: where everything that lasts is kept; None for the default.
    require: the least isolation a machine may have.
    """

    def __init__(self, storage_dir: str | os.PathLike[str] | None = None, require: Isolation = Isolation.EMULATED) -> None:
        super().__init__(Layout.open(storage_dir))
        self.require = require
        self._looked_after = False

    async def delete_own(self) -> None:
        """Delete the ephemeral machines that were made here."""
        for vm_id in list(self._owned):
            await self.delete(vm_id)

    def close(self) -> None:
        """Close the registry. Machines go on, but for ephemeral ones."""
        for vm_id in list(self._owned):
            self._give_up(vm_id)
        self.database.close()
        self.layout.leave()

    @functools.cached_property
    def snapshots(self) -> Snapshots:
        """Snapshots, and the verbs on them."""
        from bandsox.engine.snapshots import Snapshots

        return Snapshots(self)

    @functools.cached_property
    def templates(self) -> Templates:
        """Templates, and the verbs on them."""
        from bandsox.engine.templates import Templates

        return Templates(self)

    @functools.cached_property
    def timeline(self) -> Timeline:
        """Checkpoints of machines, and the verbs on them."""
        from bandsox.engine.timeline import Timeline

        return Timeline(self)

    @functools.cached_property
    def published(self) -> Published:
        """The ports of machines on this host."""
        from bandsox.engine.published import Published

        return Published(self.layout, get=self.get, lock=self.locked, update=self.update, client=self.direct_client)

    # ── life ────────────────────────────────────────────────────────────────────────────────────

    @traced("create")
    async def create(
        self,
        spec: VMSpec,
        *,
        force_rebuild: bool = False,
        ephemeral: bool = False,
        ground: Ground | None = None,
        vault: Vault | None = None,
        progress: ProgressCallback | None = None,
    ) -> VMRecord:
        """Make a machine of an image and start it; it is returned once its agent answers.

        Parameters
        ----------
        ephemeral: it ends with this process, however this process ends.
        ground: what it is made of, where that was found out before.
        vault: the values of its secrets.

        Raises
        ------
        InvalidRequest: the specification is out of bounds.
        ImageError, ImageNotFound: the image cannot be had.
        BootFailed: the machine did not come up. Nothing of it is left.
        """
        from bandsox.engine import launch

        await self.remove_overdue()
        ground = ground or await launch.ground(self, spec, force_rebuild=force_rebuild, progress=progress)
        record = ground.record()
        async with self.making(record.id, ephemeral=ephemeral):
            async with self.images.use(ground.image):
                await asyncio.to_thread(self.vms.insert, record)
            await asyncio.to_thread(self._make_disk, record)
            await self.keep_secrets(record.id, vault)
            return await self.bring_up(record, progress)

    async def start(self, vm_id: str, progress: ProgressCallback | None = None) -> VMRecord:
        """Start a machine that was stopped, with its disk as it was left, or let one that is saved go on.

        Raises
        ------
        Conflict: it is running or paused.
        BootFailed: it did not come up; its disk is untouched.
        """
        async with self.locked(vm_id):
            record = await self.known(vm_id)
            if record.status is VMStatus.SAVED:
                return await self._wake_saved(record, progress)
            if record.status not in {VMStatus.STOPPED, VMStatus.DEAD}:
                raise Conflict(f"VM {record.spec.name} is {record.status.value}", remedy="only a stopped VM can be started")
            if not record.rootfs.exists():
                raise Conflict("the image this VM was made of has been removed", remedy=f"pull {record.spec.image} again")
            await ownership.end_all(self.layout.vms, record.id)  # what a starter that was killed has left
            offer = await asyncio.to_thread(self.confiner.choose, record.spec.confinement)
            record = dataclasses.replace(
                record, confinement=offer.confinement, confinement_reason=offer.reason, token=secrets.token_hex(32)
            )
            try:
                return await self.bring_up(record, progress)
            except BaseException:
                await self.update(vm_id, status=VMStatus.STOPPED, pid=None, pid_start=None)
                raise

    async def stop(self, vm_id: str, deadline_s: float = STOP_DEADLINE_S) -> VMRecord:
        """Power a machine off cleanly; kill it when that has taken longer than `deadline_s` seconds.

        A machine that is not running stays as it is; one that is saved loses its memory.
        """
        from bandsox.engine import hibernation

        async with self.locked(vm_id):
            record = await self.known(vm_id)
            process = ownership.process_of(record, self.layout.vms)
            if process is None:
                await self._detach(record)
                stopped = await self.update(vm_id, status=VMStatus.STOPPED, pid=None, pid_start=None)
                if record.status is VMStatus.SAVED:
                    await hibernation.forget_memory(self, vm_id)
                return stopped
            await self.power_off(record, process, deadline_s)
            await ownership.end_all(self.layout.vms, vm_id, ownership.HELPERS_GRACE_S)
            await self._detach(record)
            shutil.rmtree(self.layout.sockets(vm_id), ignore_errors=True)
            await asyncio.to_thread(self.confiner.forget, vm_id)
            stopped = await self.update(vm_id, status=VMStatus.STOPPED, pid=None, pid_start=None)
        deadlines.ended(self.layout, stopped)
        return stopped

    async def pause(self, vm_id: str) -> VMRecord:
        """Stop a machine's CPUs; its memory stays where it is. Nothing happens when they are stopped already.

        Raises
        ------
        Conflict: it is not running.
        """
        async with self.locked(vm_id):
            return await self._turn(await self.known(vm_id), VMStatus.RUNNING, VMStatus.PAUSED)

    async def resume(self, vm_id: str, progress: ProgressCallback | None = None) -> VMRecord:
        """Let a paused or saved machine go on. Nothing happens when it runs already.

        Raises
        ------
        Conflict: it is neither. For one that is saved as `hibernation.wake`.
        """
        async with self.locked(vm_id):
            record = await self.known(vm_id)
            if record.status is VMStatus.SAVED:
                return await self._wake_saved(record, progress)
            return await self._turn(record, VMStatus.PAUSED, VMStatus.RUNNING)

    async def delete(self, vm_id: str) -> None:
        """Kill a machine and remove everything it owns; no error when it is gone already."""
        try:
            record = await asyncio.to_thread(self.vms.get, vm_id)
        except VMNotFound:
            return
        self.layout.vm(record.id).mkdir(mode=0o700, exist_ok=True)  # its lock is there, even if somebody removed the directory
        async with self.locked(record.id):
            grace_s = 0.0
            if (process := ownership.process_of(record, self.layout.vms)) is not None:
                await ownership.end(process)
                grace_s = ownership.HELPERS_GRACE_S
            await ownership.end_all(self.layout.vms, record.id, grace_s)
            with contextlib.suppress(HostError):  # `cleanup` tries it again, and says why it fails
                await self._detach(record)
            await asyncio.to_thread(self._forget, record.id)
        self._give_up(record.id)
        deadlines.ended(self.layout, record)
        if owned := await asyncio.to_thread(SnapshotTable(self.database).owned, record.id):
            await self.snapshots.shelf.give_up(owned)

    # ── knowledge ───────────────────────────────────────────────────────────────────────────────

    async def get(self, id_or_name: str) -> VMRecord:
        """A machine as it is now: one whose VMM has ended is not called running.

        Raises
        ------
        VMNotFound: there is none with this id or name.
        """
        record = self.vms.get(id_or_name)  # a row of a file in memory, for which no writer is waited: a thread costs more than all of it
        if record.expires_at is not None and record.expires_at <= time.time():
            await deadlines.expire(self, record.id)
            if record.spec.on_expiry == "delete":
                raise VMNotFound(f"VM {record.spec.name} has expired", cause=f"its time to live was {record.spec.ttl:g} s")
            record = await asyncio.to_thread(self.vms.get, record.id)
        if is_abandoned(self.layout.vm(record.id)):
            await self.delete(record.id)
            raise VMNotFound(f"VM {record.spec.name} is gone", cause="it was to end with the process that made it")
        if is_frozen(self.layout.vm(record.id)):
            await self.snapshots.thaw(record)
        self._look_after(record)
        return ownership.as_it_is(record, self.layout.vms)

    async def list(self, *, limit: int | None = None, metadata_equals: Mapping[str, Any] | None = None) -> list[VMRecord]:
        """All machines as they are now, newest first."""
        overdue, records = await asyncio.to_thread(self._listed, limit, metadata_equals)
        if overdue:
            await self.remove_overdue()
            _, records = await asyncio.to_thread(self._listed, limit, metadata_equals)
        for record in records:
            self._look_after(record)
        return [ownership.as_it_is(record, self.layout.vms) for record in records]

    async def rename(self, vm_id: str, name: str) -> VMRecord:
        """Give a machine another name.

        Raises
        ------
        Conflict: another machine has it.
        """
        return await asyncio.to_thread(self.vms.update, vm_id, spec_name=identity.check_name(name))

    async def set_metadata(self, vm_id: str, metadata: Mapping[str, Any]) -> VMRecord:
        """Replace a machine's metadata."""
        return await asyncio.to_thread(self.vms.update, vm_id, spec_metadata=identity.check_metadata(metadata))

    def new_name(self) -> str:
        """A name that nobody chose, and nobody has."""
        return f"vm-{secrets.token_hex(4)}"

    def client(self, record: VMRecord) -> GuestClient:
        """A client of a machine's agent. The machine is not idle while one of its operations lasts."""
        if record.spec.idle_timeout is None:
            return self.direct_client(record)
        from bandsox.engine import use
        from bandsox.guest import GuestClient

        link = self.direct_client(record).link
        see_to_it = functools.partial(self._wake, record.id)
        return GuestClient(use.UsedLink(link, self.layout.vm(record.id), see_to_it), bytes.fromhex(record.token))

    async def cleanup(self) -> Removed:
        """Remove what processes that died have left (their ephemeral and half-made machines, VMMs without a record, work files), and
        machines whose time to live is over."""
        from bandsox.engine.cleanup import clean, detach, sweep

        overdue = await self.remove_overdue()
        removed = await clean(self.layout, self.vms)
        await asyncio.to_thread(self.confiner.sweep)
        await self.snapshots.shelf.remove_orphans()
        shelf = self.snapshots.shelf
        abandoned = await asyncio.to_thread(shelf.remove_abandoned) + await asyncio.to_thread(shelf.remove_unused_kernels, self.vms.list)
        if self.layout.attachments.exists():
            await detach(self.layout, self.vms, self.networks)
        await sweep(self.layout, self.vms, self.networks)
        return dataclasses.replace(removed, machines=(*overdue, *removed.machines), files=removed.files + abandoned)

    async def remove_overdue(self) -> tuple[str, ...]:
        """Delete the machines whose maker they were to end with, and do what is to be done with those whose time is over.

        Returns the ids of those that are gone.
        """
        left = tuple(abandoned(self.layout.vms))
        for vm_id in left:
            await self.delete(vm_id)
        expired = await asyncio.to_thread(self.vms.expired, time.time())
        for vm_id in expired:
            await deadlines.expire(self, vm_id)
        known = {record.id for record in await asyncio.to_thread(self.vms.list)} if expired else set()
        return (*left, *(vm_id for vm_id in expired if vm_id not in known))

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────

    def _listed(self, limit: int | None, metadata_equals: Mapping[str, Any] | None) -> tuple[bool, builtins.list[VMRecord]]:
        """The machines that there are, and whether `remove_overdue` has something to do first. Blocks."""
        overdue = any(abandoned(self.layout.vms)) or bool(self.vms.expired(time.time()))
        return overdue, self.vms.list(limit=limit, metadata_equals=metadata_equals)

    def _look_after(self, record: VMRecord) -> None:
        """See to it, once, that deadlines are kept: whoever did may have been killed."""
        if not self._looked_after and deadlines.has_deadline(record):
            self._looked_after = True
            deadlines.ensure_housekeeper(self.layout)

    async def known(self, vm_id: str) -> VMRecord:
        """A machine as it is now, whatever its deadlines."""
        return ownership.as_it_is(self.vms.get(vm_id), self.layout.vms)  # without a thread, as `get`

    async def _wake(self, vm_id: str) -> None:
        """See to it that a machine that is to be used is neither paused nor saved.

        Raises
        ------
        Conflict: it is.
        """
        record = await self.known(vm_id)
        asleep = record.status in {VMStatus.PAUSED, VMStatus.SAVED}
        if asleep and record.spec.auto_resume:
            await self.resume(vm_id)
        elif asleep:
            raise Conflict(f"VM {record.spec.name} is {record.status.value}", cause="perhaps its time was over", remedy="resume it first")

    async def _detach(self, record: VMRecord) -> None:
        """Remove what a machine that does not run has left of its network on this host, where its keeper had no time to."""
        from bandsox.engine import networking

        if record.spec.cni is not None:
            await asyncio.to_thread(self.networks.detach, record.id)
        elif networking.left_on_host(record, directory := self.layout.vm(record.id)):
            with contextlib.suppress(HostError):  # `cleanup` tries it again, and says why it fails
                await asyncio.to_thread(self.networks.sweep, directory)

    async def _turn(self, record: VMRecord, before: VMStatus, after: VMStatus) -> VMRecord:
        """Stop a machine's CPUs, or let them go on. Its lock is held.

        Who finds it half done, by a process that was killed, brings the machine back to what its record says.
        """
        if record.status is after:
            return record
        if record.status is not before:
            raise Conflict(f"VM {record.spec.name} is {record.status.value}, not {before.value}")
        vmm = self.vmms[record.vmm]
        change = vmm.pause if after is VMStatus.PAUSED else vmm.resume
        directory = self.layout.vm(record.id)
        begun = frozen.begin(directory)  # where another has, and was killed, more may have to be done than this
        await change(self.layout.sockets(record.id))
        record = await self.update(record.id, status=after, **(deadlines.anew(record) if after is VMStatus.RUNNING else {}))
        if begun:
            frozen.forget(directory)
        deadlines.begin(self.layout, record)
        return record

    async def _wake_saved(self, record: VMRecord, progress: ProgressCallback | None) -> VMRecord:
        from bandsox.engine import hibernation

        return await hibernation.wake(self, record, progress)

    def locked(self, vm_id: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold a machine's lock; whoever changes its life does.

        Raises
        ------
        VMNotFound: there is none with this id. Timeout: another process does not come to an end with it.
        """
        return _Locked(self.layout.vm(vm_id), vm_id)


class _Locked(contextlib.AbstractAsyncContextManager[None]):
    """The lock of the machine `vm_id`, as `Engine.locked`: a class, since a generator takes as long as the lock does."""

    def __init__(self, directory: Path, vm_id: str) -> None:
        self._directory, self._vm_id = directory, vm_id

    async def __aenter__(self) -> None:
        try:
            self._descriptor = await Locks(f"{self._directory}/lock").take(deadline_s=DEADLINE_S, what=f"VM {self._vm_id}")
        except FileNotFoundError as error:
            self._check_exists(error)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)
        if isinstance(error, FileNotFoundError) and not isinstance(error, BandSoxError):
            self._check_exists(error)

    def _check_exists(self, error: FileNotFoundError) -> None:
        if not self._directory.exists():
            raise VMNotFound(f"no VM has the id {self._vm_id!r}", remedy="see `bandsox vm list`") from error
