"""Files and trees of this host as the bodies of requests, and out of those of answers. Nothing is held whole."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.from_thread
import anyio.to_thread

from bandsox.errors import InvalidRequest, LimitExceeded
from bandsox.guest.localfiles import open_regular, replacing
from bandsox.guest.progress import transferring
from bandsox.guest.tarwrite import TreeFilter, write_tree
from bandsox.guest.untar import extract
from bandsox.models import ProgressCallback, TreeResult
from bandsox.workers import Task

_CHUNK = 256 << 10


@contextlib.asynccontextmanager
async def of_file(local: Path, remote: object, progress: ProgressCallback | None) -> AsyncIterator[tuple[AsyncIterator[bytes], int]]:
    """The pieces of a file of this host, and its permission bits."""
    with open_regular(local) as file:
        status = os.fstat(file.fileno())
        async with transferring(progress, os.fsdecode(remote), status.st_size) as task:  # type: ignore[arg-type]
            yield _read(file.read, task), stat.S_IMODE(status.st_mode) & 0o777


async def _read(read: Callable[[int], bytes | None], task: Task) -> AsyncIterator[bytes]:
    done = 0
    while piece := await anyio.to_thread.run_sync(read, _CHUNK):
        done += len(piece)
        task.update(done)
        yield piece


async def to_file(pieces: AsyncIterator[bytes], local: Path, max_bytes: int | None, task: Task, *, mode: int = 0o666) -> int:
    """Write pieces to a file that appears whole or not at all; its size in bytes.

    Parameters
    ----------
    mode: its permission bits, but for those that the process's umask takes away.
    """

    def work() -> int:
        done = 0
        with replacing(local, mode) as file:
            for piece in _blocking(pieces):
                done += len(piece)
                if max_bytes is not None and done > max_bytes:
                    raise LimitExceeded(f"there are more than the {max_bytes} bytes that were allowed")
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(file, rest) :]
                task.update(done)
        return done

    return await anyio.to_thread.run_sync(work)


async def to_stream(pieces: AsyncIterator[bytes], out: BinaryIO, task: Task) -> None:
    """Write pieces to a binary stream."""
    done = 0
    async for piece in pieces:
        await anyio.to_thread.run_sync(_write, out, piece)
        done += len(piece)
        task.update(done)


def _write(out: BinaryIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[out.write(rest) :]  # one without a buffer may take less


async def extracted(pieces: AsyncIterator[bytes], local: Path, max_entries: int, max_bytes: int | None, task: Task) -> TreeResult:
    """Unpack an archive into a directory of this host."""

    def counted() -> Iterator[bytes]:
        done = 0
        for piece in _blocking(pieces):
            done += len(piece)
            task.update(done)
            yield piece

    def work() -> TreeResult:
        rest = counted()
        result = extract(rest, local, b"tree", max_entries=max_entries, max_bytes=max_bytes)
        for _ in rest:  # what pads the archive, so that the connection can be used again
            pass
        return result

    return await anyio.to_thread.run_sync(work)


def _blocking(pieces: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The pieces in a thread that the event loop has started."""

    async def step() -> bytes:
        return await anext(pieces, b"")

    while piece := anyio.from_thread.run(step):
        yield piece


@contextlib.asynccontextmanager
async def of_tree(local: Path, selection: TreeFilter, uid: int, gid: int, task: Task) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of an archive of a directory of this host, made while they are read."""
    if not local.is_dir():
        raise InvalidRequest(f"not a directory: {local}")
    reading, writing = os.pipe()

    def work() -> None:
        with os.fdopen(writing, "wb", buffering=_CHUNK) as sink, contextlib.suppress(BrokenPipeError):
            write_tree(_Sink(sink.write), local, selection, uid, gid)

    with os.fdopen(reading, "rb", buffering=0) as source:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, work)
            try:
                yield _read(source.read, task)
            finally:
                with contextlib.suppress(OSError):
                    source.close()  # which ends the writer, if it still writes


class _Sink:
    """What an archive is written to."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write
        self._buffer = memoryview(bytearray(_CHUNK))

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self._write(data)

    def fill(self, read_into: Callable[[memoryview], int], size: int | None = None) -> int:
        """Append what `read_into` gives, until its end or `size` bytes; the number of bytes."""
        done = 0
        while size is None or done < size:
            count = read_into(self._buffer if size is None else self._buffer[: size - done])
            if not count:
                break
            self._write(self._buffer[:count])
            done += count
        return done
