"""Files of this host, at the ends of a transfer."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from bandsox.errors import InvalidRequest, StorageFull

RESERVE = 1 << 30
"""What an unbounded download leaves free, in bytes, of the file system that it goes to."""

SHARE = 20
"""Of a small one it leaves this part: a twentieth."""

SMALL = 64 << 20
"""How many bytes one may take from anywhere."""


def open_regular(path: Path | bytes, flags: int = 0) -> io.FileIO:
    """Open a regular file for reading, without waiting for the other end of a pipe that stands there.

    Parameters
    ----------
    flags: further flags of open(2).

    Raises
    ------
    InvalidRequest: it is a pipe, a directory or the like. OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequest(f"not a regular file: {os.fsdecode(path)}")
    return io.FileIO(descriptor)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[int]:
    """A descriptor of a new file that takes the name `path` when the block ends well, and vanishes otherwise.

    Raises
    ------
    InvalidRequest: `path` is a directory, a device or the like.
    """
    if path.exists() and not path.is_file():
        raise InvalidRequest(f"not a regular file: {path}")
    temporary = path.with_name(f".bandsox-{secrets.token_hex(8)}.part")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with contextlib.ExitStack() as undo:
        undo.callback(temporary.unlink)
        try:
            yield file
        finally:
            os.close(file)
        temporary.replace(path)
        undo.pop_all()


def leaving_reserve(pieces: Iterator[memoryview | bytes], place: Path) -> Iterator[memoryview | bytes]:
    """The pieces of a download to `place` whose size only the guest knows, as long as it leaves this host some room.

    Raises
    ------
    StorageFull: it does not.
    """
    while not place.is_dir():
        place = place.parent
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > SMALL:
            room = os.statvfs(place)
            if room.f_bavail * room.f_frsize < min(RESERVE, room.f_blocks * room.f_frsize // SHARE):
                raise StorageFull(
                    f"a download of {size >> 20} MiB and more would fill the file system of {place}",
                    remedy="free some room there, or say with max_bytes how much is wanted",
                )
        yield piece
