"""What a machine has changed of its memory since it was saved last, where Firecracker keeps track of that.

Firecracker then writes only those pages, into a sparse file, and the machine stands still for less long. The rest is taken from what it was
saved as before: the memory's file of a snapshot, or nothing but zeros where it has booted. Which that is stands in a file of the
machine's directory, from the machine's start and from each snapshot on. It is taken away when the machine is saved, and unless a snapshot
has been kept then, all of the memory is written the next time.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bandsox.decoding import ready
from bandsox.settings import write_atomically

_NAME = "tracked"
_PAGE = 4096
"""What is tracked, and so the size of the smallest hole that has to be seen."""


class Base(msgspec.Struct, frozen=True):
    """The file that the changes are to; without a path it is all zeros. It is the file if it has not changed since."""

    path: str | None = None
    inode: int = 0
    modified_ns: int = 0


def begin(directory: Path, memory: Path | None) -> None:
    """From now on the machine of a directory changes what is in the file `memory`; None: what is all zeros."""
    base = Base()
    if memory is not None:
        status = memory.stat()
        base = Base(str(memory), status.st_ino, status.st_mtime_ns)
    write_atomically(directory / _NAME, msgspec.json.encode(base))


def forget(directory: Path) -> None:
    """It is not known what the machine of a directory has changed."""
    (directory / _NAME).unlink(missing_ok=True)


def take(directory: Path) -> Base | None:
    """What the machine of a directory has changed, which is not known any more from now on; None: it was not known."""
    try:
        base = msgspec.json.decode((directory / _NAME).read_bytes(), type=ready(Base))
    except FileNotFoundError:
        return None
    forget(directory)
    return base


def is_same(base: Base, descriptor: int) -> bool:
    """Whether an open file is the one that the changes are to."""
    status = os.fstat(descriptor)
    return (status.st_ino, status.st_mtime_ns) == (base.inode, base.modified_ns)


def shows_holes(directory: Path) -> bool:
    """Whether files of a directory show for each page whether it was written, which not every file system can tell. Blocks."""
    probe = directory / "holes"
    descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, 16 * _PAGE)
        os.pwrite(descriptor, b"\1", 5 * _PAGE)
        start = os.lseek(descriptor, 0, os.SEEK_DATA)
        return (start, os.lseek(descriptor, start, os.SEEK_HOLE)) == (5 * _PAGE, 6 * _PAGE)
    finally:
        os.close(descriptor)
        probe.unlink()
