"""What a request has made whose server was killed before it could answer: found by the ids that were written down before."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from bandsox.errors import SnapshotNotFound, VMNotFound
from bandsox.models import VMRecord, VMStatus
from bandsox.server.service import Service
from bandsox.store import Changes
from bandsox.vm import AsyncMicroVM


async def machine(service: Service, plan: Sequence[str], status: str) -> dict[str, Any] | None:
    """The answer about the machine that was made, even if it was deleted since; None: it was not, and nothing is left of it."""
    found = await machines(service, plan)
    if found is not None:
        return {"id": found[0].id, "status": status, "name": found[0].spec.name}
    ran = await asyncio.to_thread(Changes(service.engine.database).latest, "vm.status", plan[0])
    return None if ran is None or ran.status == VMStatus.CREATING else {"id": plan[0], "status": status, "name": ran.name}


async def machines(service: Service, plan: Sequence[str]) -> list[VMRecord] | None:
    """The machines that were made, if all of them were; None: nothing is left of them."""
    records = []
    for vm_id in plan:
        with contextlib.suppress(VMNotFound):
            records.append(await service.engine.get(vm_id))
    if len(records) == len(plan) and all(record.status is not VMStatus.CREATING for record in records):
        return records
    for record in records:
        await service.engine.delete(record.id)
    return None


async def checkpoint(machine: AsyncMicroVM, plan: Sequence[str]) -> dict[str, Any] | None:
    """The answer about the checkpoint that was made; None: it was not."""
    return next((dataclasses.asdict(each) for each in await machine.checkpoints() if each.snapshot == plan[0]), None)


async def snapshot(service: Service, plan: Sequence[str]) -> dict[str, Any] | None:
    """The answer about the snapshot that was taken; None: it was not."""
    try:
        found = await service.engine.snapshots.get(plan[0])
    except SnapshotNotFound:
        return None
    return {"snapshot_id": found.name, "id": found.id}
