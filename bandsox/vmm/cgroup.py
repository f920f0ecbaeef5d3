"""How much of this host a VMM may take: a control group of its own (Linux, Documentation/admin-guide/cgroup-v2.rst).

A limit on address space does not say how much memory is really used, and none on a process holds for its I/O. A group counts both, for
the VMM and all that it starts, and the kernel enforces it. Only root can make groups that no session manager has made; the groups of
a storage directory's machines are together in one of that directory's own, so that those left behind are told from anybody else's. That
one stays until the next reboot: another process may have looked for it a moment ago and be about to make a group there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from dataclasses import dataclass
from pathlib import Path

from bandsox.errors import HostError
from bandsox.models import RateLimits

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "io", "memory", "pids")
_PERIOD_US = 100_000
_PATIENCE_MS = 2_000
"""How long a process that was killed may take to leave its group."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the processes of a group may take together.

    Parameters
    ----------
    cpus: as many CPUs' time.
    memory_mib: memory, the cache of the files they use included, which gives way first.
    threads: how many there may be.
    disk: a file of the file system that `rates` hold for, reading and writing each.
    """

    cpus: int
    memory_mib: int
    threads: int
    disk: Path
    rates: RateLimits


class Groups:
    """The groups of one storage directory's machines.

    Parameters
    ----------
    name: what tells this storage directory's from others'.
    root: where the host's groups are.
    """

    def __init__(self, name: str, root: Path = _ROOT) -> None:
        self._root = root
        self._place = root / "bandsox-vmms" / name

    def obstacle(self) -> str | None:
        """Why no group can be made here; None where one can."""
        if os.geteuid() != 0:
            return "only root can make control groups"
        try:
            offered = (self._root / "cgroup.controllers").read_text().split()
        except OSError:
            return "this host has no unified control groups (cgroup v2)"
        missing = [controller for controller in _CONTROLLERS if controller not in offered]
        if missing:
            return f"this host's control groups do not limit {' and '.join(missing)}"
        try:
            self._prepare()
        except OSError as error:
            return f"this host's control groups cannot be divided: {error.strerror}"
        return None

    def make(self, owner: str, limits: Limits) -> None:
        """Make the group of the machine `owner`, with nobody in it.

        Raises
        ------
        HostError: it cannot be made.
        """
        try:
            self._prepare()
            self.sweep()
            group = self._place / owner
            group.mkdir(exist_ok=True)
            for name, value in _settings(limits).items():
                (group / name).write_text(value)
        except OSError as error:
            raise HostError("the VM's control group cannot be made", cause=str(error)) from error

    def add(self, owner: str, pid: int) -> None:
        """Put a process, and so all that it will start, into the group.

        Raises
        ------
        HostError: it cannot be put there.
        """
        try:
            (self._place / owner / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise HostError("the VMM cannot be put into its control group", cause=str(error)) from error

    def remove(self, owner: str) -> None:
        """Remove the group of a machine whose VMM has been ended, if there is one."""
        group = self._place / owner
        with contextlib.suppress(FileNotFoundError):
            if not _removed(group):
                _wait_until_empty(group)
                _removed(group)  # where somebody is still in it, `sweep` removes it later

    def sweep(self) -> None:
        """Remove the groups that nobody is in any more. The kernel keeps the others."""
        with contextlib.suppress(FileNotFoundError):
            for group in self._place.iterdir():
                if group.is_dir():
                    _removed(group)

    def _prepare(self) -> None:
        wanted = " ".join(f"+{controller}" for controller in _CONTROLLERS)
        self._place.mkdir(parents=True, exist_ok=True)
        for directory in (self._root, self._place.parent, self._place):
            (directory / "cgroup.subtree_control").write_text(wanted)


def _settings(limits: Limits) -> dict[str, str]:
    settings = {
        "cpu.max": f"{limits.cpus * _PERIOD_US} {_PERIOD_US}",
        "memory.max": str(limits.memory_mib << 20),
        "memory.oom.group": "1",
        "pids.max": str(limits.threads),
    }
    rates = {
        **({"rbps": limits.rates.bandwidth, "wbps": limits.rates.bandwidth} if limits.rates.bandwidth is not None else {}),
        **({"riops": limits.rates.operations, "wiops": limits.rates.operations} if limits.rates.operations is not None else {}),
    }
    if rates and (device := _device(limits.disk)) is not None:
        settings["io.max"] = " ".join([device, *(f"{key}={value}" for key, value in rates.items())])
    return settings


def _device(path: Path) -> str | None:
    """The number of the whole device below a file system, as the kernel's `io.max` wants it; None where there is no one device."""
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not entry.exists():
        return None
    entry = entry.resolve()
    return ((entry.parent if (entry / "partition").exists() else entry) / "dev").read_text().strip()


def _removed(group: Path) -> bool:
    """Remove a group unless somebody is in it."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _wait_until_empty(group: Path) -> None:
    with (group / "cgroup.events").open() as events:
        changes = select.poll()
        changes.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            if not changes.poll(_PATIENCE_MS):
                return
            events.seek(0)
