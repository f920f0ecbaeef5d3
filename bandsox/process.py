"""Processes named beyond doubt, waited for by event.

A pid alone may by now be somebody else's; pid and start time together never are. `watch` turns a process's end into
an event through a pidfd (pidfd_open(2), Linux 5.3).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

_STATE_FIELD = 0
_PARENT_FIELD = 1
_SESSION_FIELD = 3
_START_TIME_FIELD = 19
"""Indices behind the command's closing parenthesis: fields 3, 4, 6 and 22 of proc_pid_stat(5)."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process: its pid, and its start time in clock ticks since boot."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has `pid` now; None when there is none."""
        fields = _stat_fields(pid)
        return None if fields is None else cls(pid, int(fields[_START_TIME_FIELD]))

    @classmethod
    def current(cls) -> ProcessId:
        """This process."""
        this = cls.of(os.getpid())
        assert this is not None
        return this

    def keeper(self) -> ProcessId | None:
        """Its parent, where that leads the session both are in: what was started to run it, and ends with it. None for a leader."""
        fields = _stat_fields(self.pid)
        if fields is None or int(fields[_START_TIME_FIELD]) != self.start or fields[_PARENT_FIELD] != fields[_SESSION_FIELD]:
            return None
        return ProcessId.of(int(fields[_PARENT_FIELD]))

    def is_alive(self) -> bool:
        """Whether it still runs. A zombie does not: it has ended and only waits for its parent."""
        fields = _stat_fields(self.pid)
        return fields is not None and int(fields[_START_TIME_FIELD]) == self.start and fields[_STATE_FIELD] not in {"Z", "X"}

    @contextlib.contextmanager
    def handle(self) -> Iterator[int | None]:
        """A pidfd that denotes this very process; None when nothing is left of it."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield pidfd if ProcessId.of(self.pid) == self else None
        finally:
            os.close(pidfd)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this process and to no other; False when it has ended."""
        with self.handle() as pidfd:
            if pidfd is None:
                return False
            try:
                signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                return False
            return True

    async def wait(self) -> None:
        """Return when it has ended; reaps it when it is this process's child."""
        with self.handle() as pidfd:
            if pidfd is not None:
                await _readable(pidfd)
        self.reap()

    def reap(self) -> bool:
        """Whether it has ended with all its threads; if it was this process's child, no zombie stays of it."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return not self.is_alive()


async def _readable(descriptor: int) -> None:
    import asyncio  # costs what completing a name on the command line should not

    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _stat_fields(pid: int) -> list[str] | None:
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is being looked for
        return None
    try:
        text = os.read(file, 4096).decode(errors="replace")
    except ProcessLookupError:
        return None
    finally:
        os.close(file)
    return text[text.rindex(")") + 2 :].split(maxsplit=_START_TIME_FIELD + 1)
