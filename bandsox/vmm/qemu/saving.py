"""Saving a paused machine, and going on from what was saved.

QEMU writes a machine as one stream (`bandsox.vmm.qemu.migration_stream`), into a pipe, so that it never holds a file of a snapshot. A
thread moves that into a file (splice(2)) and counts; the machine can go on as soon as it has ended. Only then is it taken apart, into the
memory, which all clones map, and the state, which each clone reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import selectors
import time
from pathlib import Path

from bandsox.errors import VMMError
from bandsox.models import Shape
from bandsox.vmm.qemu import migration_stream, qmp
from bandsox.workers import in_thread, storage_errors

RAM = "memory"
"""The file with the guest's memory: sparse, and as large as that."""

STATE = "state"
"""The file with the state of the devices."""

_STREAM = "stream"
_DESCRIPTOR = "snapshot"
_PIPE_SIZE = 1 << 20
_CHUNK = 1 << 20
_UNLIMITED = 1 << 60  # bytes a second

_STALL_S = 30.0
"""How long QEMU may write nothing."""

_TIDYING = {"finish-migrate", "postmigrate"}
_TIDYING_S = 30.0
_TIDYING_PAUSE_S = 0.002
"""What a QEMU says of itself that could not write all of a machine, until it has tidied up after that; how long it may; and how often it is
asked, since there is no event for the end of it (QEMU, migration/migration.c, migration_iteration_finish)."""


async def save(monitor: qmp.Monitor, target: Path, most_memory: int, ports: int) -> Shape:
    """Have a paused machine written to a file in `target`; see `VMM.save`. It has at most `most_memory` bytes of memory."""
    memory = (await monitor.execute("query-memory-size-summary")).get("base-memory")
    if not isinstance(memory, int) or not 0 < memory <= most_memory or memory % migration_stream.PAGE_SIZE:
        raise VMMError("QEMU tells of a memory that cannot be", cause=f"{memory!r} bytes")
    await monitor.execute("migrate-set-parameters", **{"max-bandwidth": _UNLIMITED})
    with contextlib.ExitStack() as ends:  # when these are closed early, QEMU gives up by itself
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ends.callback(os.close, reading)
        try:
            with contextlib.suppress(PermissionError):  # a user has only so many pages of pipes (pipe(7)), and a small one does too
                fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            await monitor.execute("getfd", fdname=_DESCRIPTOR, descriptor=writing)
        finally:
            os.close(writing)
        await monitor.execute("migrate", uri=f"fd:{_DESCRIPTOR}")
        wake = os.eventfd(0, os.EFD_CLOEXEC)
        ends.callback(os.close, wake)
        limit = migration_stream.stream_limit(memory)
        await in_thread(lambda _: _receive(reading, target / _STREAM, limit, wake), on_stop=functools.partial(os.eventfd_write, wake, 1))
    found = await monitor.execute("query-migrate")
    if found.get("status") != "completed":
        raise VMMError("QEMU did not save the machine", cause=str(found.get("error-desc", found.get("status"))))
    return Shape(memory, ports)


def settle(target: Path, shape: Shape) -> None:
    """Take apart what `save` has written to `target`; see `VMM.settle`. Blocks."""
    with storage_errors(target):
        migration_stream.split(target / _STREAM, target / RAM, target / STATE, shape.ram_bytes)
    (target / _STREAM).unlink()


async def load(monitor: qmp.Monitor, directory: Path) -> None:
    """Have a QEMU that waits for it read the state in `directory`, and let its guest go on.

    Raises
    ------
    VMMError: it refused. MachineStopped: it ended, as it does when the state does not fit; its log says why.
    """
    await monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    await monitor.execute("migrate-set-parameters", **{"announce-rounds": 0})  # it may have another address by then, and says so itself
    with (directory / STATE).open("rb") as state:
        await monitor.execute("getfd", fdname=_DESCRIPTOR, descriptor=state.fileno())
    await monitor.execute("migrate-incoming", uri=f"fd:{_DESCRIPTOR}")
    while (status := (await monitor.event("MIGRATION")).get("status")) != "completed":
        if status == "failed":
            raise VMMError("QEMU could not go on from the snapshot")
    await monitor.execute("cont")


async def go_on(monitor: qmp.Monitor) -> None:
    """Let the CPUs of a machine go on that stands still, perhaps because it was being saved.

    Raises
    ------
    VMMError: QEMU refused.
    """
    deadline = time.monotonic() + _TIDYING_S
    while True:
        try:
            await monitor.execute("cont")
        except VMMError:
            if time.monotonic() > deadline or (await monitor.execute("query-status")).get("status") not in _TIDYING:
                raise
            await asyncio.sleep(_TIDYING_PAUSE_S)
        else:
            return


def _receive(reading: int, path: Path, limit: int, wake: int) -> None:
    """Move what comes out of a pipe into a new file, until its other end is closed or somebody calls at `wake`."""
    received = 0
    with storage_errors(path.parent), path.open("xb") as file, selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while ready := selector.select(_STALL_S):
            if any(key.fd == wake for key, _ in ready):
                return
            count = os.splice(reading, file.fileno(), _CHUNK, flags=os.SPLICE_F_NONBLOCK)
            if count == 0:
                return
            received += count
            if received > limit:
                raise VMMError("QEMU writes more of the machine than there can be")
    raise VMMError(f"QEMU has written nothing of the machine for {_STALL_S:.0f} s")
