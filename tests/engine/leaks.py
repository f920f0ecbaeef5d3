"""What a machine could leave behind on this host: processes, sockets, mounts, files, descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from dataclasses import dataclass
from pathlib import Path

from bandsox.portal import portal
from bandsox.process import ProcessId
from bandsox.settings import Layout


@dataclass(frozen=True)
class Traces:
    """Everything of BandSox's on this host at one moment.

    What is known of the host until its next reboot lies beside the machines' directories of sockets and is no trace.
    """

    processes: frozenset[str]
    files: frozenset[str]
    sockets: frozenset[str]
    mounts: frozenset[str]
    descriptors: int

    @classmethod
    def of(cls, layout: Layout) -> Traces:
        gc.collect()  # what an earlier test has dropped is not to vanish in between
        portal.run(_turns())
        return cls(
            processes=frozenset(_processes(layout)),
            files=frozenset(str(path) for root in (layout.vms, layout.work) for path in root.rglob("*") if not _is_own_work(layout, path)),
            sockets=frozenset(str(path) for path in layout.runtime.rglob("*") if not _is_known(layout, path)),
            mounts=frozenset(filter(_may_be_ours, Path("/proc/self/mounts").read_text().splitlines())),
            descriptors=sum(not str(place).startswith(str(layout.database)) for place in _descriptors()),
        )

    def changes_since(self, before: Traces) -> dict[str, object]:
        """What is not as it was, by its kind: nothing, where nothing was left. That fewer descriptors are open is no change: what an
        earlier test has used is closed in its own time."""
        kinds = ("processes", "files", "sockets", "mounts")
        changes: dict[str, object] = {kind: changed for kind in kinds if (changed := getattr(self, kind) ^ getattr(before, kind))}
        if self.descriptors > before.descriptors:
            changes["descriptors"] = (before.descriptors, self.descriptors)
        return changes


async def _turns() -> None:
    """Let the event loop finish with what was closed: it closes the socket of a transport, or a process's, a turn or two later."""
    for _ in range(5):
        await asyncio.sleep(0)


def _descriptors() -> list[Path]:
    """What this process has open. Each of its threads may keep a connection to the database, which is left out above."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(entry.readlink())
        except FileNotFoundError:  # the listing's own
            continue
    return found


def _may_be_ours(mount: str) -> bool:
    """Whether a line of mounts is not one of another process of this test run, or of a builder of images that is tested against."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    others = worker is not None and "/popen-gw" in mount and f"/popen-{worker}/" not in mount
    return not others and "/containers/storage/" not in mount


def _processes(layout: Layout) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                place = (entry / "cwd").readlink()
            except OSError:
                continue
            if layout.root in place.parents:
                found.append(f"{entry.name} {place}")
    return found


def processes_with(*words: str) -> list[ProcessId]:
    """The processes in whose command line all these words are."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_text().split("\0")
                process = ProcessId.of(int(entry.name))
                if process is not None and set(words) <= set(arguments):
                    found.append(process)
    return found


def _is_known(layout: Layout, path: Path) -> bool:
    """What is known of the host, and the lock of a port, which whoever takes the port first leaves beside it."""
    return (path.parent == layout.runtime and not path.is_dir()) or (path.suffix == ".lock" and path.with_suffix(".sock").exists())


def _is_own_work(layout: Layout, path: Path) -> bool:
    """Each process keeps an empty directory of its own for work under way, until it ends."""
    return path.parent == layout.work and not any(path.iterdir())
