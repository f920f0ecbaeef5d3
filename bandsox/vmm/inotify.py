"""Waiting for something to happen to files (inotify(7)), which Python's library cannot."""

from __future__ import annotations

import functools
import os
import select
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

CREATE = 0x100
MODIFY = 0x002
ATTRIB = 0x004
MOVED_TO = 0x080
DELETE = 0x200
"""Kinds of events (inotify.h): an entry of a directory was made; a file was written to; its times or other attributes were set; a file was
renamed into a directory, or removed from it."""

_READ_SIZE = 1 << 16


class Watch:
    """Notices from now on what happens to `places`, each with the kinds of events that matter.

    A thread blocks in `wait`; an event loop watches `fileno` and takes what has come with `drain`. At the end of the block the descriptor
    is closed by a thread of its own: the kernel waits then for all that may still be giving notice, which takes 10 ms and more.

    Raises
    ------
    OSError: one of the places does not exist, or the user has too many watches.
    """

    def __init__(self, places: Mapping[Path, int]) -> None:
        import ctypes  # costs what a command that starts nothing should not

        libc = _libc()
        self._descriptor = _checked(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), ctypes.get_errno())
        try:
            for place, kinds in places.items():
                _checked(libc.inotify_add_watch(self._descriptor, os.fsencode(place), ctypes.c_uint32(kinds)), ctypes.get_errno())
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        threading.Thread(target=os.close, args=(self._descriptor,), name="close inotify").start()

    def wait(self, deadline: float, pidfd: int) -> bool:
        """Wait for the next event; False when the process of `pidfd` ends first, or at `deadline` (`time.monotonic`, seconds)."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if self._descriptor not in ready:
            return False
        self.drain()
        return True

    def fileno(self) -> int:
        """The descriptor that is readable once something has happened."""
        return self._descriptor

    def drain(self) -> None:
        """Take the events that have come; what they say is of no interest, only that there are some."""
        os.read(self._descriptor, _READ_SIZE)


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, errno: int) -> int:
    if result < 0:
        raise OSError(errno, os.strerror(errno))
    return result
