"""Reading tar archives as a stream, one entry after the other, without ever seeking.

Python's `tarfile` takes 100 µs and more for an entry and decodes names; layers have tens of thousands of entries whose
names are bytes. This reader takes a tenth of that, gives names as they are, and bounds everything it keeps in memory.

Formats: POSIX ustar and pax (IEEE Std 1003.1, "pax"), GNU (long names, base-256 numbers, sparse files) and the
sparse formats 0.0, 0.1 and 1.0 of GNU tar in pax headers (GNU tar manual, "Storing Sparse Files"); extended attributes
as ``SCHILY.xattr.`` records, and as ``LIBARCHIVE.xattr.`` ones where there is no other.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from bandsox.errors import CorruptImage

_BLOCK = 512
_MAX_PAX = 4 * 1024 * 1024
_MAX_LONG_NAME = 64 * 1024
_MAX_SPARSE_EXTENTS = 1 << 20
_MAX_XATTR = 64 * 1024
_MAX_FILE = 1 << 43
_MAX_DIGITS = 20
_ZERO_BLOCK = bytes(_BLOCK)
_ZEROS = memoryview(bytes(1 << 20))
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAGIC_USTAR = b"ustar\x00"
_HEADER_ONLY_TYPES = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))


@dataclass(slots=True)
class Entry:
    """One file of an archive; ``type`` is ustar's letter, ``size`` what its content has, with ``holes`` bytes of holes."""

    path: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    link: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes] | None
    holes: int = 0


class ByteStream:
    """Bytes that arrive in chunks of any size, taken in pieces of any other."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._view = memoryview(b"")
        self.consumed = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end of the stream."""
        if len(self._view) >= count:
            taken = bytes(self._view[:count])
            self._view = self._view[count:]
            self.consumed += count
            return taken
        return b"".join(bytes(piece) for piece in self.pieces(count))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes as they lie in the chunks, fewer only at the end of the stream."""
        while count:
            if not self._view:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                self._view = memoryview(chunk)
                continue
            piece = self._view[:count]
            self._view = self._view[len(piece) :]
            self.consumed += len(piece)
            count -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read to the end and drop it."""
        self.consumed += len(self._view)
        self._view = memoryview(b"")
        for chunk in self._chunks:
            self.consumed += len(chunk)


def _number(field: bytes) -> int:
    """A numeric header field: octal digits, or GNU's base-256 with the first bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
        return value if not field[0] & 0x40 else value - (1 << (len(field) * 8 - 1))
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError as error:
        raise CorruptImage(f"a tar header has a number that is none: {field!r}") from error


def _text(field: bytes) -> bytes:
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


class TarReader:
    """The entries of one archive.

    Iterate over it; for an entry with content call `content` before going on, or the content is skipped.

    Parameters
    ----------
    require_end: an archive without its end mark (a block of zeros) was truncated. Layers are checked by their digest
        instead, and some tools leave theirs without the mark.

    Raises
    ------
    CorruptImage: from any method, where the archive is truncated or breaks its format.
    """

    def __init__(self, stream: ByteStream, *, require_end: bool = False) -> None:
        self._stream = stream
        self._require_end = require_end
        self._global: dict[bytes, bytes] = {}
        self._padded = 0
        self._extents: list[tuple[int, int]] | None = None
        self._size = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def content(self) -> Iterator[memoryview]:
        """The content of the entry that was given last, holes filled with zeros."""
        extents, self._extents = self._extents, None
        if extents is None:
            yield from self._stored(self._size)
            return
        position = 0
        for offset, length in extents:
            yield from _zeros(offset - position)
            yield from self._stored(length)
            position = offset + length
        yield from _zeros(self._size - position)

    # ── headers ─────────────────────────────────────────────────────────────────────────────────

    def _next(self) -> Entry | None:
        pax: dict[bytes, bytes] = {}
        extents: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            self._skip_rest()
            header = self._header()
            if header is None:
                return None
            fields = _HEADER.unpack(header)
            kind: bytes = fields[7]
            if kind in b"xX":
                self._read_pax(_number(fields[4]), pax, extents)
            elif kind == b"g":
                self._read_pax(_number(fields[4]), self._global, [])
            elif kind == b"L":
                long_name = self._long_text(_number(fields[4]))
            elif kind == b"K":
                long_link = self._long_text(_number(fields[4]))
            elif kind == b"V":
                self._begin_data(_number(fields[4]))
            elif kind == b"M":
                raise CorruptImage("the archive is one volume of several")
            else:
                merged = {**self._global, **pax} if self._global else pax
                return self._entry(header, fields, merged, extents, long_name, long_link)

    def _header(self) -> bytes | None:
        """The next header block, or None at the archive's end: a block of zeros, or the stream's end."""
        header = self._stream.take(_BLOCK)
        if header == _ZERO_BLOCK or not (header or self._require_end):
            return None
        if len(header) < _BLOCK:
            raise CorruptImage("the archive ends in the middle of a header")
        expected = _number(header[148:156])
        if expected != sum(header) - sum(header[148:156]) + 256 and expected != _signed_checksum(header):
            raise CorruptImage("a tar header has the wrong checksum", cause="the layer is damaged, or is not a tar archive")
        return header

    def _entry(
        self,
        header: bytes,
        fields: tuple[bytes, ...],
        pax: dict[bytes, bytes],
        extents: list[tuple[bytes, bytes]],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        kind = fields[7]
        path = long_name if long_name is not None else _text(fields[0])
        if long_name is None and fields[14][0] and header[257:263] == _MAGIC_USTAR:
            path = _text(fields[14]) + b"/" + path
        entry = Entry(
            path=path, type=kind, mode=_number(fields[1]) & 0o7777, uid=_number(fields[2]), gid=_number(fields[3]),
            mtime=_number(fields[5]), size=_number(fields[4]), link=long_link if long_link is not None else _text(fields[8]),
            device=(0, 0), xattrs=None,
        )  # fmt: skip
        if kind in b"34":
            entry.device = (_number(fields[12]), _number(fields[13]))
        if pax:
            _apply_pax(entry, pax)
        if kind == b"D" or (kind in b"07\0" and entry.path.endswith(b"/")):
            entry.type = b"5"
        self._begin_data(0 if entry.type in _HEADER_ONLY_TYPES and kind != b"D" else entry.size)
        if kind == b"S":
            self._old_sparse(entry, header)
        elif pax and (extents or any(key.startswith(b"GNU.sparse.") for key in pax)):
            self._pax_sparse(entry, pax, extents)
        self._size = entry.size
        return entry

    # ── data ────────────────────────────────────────────────────────────────────────────────────

    def _begin_data(self, size: int) -> None:
        if not 0 <= size <= _MAX_FILE:
            raise CorruptImage(f"a tar header gives a size of {size} bytes")
        self._padded = size + -size % _BLOCK
        self._extents = None

    def _stored(self, count: int) -> Iterator[memoryview]:
        for piece in self._stream.pieces(count):
            count -= len(piece)
            self._padded -= len(piece)
            yield piece
        if count:
            raise CorruptImage("the archive ends in the middle of a file")

    def _skip_rest(self) -> None:
        for piece in self._stream.pieces(self._padded):
            self._padded -= len(piece)
        if self._padded:
            raise CorruptImage("the archive ends in the middle of a file")

    def _take(self, size: int, limit: int, what: str) -> bytes:
        if not 0 <= size <= limit:
            raise CorruptImage(f"{what} in the archive is {size} bytes long; at most {limit} are accepted")
        self._begin_data(size)
        return b"".join(self._stored(size))

    def _long_text(self, size: int) -> bytes:
        return _text(self._take(size, _MAX_LONG_NAME, "a long name"))

    def _read_pax(self, size: int, records: dict[bytes, bytes], extents: list[tuple[bytes, bytes]]) -> None:
        """Read a pax header: ``<length> <key>=<value>\\n`` records, the length counting itself."""
        data = self._take(size, _MAX_PAX, "a pax header")
        position = 0
        while position < len(data) and data[position]:
            space = data.find(b" ", position, position + 20)
            length = int(data[position:space]) if space > 0 and data[position:space].isdigit() else 0
            end = position + length
            equals = data.find(b"=", space, end)
            if length < 5 or end > len(data) or data[end - 1] != 10 or equals < 0:
                raise CorruptImage("a pax header of the archive is malformed")
            key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                extents.append((key, value))
            else:
                records[key] = value
            position = end

    # ── sparse files ────────────────────────────────────────────────────────────────────────────

    def _set_extents(self, entry: Entry, numbers: list[int], real_size: int) -> None:
        extents = list(zip(numbers[::2], numbers[1::2], strict=True))
        position = stored = 0
        for offset, length in extents:
            if offset < position or length < 0:
                raise CorruptImage("the map of a sparse file in the archive overlaps itself")
            position = offset + length
            stored += length
        if position > real_size or real_size > _MAX_FILE or stored > self._padded:
            raise CorruptImage("the map of a sparse file in the archive does not fit the file")
        entry.size = real_size
        entry.holes = real_size - stored
        self._extents = extents

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's own header type ``S``: four extents in the header, 21 more in each block that follows."""
        real_size = _number(header[483:495])
        numbers: list[int] = []
        _extents_of(header[386:482], numbers)
        extended = header[482]
        while extended:
            block = self._stream.take(_BLOCK)
            if len(block) < _BLOCK or len(numbers) > 2 * _MAX_SPARSE_EXTENTS:
                raise CorruptImage("the map of a sparse file in the archive is broken off or too long")
            _extents_of(block[:504], numbers)
            extended = block[504]
        entry.type = b"0"
        self._set_extents(entry, numbers, real_size)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], pairs: list[tuple[bytes, bytes]]) -> None:
        if b"GNU.sparse.name" in pax:
            entry.path = pax[b"GNU.sparse.name"]
        if pax.get(b"GNU.sparse.major") == b"1":
            numbers = self._map_in_data()
            real_size = _decimal(pax.get(b"GNU.sparse.realsize", b""))
        else:
            real_size = _decimal(pax.get(b"GNU.sparse.size", b""))
            if b"GNU.sparse.map" in pax:
                text = pax[b"GNU.sparse.map"]
                numbers = [_decimal(number) for number in text.split(b",")] if text else []
            else:
                numbers = [_decimal(value) for _, value in pairs]
        if len(numbers) % 2:
            raise CorruptImage("the map of a sparse file in the archive has an odd number of values")
        self._set_extents(entry, numbers, real_size)

    def _map_in_data(self) -> list[int]:
        """Format 1.0: the map stands before the data, one decimal number a line, padded to whole blocks."""
        rest = b""
        numbers: list[int] = []
        wanted: int | None = None
        while wanted is None or len(numbers) < wanted:
            if len(rest) > _MAX_DIGITS:
                raise CorruptImage("the map of a sparse file in the archive is malformed")
            *lines, rest = (rest + b"".join(self._stored(_BLOCK))).split(b"\n")
            if wanted is None and lines:
                wanted = 2 * _decimal(lines.pop(0))
                if wanted > 2 * _MAX_SPARSE_EXTENTS:
                    raise CorruptImage("the map of a sparse file in the archive is too long")
            numbers.extend(_decimal(line) for line in lines[: (wanted or 0) - len(numbers)])
        return numbers


def _zeros(count: int) -> Iterator[memoryview]:
    while count > 0:
        piece = _ZEROS[:count]
        count -= len(piece)
        yield piece


def _signed_checksum(header: bytes) -> int:
    """The checksum as some old implementations made it, with signed bytes."""
    fields: tuple[int, ...] = struct.unpack("148b8x356b", header)
    return sum(fields) + 256


def _extents_of(data: bytes, numbers: list[int]) -> None:
    for position in range(0, len(data), 24):
        if data[position] == 0:
            return
        numbers.append(_number(data[position : position + 12]))
        numbers.append(_number(data[position + 12 : position + 24]))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise CorruptImage(f"the archive has a number that is none: {text[:40]!r}")
    return int(text)


def _whole_seconds(text: bytes) -> int:
    sign, digits = (-1, text[1:]) if text.startswith(b"-") else (1, text)
    return sign * _decimal(digits.split(b".", 1)[0])


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    """Overwrite what the ustar header said with what the pax header says."""
    entry.path = pax.get(b"path", entry.path)
    entry.link = pax.get(b"linkpath", entry.link)
    for key, name, convert in _PAX_NUMBERS:
        if key in pax:
            setattr(entry, name, convert(pax[key]))
    xattrs = {}
    for key, value in pax.items():
        if key.startswith(b"SCHILY.xattr."):
            xattrs[key[13:]] = value
        elif key.startswith(b"LIBARCHIVE.xattr."):
            xattrs.setdefault(unquote_to_bytes(key[17:]), _base64(value))
    for attribute, value in xattrs.items():
        if len(value) > _MAX_XATTR or not 0 < len(attribute) <= 255:
            raise CorruptImage(f"an extended attribute in the archive is too long: {attribute[:80]!r}")
    entry.xattrs = xattrs or None


_PAX_NUMBERS: tuple[tuple[bytes, str, Callable[[bytes], int]], ...] = (
    (b"size", "size", _decimal),
    (b"uid", "uid", _decimal),
    (b"gid", "gid", _decimal),
    (b"mtime", "mtime", _whole_seconds),
)


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error as error:
        raise CorruptImage("an extended attribute in the archive is not valid base64") from error
