"""What processes that died have left behind, found by ownership, and removed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bandsox.engine import ownership
from bandsox.errors import MissingTool, VMNotFound
from bandsox.locks import Locks
from bandsox.models import VMStatus
from bandsox.process import ProcessId
from bandsox.settings import Layout
from bandsox.store import VMs

if TYPE_CHECKING:
    from bandsox.network.networks import Networks

DISUSED_S = 24 * 3600.0
"""For how long nobody must have wanted a copy of a program, or gone on with a download."""


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
    files = _remove_work_files(layout) + _remove_sockets(layout, vms) + _remove_disused(layout, vms)
    return Removed(tuple(half_made), processes, files)


async def detach(layout: Layout, vms: VMs, networks: Networks) -> int:
    """Give back what machines that do not run hold of CNI networks, since somebody has killed their keepers; return how many there were.

    Raises
    ------
    HostError: the plugins cannot; it can be tried again.
    """
    left = 0
    for vm_id in await asyncio.to_thread(networks.attached):
        with contextlib.ExitStack() as locked:
            if layout.vm(vm_id).is_dir() and not locked.enter_context(Locks(layout.vm(vm_id) / "lock").try_hold()):
                continue
            if not _runs(layout, vms, vm_id):
                await asyncio.to_thread(networks.detach, vm_id)
                left += 1
    return left


async def sweep(layout: Layout, vms: VMs, networks: Networks) -> None:
    """Remove from the host what is left of root's networks, since somebody has killed their keepers.

    Raises
    ------
    HostError: it cannot be removed; it can be tried again.
    """
    from bandsox.engine.networking import left_on_host

    with contextlib.ExitStack() as locked:
        left = []
        for record in await asyncio.to_thread(vms.list):
            directory = layout.vm(record.id)
            if left_on_host(record, directory) and locked.enter_context(Locks(directory / "lock").try_hold()):
                left += [directory] if not _runs(layout, vms, record.id) else []
        with contextlib.suppress(MissingTool):  # without nft(8) there never were any
            await asyncio.to_thread(networks.sweep, *left)


def _runs(layout: Layout, vms: VMs, vm_id: str) -> bool:
    try:
        return ownership.process_of(vms.get(vm_id), layout.vms) is not None
    except VMNotFound:
        return False


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


def _remove_disused(layout: Layout, vms: VMs) -> int:
    """Remove downloads that nobody goes on with, and copies of programs that no new machine wants and no running one has."""
    before = time.time() - DISUSED_S
    mounted = [_mounts(process) for record in vms.list() if (process := ownership.process_of(record, layout.vms)) is not None]
    removed = 0
    for directory in (layout.downloads, layout.programs):
        for entry in directory.iterdir() if directory.is_dir() else ():
            used = any(f"/{directory.name}/{entry.name}{end}" in mounts for mounts in mounted for end in " /")  # it, or a part of it
            if entry.lstat().st_mtime < before and not used:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
                removed += 1
    return removed


def _mounts(process: ProcessId) -> str:
    """What a process sees mounted, and from where (proc(5))."""
    try:
        return Path(f"/proc/{process.pid}/mountinfo").read_text()
    except OSError:  # it has just ended
        return ""


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
