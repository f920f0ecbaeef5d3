"""A console log while it grows, by the kernel's notice (inotify(7)) and without looking at it again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bandsox.process import ProcessId
from bandsox.vmm import inotify


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
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    with inotify.Watch({path: inotify.MODIFY}) as watch:

        def note() -> None:
            watch.drain()
            changed.set()

        loop.add_reader(watch, note)
        try:
            yield changed
        finally:
            loop.remove_reader(watch)
