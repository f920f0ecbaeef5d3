"""What every route works with: the library, the gatekeeper, and machines as a caller may see them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
from fastapi import Depends, Request

from bandsox.core import AsyncBandSox
from bandsox.errors import BandSoxError, Forbidden, SnapshotNotFound, StorageFull, TemplateNotFound, VMNotFound
from bandsox.guest import GuestClient
from bandsox.models import TEMPLATE_PREFIX, Policy, Quotas, Snapshot, Template, VMRecord, VMStatus
from bandsox.network.cni import PREFIX as CNI_PREFIX
from bandsox.network.policy import policy_of, private_rules
from bandsox.server import shapes
from bandsox.server.auth.attempts import Attempts
from bandsox.server.auth.callers import NO_QUOTAS, Caller, Scope
from bandsox.server.auth.gatekeeper import Gatekeeper
from bandsox.server.configuration import Configuration
from bandsox.server.leases import Leases
from bandsox.server.metrics import Metrics
from bandsox.server.pools import Pools
from bandsox.server.rows import Rows
from bandsox.server.slots import Slots
from bandsox.server.tracing import Traces
from bandsox.server.webhooks.dispatcher import Dispatcher
from bandsox.settings import DEFAULT_IMAGE
from bandsox.store import KeyedRequests, Webhooks
from bandsox.vm import AsyncMicroVM


@dataclass(frozen=True, slots=True)
class Size:
    """What a machine takes of the host."""

    vcpu: int
    mem_mib: int
    disk_mib: int


class Service:
    """The library as the routes see it."""

    def __init__(self, bandsox: AsyncBandSox, configuration: Configuration) -> None:
        self.bandsox = bandsox
        self.engine = bandsox.engine
        self.configuration = configuration
        self.gatekeeper = Gatekeeper(bandsox.storage_dir)
        self.leases = Leases(self.gatekeeper)
        self.metrics = Metrics()
        self.traces: Traces | None = None
        self.transfers = Slots(configuration.transfers, "exports, imports and compressions of snapshots")
        self._creates = Attempts()
        self._coming: dict[int, tuple[str, Size]] = {}
        self.pools = Pools(self.engine, bandsox.confinement)
        self.rows = Rows()
        self.feed = bandsox.feed
        self.webhooks = Webhooks(self.engine.database, self.engine.layout.locks)
        self.dispatcher = Dispatcher(self.engine.layout, self.feed, self.webhooks, configuration.webhook_networks)
        self.keyed = KeyedRequests(self.engine.database)
        self._counting = anyio.Lock()

    async def record(self, caller: Caller, vm: str) -> VMRecord:
        """The machine with this id, beginning of an id, or name, if `caller` may know of it.

        Raises
        ------
        VMNotFound: it does not exist for this caller.
        """
        record = await self.engine.get(vm)
        if not caller.sees(record.spec.name):
            raise VMNotFound(f"no VM has the id or name {vm!r}", remedy="see `bandsox vm list`")
        return record

    async def machine(self, caller: Caller, vm: str) -> AsyncMicroVM:
        """A handle on that machine. Raises as `record`."""
        return AsyncMicroVM(self.engine, await self.record(caller, vm))

    async def guest(self, caller: Caller, vm: str) -> GuestClient:
        """The client of that machine's agent, if it runs.

        Raises
        ------
        As `record`. Conflict: it is paused or stopped.
        """
        record = await self.record(caller, vm)
        machine = AsyncMicroVM(self.engine, record)
        seen_running = record.status is VMStatus.RUNNING and not record.spec.publish  # nothing is to be woken or mended
        return machine.guest if seen_running else await machine.running()

    async def records(self, caller: Caller, metadata_equals: Mapping[str, Any] | None = None) -> list[VMRecord]:
        """The machines that exist for `caller`, newest first."""
        found = await self.engine.list(metadata_equals=metadata_equals)
        return [record for record in found if caller.sees(record.spec.name)] if caller.prefix else found

    def name_for(self, caller: Caller, name: str | None) -> str:
        """The name of a machine that `caller` makes, or gives another name.

        Raises
        ------
        Forbidden: it does not begin as it must.
        """
        if name is None:
            return f"{caller.prefix}{secrets.token_hex(4)}" if caller.prefix else self.engine.new_name()
        if not caller.sees(name):
            raise Forbidden(f"{caller.name} cannot use the name {name!r}", cause=f"the names of its machines begin with {caller.prefix!r}")
        return name

    async def snapshots(self, caller: Caller, *, of_their_own: bool = True) -> list[Snapshot]:
        """The snapshots that exist for `caller`, newest first: of machines with names that it sees. `of_their_own` as in the engine."""
        return [each for each in await self.engine.snapshots.all(of_their_own=of_their_own) if caller.sees(each.spec.name)]

    async def snapshot(self, caller: Caller, id_or_name: str) -> Snapshot:
        """The snapshot with this id, beginning of an id, or name, if `caller` may know of it.

        Raises
        ------
        SnapshotNotFound: it does not exist for this caller.
        """
        snapshot = await self.engine.snapshots.get(id_or_name)
        if not caller.sees(snapshot.spec.name):
            raise SnapshotNotFound(f"no snapshot has the id or name {id_or_name!r}", remedy="see `bandsox snapshot list`")
        return snapshot

    async def templates(self, caller: Caller) -> list[Template]:
        """The templates that exist for `caller`, oldest first: those of machines with names that it sees."""
        names = {each.id: each.spec.name for _, each in await asyncio.to_thread(self.engine.snapshots.shelf.table.belongings, "template")}
        found = await self.engine.templates.all()
        return [each for each in found if each.snapshot in names and caller.sees(names[each.snapshot])]

    async def template(self, caller: Caller, template: str) -> Template:
        """The template with this id, or beginning of an id, if `caller` may know of it.

        Raises
        ------
        TemplateNotFound: it does not exist for this caller. Conflict: the beginning fits several.
        """
        found = await self.engine.templates.get(template)
        if found.id not in {each.id for each in await self.templates(caller)}:  # what else is known of it may have changed meanwhile
            raise TemplateNotFound(f"no template has the id {template!r}", remedy="see `bandsox template list`")
        return found

    def admit(self, caller: Caller, snapshot: Snapshot) -> None:
        """Let a caller take in a snapshot of elsewhere, or what it is based on.

        Raises
        ------
        Forbidden: it would not exist for this caller.
        """
        if not caller.sees(snapshot.spec.name):
            raise Forbidden(
                f"{caller.name} cannot take in a snapshot of {snapshot.spec.name!r}",
                cause=f"the names of its machines begin with {caller.prefix!r}",
            )

    async def check_image(self, caller: Caller, reference: str) -> None:
        """Let only administrators name images by what lies on this host, or is made by its programs, unless such an image is here.

        Raises
        ------
        Forbidden: it is such a name. InvalidReference: it is none. TemplateNotFound: it is a template that does not exist for this caller.
        """
        if reference.startswith(TEMPLATE_PREFIX):
            await self.template(caller, reference)
            return
        if caller.may(Scope.ADMIN) or reference == DEFAULT_IMAGE:
            return
        from bandsox.images import parse_reference

        if any(reference in {each.id, *each.references} for each in await self.engine.images.list()):
            return
        parsed = parse_reference(reference)
        if parsed.reads_host:
            raise Forbidden(
                f"{caller.name} may not name images of this host: {reference!r}",
                cause=f"a reference of {parsed.transport.value!r} reads its files or runs its programs",
                remedy="name an image of a registry, or one that is here",
            )

    def network_for(self, caller: Caller, wanted: shapes.NetworkDemand | str) -> Policy | str:
        """The network that `caller` wants for a machine. Only administrators attach machines to networks of the host.

        Raises
        ------
        As `policy_for`. Forbidden: it is such a network, and the caller none of those.
        """
        if not isinstance(wanted, str) or not wanted.startswith(CNI_PREFIX):
            return self.policy_for(caller, wanted)
        if not caller.may(Scope.ADMIN):
            raise Forbidden(
                f"{caller.name} may not attach VMs to the network {wanted!r}",
                cause="what a CNI network leads to is decided by the host's configuration",
                remedy="leave it out, or use a key of the scope admin",
            )
        return wanted

    def policy_for(self, caller: Caller, wanted: shapes.NetworkDemand | str) -> Policy:
        """The network policy that `caller` wants for a machine. Only administrators open a way to what is not the Internet's.

        Raises
        ------
        Forbidden: it does. InvalidRequest: a rule cannot be read.
        """
        policy = policy_of(wanted if isinstance(wanted, str) else wanted.model_dump())
        assert policy is not None
        self._check_policy(caller, policy)
        return policy

    @staticmethod
    def _check_policy(caller: Caller, policy: Policy) -> None:
        if not caller.may(Scope.ADMIN) and (private := private_rules(policy)):
            raise Forbidden(
                f"{caller.name} may not open a way to {private[0]!r}",
                cause="it is none of the Internet's, or the server's own address",
                remedy="leave the rule out, or use a key of the scope admin",
            )

    async def check_room(self, needed: int = 0) -> None:
        """Refuse what would leave less than the reserve on the storage directory's file system.

        Parameters
        ----------
        needed: how many bytes it is going to write at once.

        Raises
        ------
        StorageFull: so it is.
        """
        root, wanted = self.engine.layout.root, self.configuration.reserve_mib
        disk = await asyncio.to_thread(shutil.disk_usage, root)
        reserve = min(disk.total // 20, 1 << 30) if wanted is None else wanted << 20
        if disk.free - needed < reserve:
            raise StorageFull(
                f"the file system of {root} has {disk.free >> 20} MiB free, and {reserve >> 20} MiB of it are kept in reserve",
                remedy="free some room: delete VMs and snapshots, run `bandsox image prune`, or lower --reserve",
                detail={"free": disk.free, "reserve": reserve, "needed": needed},
            )

    @contextlib.asynccontextmanager
    async def making(self, how: str, caller: Caller, *sizes: Size, needed: int = 0) -> AsyncIterator[None]:
        """A block in which machines of these sizes are made: there is room, it is within the quota, and it is counted.

        Raises
        ------
        As `check_room` and `within_quota`.
        """
        began = time.monotonic()
        try:
            await self.check_room(needed)
            async with self.within_quota(caller, *sizes):
                yield
        except BandSoxError as error:
            self.metrics.not_made(how, error.code)
            raise
        self.metrics.made(how, time.monotonic() - began)

    @contextlib.asynccontextmanager
    async def within_quota(self, caller: Caller, *sizes: Size) -> AsyncIterator[None]:
        """A block in which machines of these sizes are made, counted while it is under way.

        Raises
        ------
        Forbidden: its machines would have more than they may. TooManyRequests: too many are made.
        """
        quotas = caller.quotas
        if quotas == NO_QUOTAS:
            yield
            return
        if quotas.creates_per_minute is not None:
            for _ in sizes:
                self._creates.count(caller.id, quotas.creates_per_minute, "new VMs")
        tickets = [object() for _ in sizes]
        async with self._counting:
            records = await self.records(caller)
            there = [Size(each.spec.vcpu, each.spec.mem_mib, each.spec.disk_size_mib) for each in records]
            coming = [each for owner, each in self._coming.values() if owner == caller.id]
            _check_quotas(quotas, [*there, *coming, *sizes])
            self._coming |= {id(ticket): (caller.id, size) for ticket, size in zip(tickets, sizes, strict=True)}
        try:
            yield
        finally:
            for ticket in tickets:
                del self._coming[id(ticket)]


def _check_quotas(quotas: Quotas, sizes: list[Size]) -> None:
    """Refuse what is over a limit. A machine that is being made may be counted twice for a moment, never not at all."""
    wanted = {
        "VMs": (len(sizes), quotas.vms),
        "CPUs": (sum(each.vcpu for each in sizes), quotas.vcpu),
        "MiB of memory": (sum(each.mem_mib for each in sizes), quotas.mem_mib),
        "MiB of disk": (sum(each.disk_mib for each in sizes), quotas.disk_mib),
    }
    for what, (total, limit) in wanted.items():
        if limit is not None and total > limit:
            raise Forbidden(f"that would be {total} {what}, and this key may have {limit}", remedy="delete a VM, or ask for a higher quota")


async def _service(request: Request) -> Service:  # FastAPI runs what is not asynchronous in a thread, each time
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


async def _caller(request: Request) -> Caller:
    caller = request.scope["caller"]
    assert isinstance(caller, Caller)
    return caller


TheService = Annotated[Service, Depends(_service)]
TheCaller = Annotated[Caller, Depends(_caller)]
