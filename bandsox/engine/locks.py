"""Locks between processes, held by the kernel: whatever way a process ends, its locks are free."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from bandsox.errors import Timeout


def try_exclusive(path: Path) -> int | None:
    """Take the lock at `path` if it is free, and return the descriptor that holds it; closing it gives it back."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.asynccontextmanager
async def exclusive(path: Path, what: str, deadline_s: float = 60.0) -> AsyncIterator[None]:
    """Hold the lock at `path`, waiting for it at most `deadline_s` seconds.

    Raises
    ------
    Timeout: another process has held it all the while; `what` says what it is for.
    """
    descriptor = try_exclusive(path)
    if descriptor is None:
        descriptor = await _wait_for(path, what, deadline_s)
    try:
        yield
    finally:
        os.close(descriptor)


async def _wait_for(path: Path, what: str, deadline_s: float) -> int:
    """Wait in a thread, which gives back at once what it gets after the caller has stopped waiting."""
    import anyio

    abandoned = False
    loop = asyncio.get_running_loop()
    granted: asyncio.Future[int] = loop.create_future()

    def hand_over(descriptor: int) -> None:
        if abandoned or granted.done():
            os.close(descriptor)
        else:
            granted.set_result(descriptor)

    def wait() -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            loop.call_soon_threadsafe(hand_over, descriptor)
        except RuntimeError:  # the loop is closed
            os.close(descriptor)

    threading.Thread(target=wait, name=f"lock {path.name}", daemon=True).start()
    try:
        with anyio.fail_after(deadline_s):
            return await granted
    except TimeoutError as error:
        raise Timeout(f"{what} is still being worked on by another process after {deadline_s:.0f} s") from error
    except BaseException:
        if granted.done() and not granted.cancelled():
            os.close(granted.result())
        raise
    finally:
        abandoned = True
