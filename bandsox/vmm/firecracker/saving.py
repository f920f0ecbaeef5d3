"""Saving a paused machine, and the files of which a copy of it goes on.

Firecracker writes a snapshot's files itself, into `PLACE` in the machine's directory, where the machine can go on at once. A VMM that was
taken over by its guest may keep them open, and make of them whatever it likes. So nothing goes on from these files: they are moved out of
its reach and copied, the memory without its zero pages, and what is copied no VMM has ever held for writing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from bandsox.errors import VMMError
from bandsox.vmm.firecracker import requests, tracking
from bandsox.vmm.firecracker.client import Client
from bandsox.workers import storage_errors, storage_full

PLACE = "out"
"""The directory where Firecracker writes, in the machine's own."""

METRICS = "metrics"
"""The FIFO there that Firecracker writes its counters to."""

MEMORY = "memory"
"""The file with the guest's memory: sparse, and as large as that."""

STATE = "state"
"""The file with the state of CPUs and devices."""

STATE_LIMIT = 64 << 20
"""More than the state of any machine takes: some 100 KB for each CPU, and as much for all devices."""

_RAW = ".raw"
_CHUNK = 1 << 20
_PAGE = 1 << 14
"""What is left out when it is all zeros: a few pages, since each piece costs a step of the interpreter."""

_FICLONE = 0x40049409
"""ioctl_ficlone(2)."""

_NO_ROOM = "os error 28"
"""ENOSPC, as Firecracker says it."""

_START_S = 30.0
_SLOWEST = 4 << 20
"""Bytes a second, below which a disk is taken for one that does not work."""


def prepare(directory: Path) -> None:
    """Make the place in the machine's directory where Firecracker writes, with nothing in it but a FIFO for its counters. Blocks."""
    place = directory / PLACE
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        shutil.rmtree(place)
        place.mkdir(mode=0o700)
    os.mkfifo(place / METRICS)
    (place / METRICS).chmod(0o666)  # whoever the VMM runs as; nobody else gets into the directory


def start_from_before(directory: Path, target: Path, ram_bytes: int) -> None:
    """Put what a machine was saved as before into `target`, if it is known what has changed since. Blocks, for as long as copying it takes
    where the file system shares no blocks.

    What `save` finds there it has only the changes written to.
    """
    base = tracking.take(directory)
    if base is None or not tracking.shows_holes(target):
        return
    descriptor = os.open(target / MEMORY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, ram_bytes)
        if base.path is not None and not _copy_base(base, descriptor, ram_bytes):
            (target / MEMORY).unlink()
    finally:
        os.close(descriptor)


def _copy_base(base: tracking.Base, target: int, ram_bytes: int) -> bool:
    """Copy the file that changes are to; False when it is not there any more, or not the same."""
    assert base.path is not None
    try:
        source = os.open(base.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not tracking.is_same(base, source) or os.fstat(source).st_size != ram_bytes:
            return False
        if not _share_blocks(source, target):
            _copy(source, target, ram_bytes, write=_write_pieces)
        return True
    finally:
        os.close(source)


def save(api: Path, directory: Path, target: Path, ram_bytes: int, bandwidth: int | None = None) -> None:
    """Have a paused machine with so much memory written, and what was written moved to `target`; see `VMM.save`. Blocks.

    Parameters
    ----------
    bandwidth: what Firecracker may write in a second at most, in bytes.
    """
    place = directory / PLACE
    kind: Literal["Full", "Diff"] = "Diff" if (target / MEMORY).exists() else "Full"
    request = requests.SnapshotCreate(snapshot_path=f"{PLACE}/{STATE}", mem_file_path=f"{PLACE}/{MEMORY}", snapshot_type=kind)
    try:
        with Client(api) as client:
            client.send(request, deadline_s=_START_S + ram_bytes / min(_SLOWEST, bandwidth or _SLOWEST))
        with storage_errors(target):
            for name in (STATE, MEMORY):
                (place / name).rename(target / f"{name}{_RAW}")
    except FileNotFoundError as error:
        raise VMMError("Firecracker said that it saved the machine, and did not") from error
    except VMMError as error:
        if _NO_ROOM in str(error.detail.get("fault_message", "")):
            raise storage_full(directory) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # what somebody else has put there goes with the machine
            for name in (STATE, MEMORY):
                (place / name).unlink(missing_ok=True)


def settle(target: Path, ram_bytes: int) -> None:
    """Make of what Firecracker wrote what a machine goes on from; see `VMM.settle`. Blocks for as long as copying the memory takes, or what
    has changed of it.
    """
    with storage_errors(target):
        for name, least, most in ((STATE, 1, STATE_LIMIT), (MEMORY, ram_bytes, ram_bytes)):
            raw = target / f"{name}{_RAW}"
            before = (target / name).exists()
            with _opened(raw, least, most) as (source, size):
                descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    os.ftruncate(descriptor, size)
                    _copy(source, descriptor, size, write=_write_all if before else _write_pieces)
                finally:
                    os.close(descriptor)
            raw.unlink()


@contextlib.contextmanager
def _opened(path: Path, least: int, most: int) -> Iterator[tuple[int, int]]:
    """A descriptor of a file that a VMM has made, and its size.

    Raises
    ------
    VMMError: it is not a file of `least` to `most` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise VMMError("Firecracker left something that is not a snapshot", cause=str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not least <= status.st_size <= most:
            raise VMMError("Firecracker left something that is not a snapshot", cause=f"{path.stem} has {status.st_size} bytes")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def _copy(source: int, target: int, size: int, write: Callable[[int, bytes, int], None]) -> None:
    """Have all that the first `size` bytes of `source` hold, but for holes, written to the same places of `target` by `write`."""
    for start, end in _extents(source, size):
        for position in range(start, end, _CHUNK):
            write(target, os.pread(source, min(_CHUNK, end - position), position), position)


def _share_blocks(source: int, target: int) -> bool:
    """Have a file share another one's blocks until one of them is written to; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _write_all(descriptor: int, content: bytes, position: int) -> None:
    _write(descriptor, memoryview(content), position)


def _write_pieces(descriptor: int, content: bytes, position: int) -> None:
    """Write the runs of pieces in `content` that are not all zeros."""
    zeros = bytes(_PAGE)
    pieces = range(0, len(content), _PAGE)
    start: int | None = None
    for piece in (*pieces, len(content)):
        blank = piece == len(content) or content[piece : piece + _PAGE] == zeros
        if blank and start is not None:
            _write(descriptor, memoryview(content)[start:piece], position + start)
            start = None
        elif not blank and start is None:
            start = piece


def _write(descriptor: int, content: memoryview, position: int) -> None:
    while content:
        count = os.pwrite(descriptor, content, position)
        content, position = content[count:], position + count


def _extents(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file holds data."""
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # none behind here
            return
        position = min(size, os.lseek(source, start, os.SEEK_HOLE))
        yield start, position
