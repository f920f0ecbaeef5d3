"""Locks between processes, held by the kernel: a killed holder's lock is free at once, and waiting costs nothing.

All names share one file: each is a byte of it, at an offset made from the name, locked with an *open file description*
lock (fcntl(2)), which tasks of one process exclude each other with as well. So no lock files pile up. Two names that
fall on one byte (once in 2⁶² pairs) would merely wait for each other.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

_FLOCK = "hhqqi4x"


class Locks:
    """The locks of one storage directory's images."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @asynccontextmanager
    async def hold(self, name: str, *, shared: bool = False) -> AsyncIterator[None]:
        """Wait for the lock `name` and hold it."""
        descriptor = self._open()
        try:
            if not _try_lock(descriptor, name, shared):
                descriptor = await _wait(descriptor, name, shared)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def try_hold(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` alone if nobody has it; the value says whether it is held."""
        descriptor = self._open()
        try:
            yield _try_lock(descriptor, name, shared=False)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, name: str, shared: bool, command: int) -> None:
    offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2
    request = struct.pack(_FLOCK, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    fcntl.fcntl(descriptor, command, request)


def _try_lock(descriptor: int, name: str, shared: bool) -> bool:
    try:
        _lock(descriptor, name, shared, fcntl.F_OFD_SETLK)
    except (BlockingIOError, PermissionError):
        return False
    return True


async def _wait(descriptor: int, name: str, shared: bool) -> int:
    """Wait in a thread of its own, which a cancelled caller leaves behind: it ends when its turn comes, or with
    the process. It waits on a duplicate, which is the same open file description, so either may be closed first."""
    loop = asyncio.get_running_loop()
    granted: asyncio.Future[None] = loop.create_future()
    duplicate = os.dup(descriptor)

    def wait() -> None:
        failure: OSError | None = None
        try:
            _lock(duplicate, name, shared, fcntl.F_OFD_SETLKW)
        except OSError as error:
            failure = error
        finally:
            os.close(duplicate)
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, granted, failure)

    threading.Thread(target=wait, name="bandsox-lock", daemon=True).start()
    await granted
    return descriptor


def _settle(future: asyncio.Future[None], failure: OSError | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
