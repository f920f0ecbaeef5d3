"""The process that keeps deadlines while nobody else runs: ``python -m bandsox.engine.housekeeper STORAGE_DIR``.

They are those of machines, and of snapshots that are not kept for ever (`bandsox.engine.retention`). There is at most one for a storage
directory, started by whoever makes a machine with a deadline or finds one whose housekeeper is gone (`bandsox.engine.deadlines`), and it
ends when no deadline is left. It sleeps until the next one, or until somebody says that they have changed. It knows nothing that is not in
the registry, so it may be killed at any time. What a deadline asks for is done by another process (`bandsox.engine.expiry_child`), which
may import what it needs; this one stays small.
"""

from __future__ import annotations

import contextlib
import os
import select
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bandsox.engine import retention
from bandsox.errors import HostError
from bandsox.locks import Locks, try_lock_file
from bandsox.process import ProcessId
from bandsox.vmm.inotify import ATTRIB, Watch

CHANGES = "deadlines"
"""The file below ``locks`` that is touched by whoever changes a deadline."""

LOCK = "housekeeper"
"""The file below ``locks`` whose lock the housekeeper holds."""

USED = "used"
"""The file in a machine's directory on which all who use the machine hold a shared lock, and whose time is that of the last use."""

SNAPSHOTS = "snapshots"
"""What stands in the place of a machine's id where snapshots are due that are not kept (`bandsox.engine.retention`)."""

RETRY_S = 60.0
"""After how long a deadline is tried again that could not be kept."""

_QUERY = """
    SELECT id, status, pid, pid_start, expires_at, json_extract(record, '$.spec.idle_timeout') AS idle_timeout FROM vms
    WHERE expires_at IS NOT NULL OR (idle_timeout IS NOT NULL AND status = 'running')
"""

_TFD_CANCEL_ON_SET_ABSTIME = 3
_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK


def main() -> None:
    """Keep the deadlines of a storage directory as long as there are any."""
    root = Path(sys.argv[1])
    while _any_deadline(root):
        with Locks(root / "locks" / LOCK).try_hold() as alone:
            if not alone:
                return
            Housekeeper(root).keep()


class Housekeeper:
    """Keeps the deadlines of one storage directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._busy: set[str] = set()
        self._again: dict[str, float] = {}

    def keep(self) -> None:
        """Return when there is no deadline any more."""
        while True:
            places = {self._root / "locks" / CHANGES: ATTRIB}
            places |= {path: ATTRIB for vm_id in self._busy if (path := self._used(vm_id)).exists()}
            with contextlib.suppress(FileNotFoundError), Watch(places) as watch:
                watched, self._busy = self._busy, set()
                deadlines = dict(self._deadlines())
                self._again = {vm_id: at for vm_id, at in self._again.items() if vm_id in deadlines}
                if not deadlines and not self._busy:
                    return
                due = [vm_id for vm_id, at in deadlines.items() if at <= time.time()]
                if due:
                    self._expire(due)
                elif self._busy <= watched:
                    _sleep(watch.fileno(), min(deadlines.values(), default=None))

    def _used(self, vm_id: str) -> Path:
        return self._root / "vms" / vm_id / USED

    def _deadlines(self) -> Iterator[tuple[str, float]]:
        """When the next deadline of each machine is, on the system's clock; one that is busy has none until it is not."""
        for vm_id, _, pid, pid_start, expires_at, idle_timeout in _rows(self._root):
            running = pid is not None and ProcessId(pid, pid_start).is_alive()
            ends = [expires_at] if expires_at is not None else []
            if idle_timeout is not None and running:
                idle = self._idle_since(vm_id)
                if idle is not None and idle + idle_timeout <= time.time() and self._in_use(vm_id):
                    self._busy.add(vm_id)
                elif idle is not None:
                    ends.append(idle + idle_timeout)
            if ends:
                yield vm_id, max(min(ends), self._again.get(vm_id, 0.0))
        if (at := _next_retention(self._root)) is not None:
            yield SNAPSHOTS, max(at, self._again.get(SNAPSHOTS, 0.0))

    def _idle_since(self, vm_id: str) -> float | None:
        try:
            return self._used(vm_id).stat().st_mtime
        except FileNotFoundError:
            return None

    def _in_use(self, vm_id: str) -> bool:
        try:
            descriptor = os.open(self._used(vm_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not try_lock_file(descriptor)
        finally:
            os.close(descriptor)

    def _expire(self, due: Sequence[str]) -> None:
        """Have what these deadlines ask for done. Those for which that fails are not tried again at once."""
        for vm_id in due:
            command = [sys.executable, "-m", "bandsox.engine.expiry_child", os.fspath(self._root), vm_id]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                self._again.pop(vm_id, None)
            else:
                self._again[vm_id] = time.time() + RETRY_S


def _rows(root: Path) -> list[tuple[str, str, int | None, int, float | None, float | None]]:
    with contextlib.closing(sqlite3.connect(root / "bandsox.db", timeout=30)) as connection:
        return connection.execute(_QUERY).fetchall()


def _any_deadline(root: Path) -> bool:
    return bool(_rows(root)) or _next_retention(root) is not None


def _next_retention(root: Path) -> float | None:
    """When snapshots are to go the next time; None: none are by themselves."""
    try:
        due = retention.due(root)
    except HostError:  # nobody can tell what is to be kept, so everything is
        return None
    return 0.0 if due.now else due.next_at


def _sleep(changes: int, until: float | None) -> None:
    """Until there are changes, or until a time on the system's clock, also where that is set or the host sleeps meanwhile."""
    poll = select.poll()
    poll.register(changes, select.POLLIN)
    with _alarm(until) as alarm:
        if alarm is not None:
            poll.register(alarm, select.POLLIN)
        poll.poll()


@contextlib.contextmanager
def _alarm(until: float | None) -> Iterator[int | None]:
    """A timer (timerfd_create(2)) on the system's clock, readable then, or when that clock is set."""
    if until is None:
        yield None
        return
    import ctypes  # costs what a command that starts nothing should not

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.timerfd_create(time.CLOCK_REALTIME, _CLOEXEC_NONBLOCK)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        seconds, fraction = divmod(until, 1)
        interval = struct.pack("@qqqq", 0, 0, int(seconds), max(1, int(fraction * 1e9)))
        if libc.timerfd_settime(descriptor, _TFD_CANCEL_ON_SET_ABSTIME, interval, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        yield descriptor
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
