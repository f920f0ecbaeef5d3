"""How a machine comes to be: its directory, its process, its first answer; and how nothing is left where one of them fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandsox.engine import deadlines, ownership
from bandsox.engine.ephemeral import Ownership, keep
from bandsox.engine.lines import Lines
from bandsox.errors import BandSoxError, InvalidRequest
from bandsox.locks import Locks
from bandsox.models import ProgressCallback, VMRecord, VMStatus, report
from bandsox.settings import Layout

if TYPE_CHECKING:
    from bandsox.engine.launch import Past
    from bandsox.network.keeper import Namespace
    from bandsox.network.vault import Vault
    from bandsox.vmm.base import NetworkDevice

BOOT_DEADLINE_S = 60.0


class Beginnings(Lines):
    """The steps by which machines begin, each of which undoes what it has done if what follows fails."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._owned: dict[str, Ownership] = {}

    @contextlib.asynccontextmanager
    async def making(self, vm_id: str, *, ephemeral: bool = False) -> AsyncIterator[None]:
        """While this lasts a new machine has its directory, and its lock; nothing of the machine is left if the block raises."""
        import anyio

        try:
            with self._new_directory(vm_id, ephemeral=ephemeral):
                yield
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(self._forget, vm_id)
            self._give_up(vm_id)
            if isinstance(error, OSError) and not isinstance(error, BandSoxError):
                raise _as_storage_error(error, self.layout.root) from error
            raise

    @contextlib.contextmanager
    def _new_directory(self, vm_id: str, *, ephemeral: bool) -> Iterator[None]:
        """Make a machine's directory, and hold its lock from the moment at which it can be seen."""
        work = self.layout.temporary / vm_id
        work.mkdir(mode=0o700)
        with Locks(work / "lock").try_hold() as held:
            assert held
            if ephemeral:
                self._owned[vm_id] = Ownership(work)
            work.rename(self.layout.vm(vm_id))
            if ephemeral:
                self._owned[vm_id].watch(self.layout.root, self.layout.vm(vm_id))
            yield

    def _make_disk(self, record: VMRecord) -> None:
        from bandsox.engine import disks

        if record.spec.disk_size_mib:
            disks.create(self.layout, record.spec.disk_size_mib, self.layout.vm(record.id) / "disk.img")

    async def keep_secrets(self, vm_id: str, vault: Vault | None) -> None:
        """Keep the values of a new machine's secrets in its directory."""
        if vault is not None:
            from bandsox.network.vault import write

            await asyncio.to_thread(write, self.layout.vm(vm_id), vault)

    async def bring_up(
        self, record: VMRecord, progress: ProgressCallback | None, past: Past | None = None, attached: Sequence[Path] = ()
    ) -> VMRecord:
        """Start a machine and record it as running, or leave no process of it.

        Parameters
        ----------
        past: what it goes on from; None: it boots. attached: further disks for this time.
        """
        from bandsox.engine import networking

        report(progress, "boot", f"{'booting' if past is None else 'going on'} on {record.vmm} ({record.accelerator})")
        try:
            running = await self._come_up(record, past, attached)
        except networking.NoNetwork as refused:
            running = await self._come_up(record, past, attached, refused.reason)
        deadlines.begin(self.layout, running)
        report(progress, "boot", "the machine is up", finished=True)
        return running

    async def _come_up(self, record: VMRecord, past: Past | None, attached: Sequence[Path], without_network: str | None = None) -> VMRecord:
        """As `bring_up`; `without_network` as for `networking.attached`."""
        import anyio

        from bandsox.engine import networking, publishing

        vmm, directory, sockets = self.vmms[record.vmm], self.layout.vm(record.id), self.layout.sockets(record.id)
        shutil.rmtree(sockets, ignore_errors=True)
        sockets.mkdir(mode=0o700)
        owner = self.confiner.user(record.id, record.confinement) if vmm.opens_taps else None
        try:
            async with (
                publishing.Listeners(record.spec.publish) as published,
                networking.attached(self.networks, directory, record, owner, without_network) as (connected, namespace),
            ):
                device = networking.device(connected.network, namespace, owner)
                running = await self._boot(connected, device, namespace, past, attached)
                if published.ports:
                    running = await self.update(record.id, spec_publish=published.ports)
                    await publishing.carry(directory, lambda: self.direct_client(running), published.listening)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await ownership.end_all(self.layout.vms, record.id)
            shutil.rmtree(sockets, ignore_errors=True)
            raise
        return running

    async def _boot(
        self, record: VMRecord, device: NetworkDevice | None, namespace: Namespace | None, past: Past | None, attached: Sequence[Path]
    ) -> VMRecord:
        """Boot a machine whose network is about to be there, or let it go on. No program of the guest's runs before it is."""
        from bandsox.engine import boot, launch, networking
        from bandsox.network import vault

        vmm = self.vmms[record.vmm]
        spec = launch.launch_spec(self.layout, record, device, past, attached)
        trust = await asyncio.to_thread(vault.guest_side, self.layout.vm(record.id)) if record.spec.secrets and record.network else None
        async with boot.started(vmm, spec) as booting:
            if namespace is not None:
                namespace.bind(booting.process)
            process = {"pid": booting.process.pid, "pid_start": booting.process.start}
            confinement = {"confinement": record.confinement, "confinement_reason": record.confinement_reason}
            network = {"network": record.network, "network_reason": record.network_reason}
            await self.update(record.id, **process, **confinement, **network, token=record.token)
            if namespace is not None:
                await networking.complete(record, namespace)
            if past is not None:
                renew = functools.partial(launch.renew, record=record, itself=past.itself, trust=trust, deadline_s=BOOT_DEADLINE_S)
                receipt = await boot.first_answer(vmm, spec, booting, renew, bytes.fromhex(past.token), BOOT_DEADLINE_S)
                past.check(receipt)
                return await self.update(record.id, status=VMStatus.RUNNING, receipt=receipt, **deadlines.anew(record))
            set_up = functools.partial(launch.set_up, record=record, trust=trust, deadline_s=BOOT_DEADLINE_S)
            ready = await boot.first_answer(vmm, spec, booting, set_up, launch.NO_TOKEN, BOOT_DEADLINE_S)
            changes = {"network": ready.network, "network_reason": ready.network_reason}
            return await self.update(record.id, status=VMStatus.RUNNING, receipt=None, **changes, **deadlines.anew(record))

    def keep(self, vm_id: str) -> None:
        """Let an ephemeral machine outlive this process."""
        keep(self.layout.vm(vm_id))
        self._give_up(vm_id)

    def _give_up(self, vm_id: str) -> None:
        if (owned := self._owned.pop(vm_id, None)) is not None:
            owned.give_up()

    async def update(self, vm_id: str, **changes: Any) -> VMRecord:
        """Change a machine's record; see `VMs.update`."""
        return await asyncio.to_thread(functools.partial(self.vms.update, vm_id, **changes))

    def _forget(self, vm_id: str) -> None:
        self.confiner.forget(vm_id)
        shutil.rmtree(self.layout.sockets(vm_id), ignore_errors=True)
        shutil.rmtree(self.layout.vm(vm_id), ignore_errors=True)
        self.vms.delete(vm_id)


def _as_storage_error(error: OSError, root: Path) -> BandSoxError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        from bandsox.workers import storage_full

        return storage_full(root)
    return InvalidRequest(f"the storage directory cannot be used: {error}")
