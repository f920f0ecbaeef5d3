"""Decompressing streams of unknown make: gzip, zstd, xz, bzip2 or none, told apart by their first bytes.

What a manifest says of a layer's compression is not trusted, as no container engine trusts it. gzip runs on `isal`
where there is a build of it (twice zlib's speed), else on zlib. Several members after each other (pigz, eStargz) are
one stream, zeros after the last are padding, anything else there is damage.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Protocol, cast

import zstandard

from bandsox.errors import CorruptImage

try:
    from isal import igzip_lib
except ImportError:  # no build of isal for this machine's architecture
    igzip_lib = None  # type: ignore[assignment]

_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)
if igzip_lib is not None:
    _DAMAGE = (*_DAMAGE, cast("type[Exception]", igzip_lib.error))

_OUTPUT_SIZE = 1 << 20
_MAX_XZ_MEMORY = 256 * 1024 * 1024
_MAX_ZSTD_WINDOW = 128 * 1024 * 1024

_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)
_ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)


def detect(head: bytes) -> str:
    """The compression of what begins with `head`: ``gzip``, ``zstd``, ``xz``, ``bzip2`` or ``none``."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and int.from_bytes(head[:4], "little") in _ZSTD_SKIPPABLE:
        return "zstd"
    return "none"


class _Member(Protocol):
    """What bz2, lzma and isal have in common: bounded output, and an end that is known."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _ZlibMember:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 0))

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _gzip_member() -> _Member:
    if igzip_lib is None:
        return _ZlibMember()
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


_MEMBERS: dict[str, Callable[[], _Member]] = {
    "gzip": _gzip_member,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY),
}


def decompress(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The decompressed bytes of `chunks`, a mebibyte at a time or less.

    Raises
    ------
    CorruptImage: the data is truncated, damaged, or followed by something else.
    """
    head, source = peek(chunks)
    name = detect(head)
    if name == "none":
        yield from source
    elif name == "zstd":
        yield from _zstd(source)
    else:
        yield from _members(source, name)


def peek(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, eight at least where there are so many, and all of it."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 8:
            break
    return head, chain((head,) if head else (), chunks)


def _members(source: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decompress members that follow each other."""
    make = _MEMBERS[name]
    member: _Member | None = make()
    data = b""
    try:
        while True:
            if member is None:
                data = data.lstrip(b"\0")
                if data:
                    member = make()
            if member is not None:
                output = member.decompress(data, _OUTPUT_SIZE)
                if output:
                    yield output
                data = b""
                if member.eof:
                    data, member = member.unused_data, None
                    continue
                if not member.needs_input:
                    continue
            data = next(source, b"")
            if not data:
                break
    except _DAMAGE as error:
        raise CorruptImage(f"the {name} data cannot be decompressed", cause=str(error)) from error
    if member is not None:
        raise CorruptImage(f"the {name} data ends too early", cause="the archive or layer was truncated")


class _Source:
    """What `zstandard` reads from: an iterator of chunks as an object with ``read``."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, _size: int = -1) -> bytes:
        return next(self._chunks, b"")


def _zstd(source: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress zstd frames with bounded output. A frame broken off ends the stream without an error, which is
    why what is read must have a digest or an end mark of its own; layers and archives have."""
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).stream_reader(
        _Source(source),  # type: ignore[arg-type]
        read_across_frames=True,
    )
    try:
        while output := reader.read(_OUTPUT_SIZE):
            yield output
    except zstandard.ZstdError as error:
        raise CorruptImage("the zstd data cannot be decompressed", cause=str(error)) from error
