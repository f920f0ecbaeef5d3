"""Which processes belong to a machine: those that work in its directory.

The VMM of a machine, and whatever helps it, is started with the machine's directory as its working directory and stays
there. So a process whose creator was killed before it could write down the pid is still found, by what it owns and
never by its name.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from bandsox.models import VMRecord, VMStatus
from bandsox.process import ProcessId


def processes_in(directories: Path) -> Iterator[tuple[str, ProcessId]]:
    """Every process of this user that works in a directory below `directories`, with that directory's name."""
    real = directories.resolve()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := ProcessId.of(int(entry.name))) is not None:
            owner = _owner(process, real)
            if owner is not None and process.is_alive():
                yield owner, process


def _owner(process: ProcessId, directories: Path) -> str | None:
    """The name of the directory below `directories`, which is no symbolic link, that a process works in; None where it does not.

    One that is still being confined works nowhere yet, and belongs where its keeper works.
    """
    owner = _name_of_place(process, directories)
    if owner is None and (keeper := process.keeper()) is not None:
        return _name_of_place(keeper, directories)
    return owner


def _name_of_place(process: ProcessId, directories: Path) -> str | None:
    """The name of the directory below `directories` that a process works in; None too where it has ended, or is a kernel thread or
    another user's.
    """
    try:
        place, _, name = os.readlink(f"/proc/{process.pid}/cwd").rpartition("/")  # noqa: PTH115 — every command asks, and text is enough
    except OSError:
        return None
    return name.removesuffix(" (deleted)") if place == str(directories) else None


HELPERS_GRACE_S = 30.0
"""What a VMM's helpers get to end after it: the keeper of its network takes that down first, for which it runs programs of the host."""


async def end(process: ProcessId) -> None:
    """Kill a machine's VMM, and wait until it has ended with what confines it."""
    keeper = process.keeper()
    process.signal(signal.SIGKILL)
    await _ended(process, keeper)


async def wait(process: ProcessId) -> None:
    """Return when a machine's VMM has ended with what confines it."""
    await _ended(process, process.keeper())


async def _ended(process: ProcessId, keeper: ProcessId | None) -> None:
    await process.wait()
    if keeper is not None and keeper != ProcessId.current():
        await keeper.wait()


async def end_all(directories: Path, name: str, grace_s: float = 0.0) -> int:
    """Kill every process that works in the directory `name` below `directories`, and return how many there were.

    Parameters
    ----------
    grace_s: seconds that they have to end by themselves.
    """
    import anyio  # costs what a look at the processes should not

    owned = [process for owner, process in processes_in(directories) if owner == name]
    with anyio.move_on_after(grace_s):
        for process in owned:
            await wait(process)
    for process in owned:
        await end(process)
    return len(owned)


def process_of(record: VMRecord, directories: Path) -> ProcessId | None:
    """The VMM of a machine whose directory is one of `directories`, if it is alive.

    A storage directory may have been copied or moved while its machines ran. They then belong where their VMMs work, and nowhere else.
    """
    if record.pid is None or record.pid_start is None:
        return None
    process = ProcessId(record.pid, record.pid_start)
    return process if _owner(process, _real(directories)) == record.id and process.is_alive() else None


@functools.cache
def _real(directories: Path) -> Path:
    return directories.resolve()


def as_it_is(record: VMRecord, directories: Path) -> VMRecord:
    """The record, which does not call a machine running whose VMM has ended; `directories` as for `process_of`."""
    if record.status in {VMStatus.RUNNING, VMStatus.PAUSED} and process_of(record, directories) is None:
        return dataclasses.replace(record, status=VMStatus.DEAD)
    return record
