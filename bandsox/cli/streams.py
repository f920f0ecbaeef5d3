"""Bytes between this process's standard streams and a program in a guest, exactly as they are, and no faster than the slower side.

Standard streams are shared with other processes, so they are never made non-blocking. Input is read when it is there; output goes
through a thread, so that a reader who has stopped does not stop the handling of signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import stat
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from bandsox.errors import BandSoxError

if TYPE_CHECKING:
    from bandsox.guest import Execution
    from bandsox.models import ExecResult

STDIN, STDOUT, STDERR = 0, 1, 2
_CHUNK = 64 << 10

_Job = tuple[int, bytes, "asyncio.Future[None]"]


class Input:
    """Standard input, read no further than asked."""

    def __init__(self, descriptor: int = STDIN) -> None:
        self._descriptor = descriptor

    async def read(self) -> bytes:
        """The next bytes; empty at the end, and where there is no standard input (any more)."""
        try:
            await self._ready()
            return os.read(self._descriptor, _CHUNK)
        except OSError:  # closed, or a terminal that has gone
            return b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def _ready(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        try:
            loop.add_reader(self._descriptor, _settle, ready, None)
        except PermissionError:  # a file, which is always ready (epoll_ctl(2))
            return
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)


class Output:
    """Standard output and error, in the order in which they are written to."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()

    async def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`; returns when it is written.

        Raises
        ------
        BrokenPipeError: its reader has gone.
        """
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            _write_all(descriptor, data)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="output", daemon=True)
            self._thread.start()
        written: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((descriptor, data, written))
        await written

    def _work(self) -> None:
        while True:
            descriptor, data, written = self._jobs.get()
            failure: OSError | None = None
            try:
                _write_all(descriptor, data)
            except OSError as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, written, failure)


def _settle(written: asyncio.Future[None], failure: OSError | None) -> None:
    if written.done():
        return
    if failure is None:
        written.set_result(None)
    else:
        written.set_exception(failure)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody who shares the stream has made it non-blocking
            select.select([], [descriptor], [])


async def converse(execution: Execution, output: Output, source: Input | None) -> ExecResult:
    """Copy a program's output, and feed it `source`, until it has ended.

    Raises
    ------
    BandSoxError: it ran too long, or the connection failed. BrokenPipeError: the reader of our output has gone.
    """
    async with background(_feed(execution, source) if source is not None else None):
        async for stream, data in execution:
            await output.write(STDOUT if stream == "stdout" else STDERR, data)
        return await execution.wait()


async def _feed(execution: Execution, source: Input) -> None:
    async for data in source:
        await execution.write(data)
    await execution.close_stdin()


@contextlib.asynccontextmanager
async def background(*work: object) -> AsyncIterator[None]:
    """Run coroutines beside the block, and cancel them at its end.

    An error of the connection is left to the block, which meets it as well.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work if asyncio.iscoroutine(coroutine)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, BandSoxError):
            raise error
