"""A console log while it grows, by the kernel's notice (inotify(7)) and without looking at it again and again."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bandsox.process import ProcessId

_IN_MODIFY = 0x2
_EVENTS = 64 << 10
"""Room for the events of one read; what they say is of no interest, only that there are some."""


async def follow(log: Path, read: Callable[[], bytes], process: ProcessId) -> AsyncGenerator[bytes, None]:
    """What `read` gives of `log`, and then what is added to it, until `process` has ended.

    Raises
    ------
    FileNotFoundError: there is no log.
    """
    shown = 0
    with _changes(log) as changed:
        ending = asyncio.ensure_future(process.wait())
        try:
            while True:
                ended = ending.done()
                changed.clear()
                console = read()
                if len(console) > shown:
                    yield console[shown:]
                    shown = len(console)
                if ended:
                    return
                growing = asyncio.ensure_future(changed.wait())
                try:
                    await asyncio.wait({ending, growing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    growing.cancel()
        finally:
            ending.cancel()


@contextmanager
def _changes(path: Path) -> Iterator[asyncio.Event]:
    """An event that is set whenever the file at `path` was written to."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note() -> None:
        os.read(descriptor, _EVENTS)
        changed.set()

    try:
        _checked(libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY))
        loop.add_reader(descriptor, note)
        try:
            yield changed
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
