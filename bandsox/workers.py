"""Blocking work beside the event loop: threads that can be told to stop, and their progress."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio

from bandsox.errors import StorageFull
from bandsox.models import Progress, ProgressCallback

T = TypeVar("T")

_REPORT_INTERVAL_S = 0.1


class Stopped(Exception):
    """The work was told to stop."""


async def in_thread(function: Callable[[threading.Event], T], *, on_stop: Callable[[], object] = lambda: None) -> T:
    """Run `function` in a thread; when the caller is cancelled, set the event it was given and wait for it to end.

    Parameters
    ----------
    on_stop: called then as well, to wake it from what it waits for.
    """
    stop = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(None, function, stop)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        on_stop()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([work])
        if not work.cancelled():
            work.exception()
        raise


async def together(works: Iterable[Coroutine[Any, Any, T]], limit: int) -> list[T]:
    """Run coroutines at once, `limit` of them at a time; the first that fails ends the others."""
    slots = asyncio.Semaphore(limit)

    async def one(work: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await work

    coroutines = list(works)
    tasks = [asyncio.ensure_future(one(work)) for work in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*tasks, return_exceptions=True)
        for work in coroutines:
            work.close()


class Task:
    """The progress of one piece of work, reported at most ten times a second, from any thread."""

    def __init__(
        self,
        callback: ProgressCallback | None,
        name: str,
        label: str,
        total: int | None = None,
        unit: Literal["bytes", "steps"] = "bytes",
    ) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._label = label
        self._total = total
        self._unit = unit
        self._next = 0.0
        self._done = 0
        self._finished = False
        self.update(0)

    def update(self, done: int, total: int | None = None) -> None:
        """Say how much is done, and of how much where that is known only now."""
        self._done = done
        if total is not None:
            self._total = total
        now = time.monotonic()
        if self._callback is not None and now >= self._next:
            self._next = now + _REPORT_INTERVAL_S
            self._loop.call_soon_threadsafe(self._report)

    @property
    def done(self) -> int:
        """How much is done."""
        return self._done

    def finish(self, whole: int | None = None) -> None:
        """Say that all is done; from the event loop's thread only, and nothing is said after it.

        Parameters
        ----------
        whole: how much that was, where it was not known before.
        """
        if whole is not None:
            self._total = whole
        if self._total is not None:
            self._done = self._total
        self._report(finished=True)
        self._finished = True

    def _report(self, *, finished: bool = False) -> None:
        if self._callback is not None and not self._finished:
            self._callback(Progress(self._name, self._label, self._done, self._total, self._unit, finished))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" into `StorageFull`.

    Raises
    ------
    StorageFull: the file system of `path`, or the user's quota on it, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise storage_full(path) from error
        raise


def is_full(path: Path) -> bool:
    """Whether the file system of `path` has no page of room left for this user."""
    return shutil.disk_usage(path).free < os.sysconf("SC_PAGESIZE")


def storage_full(path: Path) -> StorageFull:
    """The error that says so."""
    return StorageFull(
        f"there is no room left in {path}",
        remedy="free some space: `bandsox image prune` removes what no image and no machine uses",
    )
