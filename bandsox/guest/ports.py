"""The way to a guest with virtio-serial ports: Unix sockets, each for one client at a time.

The ports' directory holds ``port<N>.sock``, which the hypervisor listens on, and ``port<N>.lock``. Whoever holds the exclusive
``flock`` on a lock file owns the port; the kernel gives it back when its owner dies. The file's one byte says in what state
the last owner left the port: ``c`` at a frame boundary, ``d`` perhaps within a frame (``docs/protocol.md``, "Starting a
connection").

A free port is taken at once. Where there is none, the hypervisor may be able to add one; only when it has added all it can there is
waiting, fair and without polling. Within a link waiters stand in a queue, first come, first served
within their lane; a port that is given back goes to the first who may have it. For a port that another process
(or another link) holds, a thread blocks in ``flock``, one a port and only while somebody waits. ``flock`` cannot be
interrupted, so when the waiters have gone such a thread stays until its port is free, and then gives it back.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import anyio

from bandsox.errors import MachineStopped, Timeout
from bandsox.guest.frames import RESYNC
from bandsox.guest.link import Channel, HandedOver, Lane, connect_unix
from bandsox.guest.waiting import DeadlinePassed

RESERVED = 2
"""How many ports long-lived operations leave to others, where there are at least three."""

HANDOVERS = 16
"""How often a link passes a port on among its own waiters before other processes get their turn."""

_CLEAN, _DIRTY = b"c", b"d"


@dataclass(eq=False)
class _Waiter:
    lane: Lane
    granted: asyncio.Future[_Lock]


class _Lock:
    """The lock of one port, held as long as its file is open."""

    def __init__(self, port: int, file: io.FileIO) -> None:
        self.port = port
        self.handovers = 0
        self._file = file

    @property
    def dirty(self) -> bool:
        """Whether the last user may have left the port within a frame."""
        return os.pread(self._file.fileno(), 1, 0) not in (b"", _CLEAN)

    def take(self) -> bool:
        """Mark the port as in use; whether it was `dirty`."""
        dirty = self.dirty
        os.pwrite(self._file.fileno(), _DIRTY, 0)
        return dirty

    def mark_clean(self) -> None:
        os.pwrite(self._file.fileno(), _CLEAN, 0)

    def detach(self) -> int:
        """The descriptor of the locked file; the lock is held as long as anybody has it open."""
        descriptor = os.dup(self._file.fileno())
        self._file.close()
        return descriptor

    def unlock(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)  # by name, because a forked child may have the file open too
        self._file.close()


def at_boundary(directory: Path, count: int) -> tuple[int, ...]:
    """The ports of a machine whose CPUs stand still at which its agent stands at a frame boundary.

    Such a port was left so by its last user, or nobody has had it; and nobody has taken it since, who could not have come to an end.
    """
    return tuple(port for port in range(count) if _left_clean(directory / f"port{port}.lock"))


def _left_clean(lock: Path) -> bool:
    try:
        return lock.read_bytes() in {b"", _CLEAN}
    except FileNotFoundError:
        return True


def recall_frames(directory: Path, count: int, at_boundary: Collection[int]) -> None:
    """Note of each port of a machine that goes on from a snapshot whether its last user may have left it within a frame.

    `directory` is new, and nobody uses its ports yet. `at_boundary`: the ports of which that is not so.
    """
    for port in range(count):
        descriptor = os.open(directory / f"port{port}.lock", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, _CLEAN if port in at_boundary else _DIRTY)
        finally:
            os.close(descriptor)


class _PortChannel(Channel):
    """A port's socket, together with the port's lock."""

    def __init__(self, sock: socket.socket, lock: _Lock, link: PortLink) -> None:
        super().__init__(sock, preamble=RESYNC if lock.take() else b"", handed_on=True)
        self._lock = lock
        self._link = link

    def release(self, *, clean: bool) -> None:
        """See `Channel.release`; the port goes to the next in the queue."""
        super().release(clean=clean)
        if clean:
            self._lock.mark_clean()
        self._link.give_back(self._lock)

    def hand_over(self) -> HandedOver:
        """See `Channel.hand_over`; the port is taken as long as the other process lives."""
        self._link.lose(self._lock)
        return HandedOver(self.sock.detach(), self._lock.detach())


class PortLink:
    """A guest behind virtio-serial ports, whose sockets and locks are in `directory`.

    One link serves one event loop at a time. It holds nothing between operations.

    Parameters
    ----------
    count: how many ports there are at least.
    more: adds a port where there are only as many as it is given, and returns how many there are then; None: there are
        never more.
    """

    def __init__(self, directory: Path, count: int, more: Callable[[int], Awaitable[int]] | None = None) -> None:
        self.directory = directory
        self.count = count
        self._more = more
        self._held: set[int] = set()
        self._awaited: set[int] = set()
        self._waiters: deque[_Waiter] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self, lane: Lane, deadline: float | None) -> Channel:
        """See `Link.open`."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            # Whatever an earlier event loop left unfinished is forgotten: the locks themselves tell what is held.
            self._loop = loop
            self._held, self._awaited, self._waiters = set(), set(), deque()
        lock = self._try(lane) or await self._grow(lane, deadline) or await self._wait(lane, deadline)
        try:
            sock = await connect_unix(f"{self.directory}/port{lock.port}.sock", deadline)
        except BaseException:
            self.give_back(lock)
            raise
        return _PortChannel(sock, lock, self)

    def _usable(self, lane: Lane) -> range:
        """The ports for `lane`, preferred ones first: the reserved ones for those who may have them."""
        count = min(self.count, max(1, self.count - RESERVED) + lane)
        return range(count) if lane is Lane.LONG else range(count - 1, -1, -1)

    def _try(self, lane: Lane) -> _Lock | None:
        """A port that is free now, unless somebody has waited longer for it; one that needs padding only where there is no other."""
        needy = []
        for port in self._usable(lane):
            taken = port in self._held or port in self._awaited or self._next_for(port)
            if not taken and (lock := self._lock_now(port)):
                if not lock.dirty:
                    return lock
                needy.append(port)
                self.give_back(lock)
        return next((lock for port in needy if (lock := self._lock_now(port))), None)

    async def _grow(self, lane: Lane, deadline: float | None) -> _Lock | None:
        """A port among those that were added meanwhile, or are added now."""
        if self._more is None:
            return None
        loop = asyncio.get_running_loop()
        with anyio.move_on_after(None if deadline is None else deadline - loop.time()):
            while (count := await self._more(known := self.count)) > known:
                self.count = max(self.count, count)
                if lock := self._try(lane):
                    return lock
        return None

    def _lock_now(self, port: int) -> _Lock | None:
        file = self._open_lock(port)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        self._held.add(port)
        return _Lock(port, file)

    def _open_lock(self, port: int) -> io.FileIO:
        path = f"{self.directory}/port{port}.lock"
        try:
            return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+")
        except FileNotFoundError as error:
            raise MachineStopped(f"{self.directory} does not exist", cause="the machine has no sockets: it is not running") from error

    async def _wait(self, lane: Lane, deadline: float | None) -> _Lock:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(lane, loop.create_future())
        self._waiters.append(waiter)
        self._await_others(lane)
        timer = loop.call_at(deadline, _expire, waiter.granted) if deadline is not None else None
        try:
            return await waiter.granted
        except DeadlinePassed:
            raise Timeout(
                f"all {len(self._usable(lane))} connections to the guest stayed in use",
                cause="each running command, attached session, watch and transfer holds one of the machine's "
                f"{self.count} virtio-serial ports",
                remedy="end some of them, or try again later",
            ) from None
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self.give_back(waiter.granted.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if timer is not None:
                timer.cancel()

    def _await_others(self, lane: Lane) -> None:
        """Let a thread wait for each port of `lane` that somebody outside this link holds."""
        for port in self._usable(lane):
            if port not in self._held and port not in self._awaited:
                file = self._open_lock(port)
                self._awaited.add(port)
                threading.Thread(target=self._lock_blocking, args=(port, file), name=f"bandsox-port{port}", daemon=True).start()

    def _lock_blocking(self, port: int, file: io.FileIO) -> None:
        """In a thread: wait for the lock, and give it to whoever then waits."""
        fcntl.flock(file, fcntl.LOCK_EX)
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._locked, _Lock(port, file))
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._awaited.discard(port)
            file.close()

    def _locked(self, lock: _Lock) -> None:
        self._awaited.discard(lock.port)
        self._held.add(lock.port)
        self.give_back(lock)

    def lose(self, lock: _Lock) -> None:
        """Leave a port to another process. Who waits for it waits for that one."""
        self._held.discard(lock.port)
        for waiter in self._waiters:
            self._await_others(waiter.lane)

    def give_back(self, lock: _Lock) -> None:
        """Pass a port on to the first waiter who may have it, or unlock it."""
        waiter = self._next_for(lock.port)
        if waiter is not None and lock.handovers < HANDOVERS:
            lock.handovers += 1
            waiter.granted.set_result(lock)
            return
        self._held.discard(lock.port)
        lock.unlock()
        if waiter is not None:
            self._await_others(waiter.lane)

    def _next_for(self, port: int) -> _Waiter | None:
        for waiter in self._waiters:
            if not waiter.granted.done() and port in self._usable(waiter.lane):
                return waiter
        return None


def _expire(granted: asyncio.Future[_Lock]) -> None:
    if not granted.done():
        granted.set_exception(DeadlinePassed())
