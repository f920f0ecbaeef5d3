"""Locks between processes, held by the kernel: a killed holder's lock is free at once, and waiting costs nothing.

The names of one `Locks` share a file: each is a byte of it, at an offset made from the name, locked with an *open file
description* lock (fcntl(2)), which tasks of one process exclude each other with as well. So no lock files pile up, and
a lock that shall end with a directory is a file in that directory. Two names that fall on one byte (once in 2⁶² pairs)
would merely wait for each other.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bandsox.errors import Timeout

if TYPE_CHECKING:
    import asyncio

DEADLINE_S = 60.0
"""How long to wait for what others finish within seconds."""

_FLOCK = "hhqqi4x"


class Locks:
    """The locks that one file holds, by name.

    Parameters
    ----------
    path: the file, made when it is missing; its directory exists.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = path

    @asynccontextmanager
    async def hold(
        self, name: str = "", *, shared: bool = False, deadline_s: float | None = None, what: str | None = None
    ) -> AsyncIterator[int]:
        """Wait for the lock `name`, at most `deadline_s` seconds where that is given, and hold it; the value is the
        descriptor of the file that it is held on.

        Raises
        ------
        Timeout: another has held it all the while; `what` says what it is for.
        """
        descriptor = await self.take(name, shared=shared, deadline_s=deadline_s, what=what)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    async def take(self, name: str = "", *, shared: bool = False, deadline_s: float | None = None, what: str | None = None) -> int:
        """As `hold`, but the lock is kept until the descriptor that is returned is closed."""
        descriptor = self._open()
        try:
            if not _try_lock(descriptor, name, shared):
                import anyio  # costs what a lock that is free should not

                try:
                    with anyio.fail_after(deadline_s):
                        await _wait(descriptor, name, shared)
                except TimeoutError as error:
                    raise Timeout(f"{what or name} is still being worked on by another process after {deadline_s:.0f} s") from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def hold_blocking(self, name: str = "", *, shared: bool = False) -> Iterator[None]:
        """Block until the lock `name` is this caller's, and hold it."""
        descriptor = self._open()
        try:
            _lock(descriptor, name, shared, fcntl.F_OFD_SETLKW)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def try_hold(self, name: str = "") -> Iterator[bool]:
        """Hold the lock `name` alone if nobody has it; the value says whether it is held."""
        descriptor = self.try_take(name)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def try_take(self, name: str = "") -> int | None:
        """Take the lock `name` alone if nobody has it, and return the descriptor that holds it; closing it gives it back."""
        descriptor = self._open()
        try:
            if _try_lock(descriptor, name, False):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock_file(descriptor: int) -> bool:
    """Lock an open file itself, until its descriptor is closed, if nobody else has."""
    return _try_lock(descriptor, "", False)


def _lock(descriptor: int, name: str, shared: bool, command: int) -> None:
    request = struct.pack(_FLOCK, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, _offset(name), 1, 0)
    fcntl.fcntl(descriptor, command, request)


@functools.lru_cache(maxsize=256)
def _offset(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2


def _try_lock(descriptor: int, name: str, shared: bool) -> bool:
    try:
        _lock(descriptor, name, shared, fcntl.F_OFD_SETLK)
    except (BlockingIOError, PermissionError):
        return False
    return True


async def _wait(descriptor: int, name: str, shared: bool) -> None:
    """Wait in a thread of its own, which a cancelled caller leaves behind: it ends when its turn comes, or with
    the process. It waits on a duplicate, which is the same open file description: when both are closed the lock is free."""
    import asyncio

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
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_settle, granted, failure)

    threading.Thread(target=wait, name="bandsox-lock", daemon=True).start()
    await granted


def _settle(future: asyncio.Future[None], failure: OSError | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
