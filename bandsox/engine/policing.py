"""The verbs on where a machine may go in its network, and on what it did there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bandsox.errors import Conflict
from bandsox.models import Connection, NetworkEvent, NetworkStats, Policy, VMRecord, VMStatus
from bandsox.network import filter as filtering
from bandsox.network import vault
from bandsox.network.policy import compiled
from bandsox.settings import Layout


class _Update(Protocol):
    async def __call__(self, vm_id: str, /, *, spec_policy: Policy) -> VMRecord: ...


class Policing:
    """The policies of the machines of one storage directory.

    Parameters
    ----------
    get, lock, update: the engine's ways to a machine's record as it is now, its lock, and its record in the store.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        get: Callable[[str], Awaitable[VMRecord]],
        lock: Callable[[str], AbstractAsyncContextManager[None]],
        update: _Update,
    ) -> None:
        self._layout, self._get, self._lock, self._update = layout, get, lock, update

    async def set(self, vm_id: str, policy: Policy) -> VMRecord:
        """Put a policy in force, for a running machine at once, connections that are open included; for all its later starts.

        Raises
        ------
        HostError: the filter has ended, or this host cannot do it. The machine has its old policy still, or no network any more.
        """
        async with self._lock(vm_id):
            record = await self._get(vm_id)
            if record.network is not None and _is_up(record):
                await asyncio.to_thread(filtering.command, self._layout.vm(record.id), op="policy", policy=compiled(policy))
            return await self._update(record.id, spec_policy=policy)

    async def set_secret(self, vm_id: str, name: str, value: str | None) -> VMRecord:
        """Give a machine's secret another value, for a running machine at once; None withdraws it, so that requests go without.

        Raises
        ------
        Conflict: the machine has no such secret. InvalidRequest: a header cannot have this value.
        HostError: the filter has ended; the value holds from the machine's next start.
        """
        async with self._lock(vm_id):
            record = await self._get(vm_id)
            if name not in record.spec.secrets:
                raise Conflict(f"VM {record.spec.name} has no secret {name}", remedy="secrets are given when a VM is created")
            directory = self._layout.vm(record.id)
            kept = await asyncio.to_thread(vault.read, directory)
            kept.values.pop(name, None)
            if value is not None:
                kept.values[name] = vault.check_value(name, value)
            await asyncio.to_thread(vault.write, directory, kept)
            if record.network is not None and _is_up(record):
                compiled_secrets = vault.compiled(record.spec.secrets, kept.values)
                await asyncio.to_thread(filtering.command, directory, op="secrets", secrets=compiled_secrets)
        return record

    async def secrets(self, vm_id: str) -> dict[str, bool]:
        """The names of a machine's secrets, and whether each has a value."""
        record = await self._get(vm_id)
        kept = await asyncio.to_thread(vault.read, self._layout.vm(record.id))
        return {name: name in kept.values for name in record.spec.secrets}

    async def cut(self, record: VMRecord) -> str | None:
        """Why a machine that has a policy has no network any more; None where it has."""
        if not record.spec.filtered or record.network is None or not _is_up(record):
            return None
        alive = await asyncio.to_thread(filtering.is_alive, self._layout.vm(record.id))
        return None if alive else f"the filter has ended: {filtering.CUT}"

    async def stats(self, vm_id: str) -> NetworkStats:
        """How much a machine has used its network since its start.

        Raises
        ------
        Conflict: it has none, or does not run. HostError: the filter has ended.
        """
        record = await self._get(vm_id)
        _check_policed(record)
        if not _is_up(record):
            raise Conflict(f"VM {record.spec.name} is {record.status.value}", remedy="start it first")
        state = await asyncio.to_thread(filtering.command, self._layout.vm(record.id), op="state")
        return NetworkStats(sent=state.sent, received=state.received, open=state.open, opened=state.opened, refused=state.refused)

    async def log(self, vm_id: str) -> list[Connection]:
        """What a machine has connected to, and tried to, as far as it is kept; the oldest first.

        Raises
        ------
        Conflict: nothing is written down, since it has no policy.
        """
        record = await self._get(vm_id)
        _check_policed(record)
        return connections(await asyncio.to_thread(filtering.written, self._layout.vm(record.id)))

    async def learned(self, vm_id: str) -> Policy:
        """The policy that allows just what a machine has connected to, as far as the log is kept; see `learned_from`.

        Raises
        ------
        Conflict: as for `log`.
        """
        return learned_from(await self.log(vm_id))

    @contextlib.asynccontextmanager
    async def following(self, vm_id: str) -> AsyncIterator[AsyncIterator[NetworkEvent]]:
        """What a machine connects to from the beginning of the block on, as it happens, until its network ends.

        Raises
        ------
        Conflict: as for `log`. HostError: the filter has ended.
        """
        record = await self._get(vm_id)
        _check_policed(record)
        async with filtering.following(self._layout.vm(record.id)) as events:
            yield events


def connections(events: Iterable[NetworkEvent]) -> list[Connection]:
    """What became of each connection, of what was written down about it."""
    found: dict[int, Connection] = {}
    for event in events:
        if event.event == "closed" and (opened := found.get(event.id)) is not None:
            found[event.id] = dataclasses.replace(opened, sent=event.sent, received=event.received, ended=event.time)
        elif event.event != "closed":
            found[event.id] = Connection(
                time=event.time,
                protocol=event.protocol,
                name=event.name,
                address=event.address,
                port=event.port,
                verdict="refused" if event.event == "refused" else "allowed",
                reason=event.reason,
            )
    return list(found.values())


def learned_from(log: Iterable[Connection]) -> Policy:
    """The policy that allows the connections of a log that were allowed: by name where there was one, at the ports that were used."""
    ports: dict[tuple[str, str], set[int]] = {}
    for entry in log:
        if entry.verdict == "allowed":
            by_name = entry.name and not (entry.protocol == "udp" and entry.port == 443)
            place = entry.name if by_name else f"[{entry.address}]" if ":" in entry.address else entry.address
            ports.setdefault((place, entry.protocol), set()).add(entry.port)
    return Policy(allow=tuple(sorted(_rule(place, protocol, found) for (place, protocol), found in ports.items())))


def _rule(place: str, protocol: str, ports: set[int]) -> str:
    return f"{place}/{protocol}" if ports == {0} else f"{place}:{','.join(map(str, sorted(ports)))}/{protocol}"


def _is_up(record: VMRecord) -> bool:
    return record.status in {VMStatus.RUNNING, VMStatus.PAUSED}


def _check_policed(record: VMRecord) -> None:
    if not record.spec.filtered:
        remedy = "give it one, such as network='internet', or set_network_policy"
        raise Conflict(f"VM {record.spec.name} has no network policy, so nothing is counted and written down", remedy=remedy)
