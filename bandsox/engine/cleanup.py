"""What processes that died have left behind, found by ownership, and removed."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass

from bandsox.engine import ownership
from bandsox.errors import VMNotFound
from bandsox.locks import Locks
from bandsox.models import VMStatus
from bandsox.process import ProcessId
from bandsox.settings import Layout
from bandsox.store import VMs


@dataclass(frozen=True, slots=True)
class Removed:
    """What a clean-up removed."""

    machines: tuple[str, ...]
    processes: int
    files: int


async def clean(layout: Layout, vms: VMs) -> Removed:
    """Remove half-made machines, VMMs and directories without a record, and abandoned work files.

    A machine whose lock is held is being worked on by a live process and is left alone, as is every machine that was
    made completely, whether it runs or not.
    """
    half_made, processes = [], 0
    known = {record.id: record for record in await asyncio.to_thread(vms.list)}
    found = {entry.name for entry in layout.vms.iterdir()} | set(known)
    for vm_id in sorted(found):
        if vm_id in known and known[vm_id].status is not VMStatus.CREATING:
            continue
        layout.vm(vm_id).mkdir(mode=0o700, exist_ok=True)
        with Locks(layout.vm(vm_id) / "lock").try_hold() as held:
            if held and _still_half_made(vms, vm_id):
                processes += await _remove(layout, vms, vm_id)
                half_made.append(vm_id)
    return Removed(tuple(half_made), processes, _remove_work_files(layout) + _remove_sockets(layout, vms))


def _still_half_made(vms: VMs, vm_id: str) -> bool:
    try:
        record = vms.get(vm_id)
    except VMNotFound:
        return True
    return record.id != vm_id or record.status is VMStatus.CREATING


async def _remove(layout: Layout, vms: VMs, vm_id: str) -> int:
    ended = await ownership.end_all(layout.vms, vm_id)
    shutil.rmtree(layout.sockets(vm_id), ignore_errors=True)
    shutil.rmtree(layout.vm(vm_id), ignore_errors=True)
    vms.delete(vm_id)
    return ended


def _remove_sockets(layout: Layout, vms: VMs) -> int:
    """Remove runtime directories whose machine no longer exists; none while an accelerator is being tried."""
    with Locks(layout.locks / "probe").try_hold() as nobody_tries:
        if not nobody_tries:
            return 0
        entries = [entry for entry in layout.runtime.iterdir() if entry.is_dir()]
        known = {record.id for record in vms.list()}
        orphans = [entry for entry in entries if entry.name not in known]
        for entry in orphans:
            shutil.rmtree(entry, ignore_errors=True)
        return len(orphans)


def _remove_work_files(layout: Layout) -> int:
    """Remove the work directories of processes that have ended."""
    removed = 0
    for entry in layout.work.iterdir():
        pid, _, start = entry.name.partition("-")
        alive = pid.isdigit() and start.isdigit() and ProcessId(int(pid), int(start)).is_alive()
        if not alive:
            shutil.rmtree(entry, ignore_errors=True)
            removed += 1
    return removed
