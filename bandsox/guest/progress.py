"""Progress of a transfer, from the worker thread that moves it to the event loop that shows it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import time
from types import TracebackType

from bandsox.models import Progress, ProgressCallback

INTERVAL = 0.1
"""The least time between two reports, in seconds."""


class Reporter:
    """Reports how much of one transfer is done, in the event loop's thread, and its end when the block ends well."""

    def __init__(self, callback: ProgressCallback | None, label: str | bytes | os.PathLike[str], total: int | None) -> None:
        self._callback = callback
        self._progress = Progress(task=secrets.token_hex(4), label=os.fsdecode(label), total=total, unit="bytes")
        self._done = 0
        self._next = 0.0

    async def __aenter__(self) -> Reporter:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._callback is not None:
            self._callback(dataclasses.replace(self._progress, done=self._done, total=self._done, finished=True))

    def moved(self, done: int) -> None:
        """`done` bytes have passed. Called in the worker thread."""
        self._done = done
        now = time.monotonic()
        if self._callback is not None and now >= self._next:
            self._next = now + INTERVAL
            self._loop.call_soon_threadsafe(self._callback, dataclasses.replace(self._progress, done=done))
