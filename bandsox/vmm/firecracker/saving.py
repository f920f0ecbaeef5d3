"""Saving a paused machine, and the files of which a copy of it goes on.

Firecracker writes a snapshot's files itself, into `PLACE` in the machine's directory, where the machine can go on at once. A VMM that was
taken over by its guest may keep them open, and make of them whatever it likes. So nothing goes on from these files: they are moved out of
its reach and copied, the memory without its zero pages, and what is copied no VMM has ever held for writing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from bandsox.errors import VMMError
from bandsox.vmm.firecracker import requests
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

_NO_ROOM = "os error 28"
"""ENOSPC, as Firecracker says it."""

_START_S = 30.0
_SLOWEST = 4 << 20
"""Bytes a second, below which a disk is taken for one that does not work."""


def prepare(directory: Path) -> None:
    """Make the place in the machine's directory where Firecracker writes, with nothing in it but a FIFO for its counters. Blocks."""
    place = directory / PLACE
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place)
    place.mkdir(mode=0o700)
    os.mkfifo(place / METRICS)
    (place / METRICS).chmod(0o666)  # whoever the VMM runs as; nobody else gets into the directory


def save(api: Path, directory: Path, target: Path, ram_bytes: int) -> None:
    """Have a paused machine with so much memory written, and what was written moved to `target`; see `VMM.save`. Blocks."""
    place = directory / PLACE
    request = requests.SnapshotCreate(snapshot_path=f"{PLACE}/{STATE}", mem_file_path=f"{PLACE}/{MEMORY}")
    try:
        with Client(api) as client:
            client.send(request, deadline_s=_START_S + ram_bytes / _SLOWEST)
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
    """Make of what Firecracker wrote what a machine goes on from; see `VMM.settle`. Blocks for as long as copying the memory takes."""
    with storage_errors(target):
        for name, least, most in ((STATE, 1, STATE_LIMIT), (MEMORY, ram_bytes, ram_bytes)):
            raw = target / f"{name}{_RAW}"
            with _opened(raw, least, most) as (source, size):
                _copy_without_zeros(source, target / name, size)
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


def _copy_without_zeros(source: int, target: Path, size: int) -> None:
    """Write the first `size` bytes of `source` to the new file `target`, with holes where they are zero."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size)
        for start, end in _extents(source, size):
            for position in range(start, end, _CHUNK):
                _write_pieces(descriptor, os.pread(source, min(_CHUNK, end - position), position), position)
    finally:
        os.close(descriptor)


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
