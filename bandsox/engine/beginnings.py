"""How a machine comes to be: its directory, its process, its first answer; and how nothing is left where one of them fails."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import functools
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandsox import settings
from bandsox.engine import deadlines, ownership
from bandsox.engine.ephemeral import Ownership, keep
from bandsox.engine.lines import Lines
from bandsox.errors import BandSoxError, BootFailed, InvalidRequest, VMMError
from bandsox.locks import Locks
from bandsox.models import ProgressCallback, VMRecord, VMStatus, report
from bandsox.settings import Layout

if TYPE_CHECKING:
    from bandsox.engine.boot import Booting
    from bandsox.engine.launch import Past
    from bandsox.engine.warmboots import WarmBoots
    from bandsox.guest import GuestClient
    from bandsox.network.keeper import Namespace
    from bandsox.network.vault import Vault
    from bandsox.vmm.base import LaunchSpec, NetworkDevice

BOOT_DEADLINE_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Attempt:
    """How a machine is to be brought up; ``past`` and ``attached`` as for `Beginnings.bring_up`.

    ``warm``: it may go on from a warm boot, or become one. ``without_network`` as for `networking.attached`.
    """

    past: Past | None
    attached: Sequence[Path]
    warm: bool
    without_network: str | None = None


class _StaleWarmBoot(Exception):
    """A machine did not go on from the warm boot `key`."""

    def __init__(self, key: str, error: BandSoxError) -> None:
        super().__init__(key)
        self.key, self.error = key, error


class Beginnings(Lines):
    """The steps by which machines begin, each of which undoes what it has done if what follows fails."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._owned: dict[str, Ownership] = {}

    @functools.cached_property
    def warm_boots(self) -> WarmBoots:
        """What machines go on from instead of booting from the beginning."""
        from bandsox.engine.warmboots import WarmBoots

        return WarmBoots(self.layout)

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
        attempt = _Attempt(past, attached, warm=past is None and settings.warm_boots())
        while True:
            try:
                running = await self._come_up(record, attempt)
                break
            except networking.NoNetwork as refused:
                attempt = dataclasses.replace(attempt, without_network=refused.reason)
            except _StaleWarmBoot as stale:
                report(progress, "boot", f"booting from the beginning, since a warm boot was of no use: {stale.error.message}")
                await asyncio.to_thread(self.warm_boots.remove, stale.key)
                attempt = dataclasses.replace(attempt, warm=False)
        deadlines.begin(self.layout, running)
        report(progress, "boot", "the machine is up", finished=True)
        return running

    async def _come_up(self, record: VMRecord, attempt: _Attempt) -> VMRecord:
        """As `bring_up`."""
        import anyio

        from bandsox.engine import networking, publishing

        vmm, directory, sockets = self.vmms[record.vmm], self.layout.vm(record.id), self.layout.sockets(record.id)
        shutil.rmtree(sockets, ignore_errors=True)
        sockets.mkdir(mode=0o700)
        owner = self.confiner.user(record.id, record.confinement) if vmm.opens_taps else None
        try:
            async with (
                publishing.Listeners(record.spec.publish) as published,
                networking.attached(self.networks, directory, record, owner, attempt.without_network) as (connected, namespace),
            ):
                device = networking.device(connected.network, namespace, owner)
                running = await self._boot(connected, device, namespace, attempt)
                if published.ports:
                    running = await self.update(record.id, spec_publish=published.ports)
                    await publishing.carry(directory, lambda: self.direct_client(running), published.listening)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await ownership.end_all(self.layout.vms, record.id)
            shutil.rmtree(sockets, ignore_errors=True)
            raise
        return running

    async def _boot(self, record: VMRecord, device: NetworkDevice | None, namespace: Namespace | None, attempt: _Attempt) -> VMRecord:
        """Boot a machine whose network is about to be there, or let it go on. No program of the guest's runs before it is."""
        from bandsox.engine import boot, launch

        vmm, past = self.vmms[record.vmm], attempt.past
        spec = launch.launch_spec(self.layout, record, device, past, attempt.attached)
        if past is not None:
            async with self._started(record, spec, namespace) as (booting, trust):
                renew = functools.partial(launch.renew, record=record, itself=past.itself, trust=trust, deadline_s=BOOT_DEADLINE_S)
                receipt = await boot.first_answer(vmm, spec, booting, renew, bytes.fromhex(past.token), BOOT_DEADLINE_S)
                past.check(receipt)
                return await self.update(record.id, status=VMStatus.RUNNING, receipt=receipt, **deadlines.anew(record))
        key = await asyncio.to_thread(vmm.boot_key, spec) if attempt.warm else None
        if key is None:
            return await self._set_up(record, spec, namespace, launch.NO_TOKEN)
        async with self.warm_boots.in_use(key) as warm:
            if warm is not None:
                try:
                    return await self._set_up(record, dataclasses.replace(spec, origin=warm.origin), namespace, warm.token)
                except (VMMError, BootFailed) as error:
                    raise _StaleWarmBoot(key, error) from error
        return await self._set_up(record, spec, namespace, launch.NO_TOKEN, key)

    async def _set_up(
        self, record: VMRecord, spec: LaunchSpec, namespace: Namespace | None, token: bytes, key: str | None = None
    ) -> VMRecord:
        """Start a machine that is nobody's yet, and give it to its owner.

        Parameters
        ----------
        token: what its agent takes. key: of the warm boot that is made of it on the way.
        """
        from bandsox.engine import boot, launch

        vmm = self.vmms[record.vmm]
        async with self._started(record, spec, namespace) as (booting, trust):

            async def ask(client: GuestClient) -> VMRecord:
                async with self.warm_boots.being_made(key, vmm, spec, client) if key is not None else contextlib.nullcontext():
                    return await launch.set_up(client, record, trust, BOOT_DEADLINE_S)

            ready = await boot.first_answer(vmm, spec, booting, ask, token, BOOT_DEADLINE_S)
            changes = {"network": ready.network, "network_reason": ready.network_reason}
            return await self.update(record.id, status=VMStatus.RUNNING, receipt=None, **changes, **deadlines.anew(record))

    @contextlib.asynccontextmanager
    async def _started(
        self, record: VMRecord, spec: LaunchSpec, namespace: Namespace | None
    ) -> AsyncIterator[tuple[Booting, Mapping[str, Any] | None]]:
        """A machine that has begun, is known of and has its network, and what its programs are to trust; it is killed again if the block
        raises."""
        from bandsox.engine import boot, networking
        from bandsox.network import vault

        trust = await asyncio.to_thread(vault.guest_side, self.layout.vm(record.id)) if record.spec.secrets and record.network else None
        async with boot.started(self.vmms[record.vmm], spec) as booting:
            if namespace is not None:
                namespace.bind(booting.process)
            process = {"pid": booting.process.pid, "pid_start": booting.process.start}
            confinement = {"confinement": record.confinement, "confinement_reason": record.confinement_reason}
            network = {"network": record.network, "network_reason": record.network_reason}
            await self.update(record.id, **process, **confinement, **network, token=record.token)
            if namespace is not None:
                await networking.complete(record, namespace)
            yield booting, trust

    def keep(self, vm_id: str) -> None:
        """Let an ephemeral machine outlive this process."""
        keep(self.layout.vm(vm_id))
        self._give_up(vm_id)

    def _give_up(self, vm_id: str) -> None:
        if (owned := self._owned.pop(vm_id, None)) is not None:
            owned.give_up()

    async def update(self, vm_id: str, **changes: Any) -> VMRecord:
        """Change a machine's record; see `VMs.update`."""
        changing = functools.partial(self.vms.update, vm_id, **changes)
        return await asyncio.get_running_loop().run_in_executor(None, changing)  # no span is within, whose context `to_thread` would carry

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
