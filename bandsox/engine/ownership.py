"""Which processes belong to a machine: those that work in its directory.

The VMM of a machine, and whatever helps it, is started with the machine's directory as its working directory and stays
there. So a process whose creator was killed before it could write down the pid is still found, by what it owns and
never by its name.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from bandsox.process import ProcessId


def processes_in(directories: Path) -> Iterator[tuple[str, ProcessId]]:
    """Every process of this user that works in a directory below `directories`, with that directory's name."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            place = (entry / "cwd").readlink()
        except OSError:  # ended meanwhile, a kernel thread, or another user's
            continue
        name = place.name.removesuffix(" (deleted)")
        if place.parent == directories and (process := ProcessId.of(int(entry.name))) is not None and process.is_alive():
            yield name, process


async def end(process: ProcessId) -> None:
    """Kill `process` and wait until it has ended."""
    process.signal(signal.SIGKILL)
    await process.wait()


async def end_all(directories: Path, name: str) -> int:
    """Kill every process that works in the directory `name` below `directories`, and return how many there were."""
    owned = [process for owner, process in processes_in(directories) if owner == name]
    for process in owned:
        await end(process)
    return len(owned)
