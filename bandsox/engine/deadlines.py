"""Machines whose time is limited: as a whole (``ttl``), and while nobody uses them (``idle_timeout``).

A machine is in use while an operation on its guest is under way, through whichever process: each holds a shared lock on the file
``used`` in the machine's directory, and sets its time when it ends. It is in use as well while a session runs in it, which is
looked at when its time is over, and then each ``idle_timeout`` again. What is done then is the machine's ``on_expiry``, by whichever
process notices first, while nobody can begin another operation; one who waits for that and whose machine has ``auto_resume`` wakes it
again.

The housekeeper (`bandsox.engine.housekeeper`) notices where nobody else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandsox.engine import identity, retention
from bandsox.engine.housekeeper import CHANGES, LOCK, USED
from bandsox.errors import BandSoxError, Conflict, InvalidRequest, VMNotFound
from bandsox.locks import Locks, try_lock_file
from bandsox.models import Deadlines, VMRecord, VMStatus
from bandsox.settings import Layout

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine


def has_deadline(record: VMRecord) -> bool:
    """Whether somebody has to look after a machine's time."""
    return record.expires_at is not None or record.spec.idle_timeout is not None


def begin(layout: Layout, record: VMRecord) -> None:
    """A machine has begun to run, or a deadline has changed: its idle time starts now, and the housekeeper hears of it."""
    if record.spec.idle_timeout is not None:
        touch(layout.vm(record.id))
    if has_deadline(record):
        wake_housekeeper(layout)


def ended(layout: Layout, record: VMRecord) -> None:
    """A machine runs no more, or is gone: the housekeeper hears of it, which ends with the last deadline."""
    if has_deadline(record):
        _tell(layout)
    if record.restored_from is not None:
        retention.tell(layout)


def wake_housekeeper(layout: Layout) -> None:
    """Have the housekeeper look what there is to do, and see to it that there is one."""
    (layout.locks / CHANGES).touch(mode=0o600)
    ensure_housekeeper(layout)


def _tell(layout: Layout) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.utime(layout.locks / CHANGES)


def anew(record: VMRecord) -> dict[str, float]:
    """What changes in the record of a machine that begins to run: one whose time was over gets as much again."""
    if record.spec.ttl is None or record.expires_at is not None:
        return {}
    return {"expires_at": time.time() + record.spec.ttl}


def touch(directory: Path) -> None:
    """A machine is used now."""
    with contextlib.suppress(FileNotFoundError):  # it is being deleted
        used = directory / USED
        used.touch(mode=0o600)
        os.utime(used)


def ensure_housekeeper(layout: Layout) -> None:
    """Start a housekeeper if there is none."""
    lock = Locks(layout.locks / LOCK)
    with lock.try_hold() as nobody:
        if not nobody:
            return
    (layout.locks / CHANGES).touch(mode=0o600)
    package = os.fspath(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    subprocess.Popen(
        [sys.executable, "-m", "bandsox.engine.housekeeper", os.fspath(layout.root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


async def change(engine: Engine, vm_id: str, wanted: Deadlines) -> VMRecord:
    """Give a machine other deadlines. A ``ttl`` is counted from now on, or, where it does not run, from when it does.

    Raises
    ------
    InvalidRequest: one of them is out of bounds, or none of those that there are.
    """
    if unknown := sorted(set(wanted) - Deadlines.__annotations__.keys()):
        raise InvalidRequest(f"there is no deadline {unknown[0]!r}", remedy=f"choose of {', '.join(Deadlines.__annotations__)}")
    async with engine.locked(vm_id):
        record = await engine.known(vm_id)
        identity.check_spec(dataclasses.replace(record.spec, **wanted))
        changes: dict[str, Any] = {f"spec_{name}": value for name, value in wanted.items()}
        if "ttl" in wanted:
            ttl = wanted["ttl"] if record.status in {VMStatus.RUNNING, VMStatus.PAUSED} else None
            changes["expires_at"] = None if ttl is None else time.time() + ttl
        changed = await engine.update(vm_id, **changes)
    begin(engine.layout, changed)
    if not has_deadline(changed):
        _tell(engine.layout)
    return changed


async def expire(engine: Engine, vm_id: str) -> bool:
    """Do what a machine's deadline asks for, if its time is over and, where it is only idle, nobody uses it; whether it was done."""
    try:
        record = await asyncio.to_thread(engine.vms.get, vm_id)
    except VMNotFound:
        return False
    overdue = record.expires_at is not None and record.expires_at <= time.time()
    if not overdue and not await _is_idle(engine, record):
        return False
    with contextlib.ExitStack() as stack:
        if record.spec.idle_timeout is not None:
            descriptor = _open_used(engine.layout.vm(vm_id))
            stack.callback(os.close, descriptor)
            nobody_uses_it = try_lock_file(descriptor)
            if not overdue and not (nobody_uses_it and _idle_for(descriptor) >= record.spec.idle_timeout):
                return False
        await _act(engine, record)
    return True


async def _is_idle(engine: Engine, record: VMRecord) -> bool:
    """Whether a machine's idle time is over. One in which a session runs begins it anew."""
    if record.spec.idle_timeout is None or record.status is not VMStatus.RUNNING:
        return False
    directory = engine.layout.vm(record.id)
    try:
        idle = time.time() - (directory / USED).stat().st_mtime
    except FileNotFoundError:
        return False
    if idle < record.spec.idle_timeout:
        return False
    sessions = []
    with contextlib.suppress(BandSoxError):  # a guest that does not answer is not in use
        sessions = await engine.direct_client(record).list_sessions()
    if any(session.running for session in sessions):
        touch(directory)
        return False
    return True


def _open_used(directory: Path) -> int:
    return os.open(directory / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _idle_for(descriptor: int) -> float:
    return time.time() - os.fstat(descriptor).st_mtime


async def _act(engine: Engine, record: VMRecord) -> None:
    match record.spec.on_expiry:
        case "delete":
            await engine.delete(record.id)
            return
        case "stop":
            await engine.stop(record.id)
        case "pause":
            with contextlib.suppress(Conflict):  # it does not run
                await engine.pause(record.id)
        case "snapshot":
            from bandsox.engine import hibernation

            with contextlib.suppress(Conflict):  # it does not run
                await hibernation.hibernate(engine, record.id)
    if record.expires_at is not None:
        await asyncio.to_thread(engine.vms.settle_deadline, record.id, record.expires_at)
