"""What Firecracker prints: the guest's console and its own messages, in one bounded file that outlives it.

A hostile guest may print for ever. A limit on file size (RLIMIT_FSIZE) will not do here, because Firecracker takes its signal for a reason
to end. So the log lies at the very end of the largest file that the file system can hold, which takes no room before it: there
a write fails and no signal is sent (Linux, ``generic_write_check_limits``), Firecracker drops the byte, and the guest is
not slowed. What is kept is the beginning, where the boot messages stand.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

CAPACITY = 256 * 1024
"""How many bytes are kept, at most; a file system may leave up to a page less."""

_LARGEST_OFFSET = (1 << 63) - 1

_OWN_LINE = re.compile(
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+ \[[0-9A-Za-z-]+:[\w ]+(?::(ERROR|WARN|INFO|DEBUG|TRACE))?\] "
    rb"((?:[^\n]*panicked at [^\n]*\n)?[^\n]*)\n?"
)
"""A message of Firecracker itself, which may stand in the middle of a line of the guest. It has no level before it is told to."""


def create(path: Path) -> int:
    """Make an empty log at `path`, and return a descriptor that appends to it."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, _start(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read(path: Path) -> bytes:
    """What was printed to the log at `path`; empty when there is none."""
    try:
        with path.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(0, _start_of_size(size - 1)))
            content = log.read(CAPACITY)
            return content.lstrip(b"\0") if size % CAPACITY == 0 else content  # it is empty, or full to the last byte
    except FileNotFoundError:
        return b""


def console(path: Path) -> bytes:
    """The guest's part of the log at `path`."""
    return _OWN_LINE.sub(b"", read(path))


def messages(path: Path) -> str:
    """The errors of Firecracker in the log at `path`, one a line. A guest can forge them: they are for people."""
    found = [match[2] for match in _OWN_LINE.finditer(read(path)) if match[1] in {None, b"ERROR"}]
    return b"\n".join(found).decode(errors="replace")


def _start(descriptor: int) -> int:
    status = os.fstat(descriptor)
    return _start_of_size(_largest_size(status.st_dev, descriptor) - 1)


def _start_of_size(size: int) -> int:
    """Where the log begins whose file ends behind the byte at `size`."""
    return size // CAPACITY * CAPACITY


_known: dict[int, int] = {}


def _largest_size(device: int, descriptor: int) -> int:
    """The size of the largest file on the file system `device`, found out with an empty file there, once."""
    if device not in _known:
        low, high = CAPACITY, _LARGEST_OFFSET
        while low < high:
            middle = (low + high + 1) // 2
            try:
                os.ftruncate(descriptor, middle)
                low = middle
            except OSError:
                high = middle - 1
        _known[device] = low
    return _known[device]
