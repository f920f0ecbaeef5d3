"""The verbs on ports that a machine publishes on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bandsox.engine import publishing
from bandsox.errors import Conflict
from bandsox.guest import GuestClient
from bandsox.models import PortState, PublishedPort, VMRecord, VMStatus
from bandsox.settings import Layout


class _Update(Protocol):
    async def __call__(self, vm_id: str, /, *, spec_publish: tuple[PublishedPort, ...]) -> VMRecord: ...


class Published:
    """The ports of the machines of one storage directory.

    Parameters
    ----------
    get, lock, update, client: the engine's ways to a machine's record as it is now, its lock, its record in the store, and its agent.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        get: Callable[[str], Awaitable[VMRecord]],
        lock: Callable[[str], AbstractAsyncContextManager[None]],
        update: _Update,
        client: Callable[[VMRecord], GuestClient],
    ) -> None:
        self._layout, self._get, self._lock, self._update, self._client = layout, get, lock, update, client

    async def expose(self, vm_id: str, port: PublishedPort) -> PublishedPort:
        """Publish a port of a running machine on this host; one that is published there already stays as it is.

        Raises
        ------
        Conflict: the port of this host is taken, or the machine is not running. InvalidRequest: it cannot be published.
        """
        publishing.check((port,))
        async with self._lock(vm_id):
            record = await self._get(vm_id)
            if record.status is not VMStatus.RUNNING:
                raise Conflict(f"VM {record.spec.name} is {record.status.value}", remedy="only a running VM can publish a port")
            for found in record.spec.publish:
                if (found.guest_port, found.host) == (port.guest_port, port.host) and port.host_port in {0, found.host_port}:
                    await self._mend(record)
                    return found
            async with publishing.Listeners((port,)) as listeners:
                publishing.check((*record.spec.publish, *listeners.ports))
                record = await self._update(record.id, spec_publish=(*record.spec.publish, *listeners.ports))
                await publishing.carry(self._layout.vm(record.id), lambda: self._client(record), listeners.listening)
                await self._mend(record)
        return listeners.ports[0]

    async def unexpose(self, vm_id: str, port: PublishedPort) -> None:
        """Publish a port no longer; connections that were made go on. Nothing happens when it is not published."""
        async with self._lock(vm_id):
            record = await self._get(vm_id)
            await self._update(record.id, spec_publish=tuple(found for found in record.spec.publish if found != port))
            await asyncio.to_thread(publishing.withdraw, self._layout.vm(record.id), port)

    async def states(self, vm_id: str) -> list[PortState]:
        """The ports that a machine publishes, and how they are used."""
        record = await self._get(vm_id)
        return await asyncio.to_thread(publishing.states, self._layout.vm(record.id), record.spec.publish)

    async def mend(self, vm_id: str) -> None:
        """Publish again what a running machine publishes, if its forwarder was killed.

        Raises
        ------
        Conflict: another program has taken one of the ports meanwhile.
        """
        record = await self._get(vm_id)
        if all(state.listening for state in await self.states(vm_id)):
            return
        async with self._lock(vm_id):
            record = await self._get(vm_id)
            if record.status is VMStatus.RUNNING:
                await self._mend(record)

    async def _mend(self, record: VMRecord) -> None:
        directory = self._layout.vm(record.id)
        states = await asyncio.to_thread(publishing.states, directory, record.spec.publish)
        async with publishing.Listeners([state.port for state in states if not state.listening]) as listeners:
            await publishing.carry(directory, lambda: self._client(record), listeners.listening)
