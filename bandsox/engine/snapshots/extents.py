"""A file as a compressed stream of what is in it, or of what differs from another file: without holes and zeros, and with them again.

Below zstd the stream is a header (magic and the file's size), then extents, ascending and never overlapping: offset, length, and so
many bytes; one of length 0 ends it. All numbers are big-endian. An extent begins and ends at a page's bounds, but for the file's end. In a
stream without a base what no extent covers is zeros; with one it is as in the base.

Who reads believes nothing: sizes are known beforehand, offsets only grow, so no stream makes him write more than the file's size or keep
more than a mebibyte. Whether the result is right only the file's digest says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from bandsox.errors import CorruptImage, CorruptSnapshot
from bandsox.images.compression import decompress
from bandsox.images.tarstream import ByteStream

PAGE = 4096

_MAGIC = b"BSXTENT1"
_HEADER = struct.Struct(">8sQ")
_EXTENT = struct.Struct(">QI")
_PART = 1 << 20
_ZEROS = bytes(_PART)
_LEVEL = 3


def pack(source: Path, base: Path | None = None, advance: Callable[[int], object] = lambda _: None) -> Iterator[bytes]:
    """The stream of a file. Blocks while it is taken, and takes memory for some MiB whatever the file's size.

    Parameters
    ----------
    base: a file that the reader has; what is the same there is left out.
    advance: told how far into the file the stream has come, in bytes.

    Raises
    ------
    OSError: a file cannot be read.
    """
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).chunker(chunk_size=_PART)
    for piece in _pieces(source, base, advance):
        yield from compressor.compress(piece)
    yield from compressor.finish()  # type: ignore[no-untyped-call]  # zstandard's stubs leave it untyped


def unpack(chunks: Iterator[bytes], target: int, size: int, *, limit: int | None = None) -> int:
    """Write what a stream holds to a file: a new one, or a copy of the stream's base. Blocks, and returns how many bytes were in it.

    Parameters
    ----------
    target: a descriptor of the file, open for writing. size: how many bytes it has to have.
    limit: how many there may be in the stream.

    Raises
    ------
    CorruptSnapshot: it is no such stream, broken off, of a file of another size, or followed by something else.
    OSError: there is no room.
    """
    try:
        return _Reader(ByteStream(decompress(chunks)), target, size).read(size if limit is None else limit)
    except CorruptImage as error:
        raise CorruptSnapshot("a file of a snapshot cannot be unpacked", cause=error.cause or error.message) from error


def _pieces(source: Path, base: Path | None, advance: Callable[[int], object]) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb", buffering=0)).fileno()
        other = stack.enter_context(base.open("rb", buffering=0)).fileno() if base is not None else None
        size = os.fstat(file).st_size
        yield _HEADER.pack(_MAGIC, size)
        position = 0
        while (start := _next_data(file, other, position)) is not None and start < size:
            position = start - start % _PART
            content = os.pread(file, _PART, position)
            reference = os.pread(other, _PART, position).ljust(len(content), b"\0") if other is not None else _ZEROS
            for begin, end in _differing(content, reference):
                yield _EXTENT.pack(position + begin, end - begin)
                yield content[begin:end]
            position += len(content)
            advance(position)
        yield _EXTENT.pack(size, 0)


def _next_data(file: int, other: int | None, position: int) -> int | None:
    """Where from `position` on one of the files next holds data; None behind the last."""
    found = [start for each in (file, other) if each is not None and (start := _data_from(each, position)) is not None]
    return min(found, default=None)


def _data_from(descriptor: int, position: int) -> int | None:
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _differing(content: bytes, reference: bytes) -> Iterator[tuple[int, int]]:
    """The runs of whole pages in which `content` differs from the beginning of `reference`."""
    if content == reference[: len(content)]:
        return
    begin: int | None = None
    for page in range(0, len(content), PAGE):
        if content[page : page + PAGE] == reference[page : min(page + PAGE, len(content))]:
            if begin is not None:
                yield begin, page
                begin = None
        elif begin is None:
            begin = page
    if begin is not None:
        yield begin, len(content)


class _Reader:
    """One stream, on its way into a file."""

    def __init__(self, stream: ByteStream, target: int, size: int) -> None:
        self._stream = stream
        self._target = target
        self._size = size

    def read(self, limit: int) -> int:
        magic, size = _HEADER.unpack(self._take(_HEADER.size))
        if magic != _MAGIC or size != self._size:
            raise _corrupt("it is not the file it should be")
        os.ftruncate(self._target, size)
        position = written = 0
        while True:
            start, length = _EXTENT.unpack(self._take(_EXTENT.size))
            if length == 0:
                break
            if start < position or length > _PART or start + length > size:
                raise _corrupt("an extent is outside of the file")
            if (written := written + length) > limit:
                raise _corrupt("there is more in it than is allowed")
            self._write(self._take(length), start)
            position = start + length
        if start != size or self._stream.take(1):
            raise _corrupt("it does not end where it should")
        return written

    def _write(self, content: bytes, start: int) -> None:
        """Write an extent, but no zeros where there is a hole anyway."""
        if not content.strip(b"\0") and _is_hole(self._target, start, start + len(content)):
            return
        view = memoryview(content)
        while view:
            written = os.pwrite(self._target, view, start)
            view, start = view[written:], start + written

    def _take(self, count: int) -> bytes:
        taken = self._stream.take(count)
        if len(taken) != count:
            raise _corrupt("it is broken off")
        return taken


def _is_hole(descriptor: int, start: int, end: int) -> bool:
    following = _data_from(descriptor, start)
    return following is None or following >= end


def _corrupt(cause: str) -> CorruptSnapshot:
    return CorruptSnapshot("a file of a snapshot cannot be unpacked", cause=cause)
