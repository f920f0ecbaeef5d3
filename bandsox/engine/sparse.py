"""Copying disks as cheaply as the file system allows: shared blocks, else only the blocks that hold data."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409
"""ioctl_ficlone(2): the copy shares the source's blocks until one of them is written."""

_NO_REFLINK = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}
_CHUNK = 64 << 20
_PART = 1 << 20
_ZEROS = bytes(_PART)
_BLOCK = 512
"""What ``st_blocks`` counts in (stat(2))."""


def copy(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, owner-only, with the same holes. Blocks for as long as its data takes.

    Raises
    ------
    OSError: `target` exists, or there is no room (then nothing is left of it).
    """
    with source.open("rb") as reader:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if not _reflink(reader.fileno(), descriptor):
                _copy_data(reader.fileno(), descriptor)
        except BaseException:
            target.unlink()
            raise
        finally:
            os.close(descriptor)


def digest(path: Path) -> str:
    """A checksum of a file's content (XXH3, 128 bits), which does not depend on where its holes are. Blocks for as long as its data takes.

    It is that of each part of 1 MiB that is not all zeros, with the part's number before it.
    """
    import xxhash  # costs what listing machines should not

    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        found.update(size.to_bytes(8, "big"))
        part: int | None = 0
        while part is not None and (part := _next_part(file.fileno(), part)) is not None:
            content = os.pread(file.fileno(), _PART, part * _PART)
            if content.strip(b"\0"):
                found.update(part.to_bytes(8, "big"))
                found.update(content)
            part += 1
    return f"xxh3:{found.hexdigest()}"


def _next_part(descriptor: int, part: int) -> int | None:
    """The first part from `part` on that holds data; None behind the last."""
    try:
        return os.lseek(descriptor, part * _PART, os.SEEK_DATA) // _PART
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def _copy_data(source: int, target: int) -> None:
    status = os.fstat(source)
    size = status.st_size
    os.ftruncate(target, size)
    if status.st_blocks * _BLOCK < size == os.lseek(source, 0, os.SEEK_HOLE):
        _copy_nonzero(source, target, size)
        return
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, position)


def _copy_nonzero(source: int, target: int, size: int) -> None:
    """Copy a file that has holes, as its blocks show, on a file system that does not say where (9p, NFS 3, FUSE): they have to be read."""
    for offset in range(0, size, _PART):
        part = os.pread(source, _PART, offset)
        if len(part) != min(_PART, size - offset):
            raise _shorter()
        if part != _ZEROS[: len(part)]:
            _write(target, memoryview(part), offset)


def _write(target: int, part: memoryview, offset: int) -> None:
    while part:
        count = os.pwrite(target, part, offset)
        part, offset = part[count:], offset + count


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = os.sendfile(target, source, start, min(end - start, _CHUNK))
        if count == 0:
            raise _shorter()
        start += count


def _shorter() -> OSError:
    return OSError(errno.EIO, "the file became shorter while it was copied")
