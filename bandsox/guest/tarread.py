"""Reading a tar stream from a hostile guest, in constant memory.

Understood are ustar headers and pax records as the agent writes them (POSIX.1-2017, pax; GNU tar's manual, "PAX Format, Version 1.0"
for files with holes). Every field is bounded; anything else is a `ProtocolError`. `tarfile` is no help here: it
reads an extended header of any size into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bandsox.errors import ProtocolError

_BLOCK = 512
_MAX_RECORDS = 1 << 20  # bytes of extended headers of one entry
_MAX_SPANS = 1 << 20
_MAX_TRAILER = 1 << 20
_MAX_NUMBER = 1 << 62

REGULAR, HARD_LINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"
_EXTENDED, _GLOBAL = b"x", b"g"
_KINDS = frozenset({b"\0", *(b"%d" % digit for digit in range(8))})

Piece = memoryview | bytes


class PieceReader:
    """The bytes of an iterator of pieces, in the amounts the reader wants."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def chunks(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes, in views that are valid until the next one is asked for."""
        while count:
            if not self._rest:
                self._rest = memoryview(self._next())
            chunk = self._rest[:count]
            self._rest = self._rest[len(chunk) :]
            count -= len(chunk)
            yield chunk

    def read(self, count: int) -> bytes:
        """The next `count` bytes at once; `count` is bounded by the caller."""
        return b"".join(self.chunks(count))

    def skip(self, count: int) -> None:
        """Drop the next `count` bytes."""
        for _ in self.chunks(count):
            pass

    def drain(self, at_most: int) -> None:
        """Read to the end."""
        left = at_most - len(self._rest)
        for piece in self._pieces:
            left -= len(piece)
            if left < 0:
                raise ProtocolError("the guest's archive goes on after its end")

    def _next(self) -> Piece:
        for piece in self._pieces:
            if piece:
                return piece
        raise ProtocolError("the guest's archive ends in the middle")


@dataclass
class TarEntry:
    """One entry: `name` without a slash at its end. `size` is what the file has, holes included, in bytes.

    `stored` bytes follow in the stream for it; `spans` are the offsets and lengths they belong to.
    """

    name: bytes
    kind: bytes
    mode: int
    mtime: float
    target: bytes
    size: int
    stored: int
    spans: list[tuple[int, int]]


def entries(source: PieceReader) -> Iterator[TarEntry]:
    """The entries of an archive. Whoever takes one reads its `stored` bytes from `source` before the next.

    Raises
    ------
    ProtocolError: it is not such an archive.
    """
    while True:
        entry = _next_entry(source)
        if entry is None:
            source.drain(_MAX_TRAILER)
            return
        yield entry
        source.skip(-entry.stored % _BLOCK)


def _next_entry(source: PieceReader) -> TarEntry | None:
    records: dict[bytes, bytes] = {}
    headers = 0
    while True:
        block = source.read(_BLOCK)
        if not any(block):
            return None
        _verify(block)
        kind = block[156:157]
        stored = _number(block[124:136])
        if kind in _KINDS:
            return _entry(source, block, kind, records)
        headers += stored + _BLOCK
        if headers > _MAX_RECORDS:
            raise ProtocolError("the guest's archive has an extended header that is too long")
        body = source.read(stored + -stored % _BLOCK)[:stored]
        if kind == _EXTENDED:
            records.update(_records(body))
        elif kind != _GLOBAL:
            raise ProtocolError("the guest's archive has an entry of an unknown type")


def _verify(block: bytes) -> None:
    """Check a header's checksum, in which its own field counts as spaces."""
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != _number(block[148:156]):
        raise ProtocolError("the guest's archive has a header with a wrong checksum")


def _entry(source: PieceReader, block: bytes, kind: bytes, records: dict[bytes, bytes]) -> TarEntry:
    prefix, name = _text(block[345:500]), _text(block[:100])
    name = records.get(b"GNU.sparse.name") or records.get(b"path") or (prefix + b"/" + name if prefix else name)
    stored = _decimal(records[b"size"]) if b"size" in records else _number(block[124:136])
    kind = REGULAR if kind in {b"\0", b"7"} else kind
    if kind != REGULAR:
        stored = 0
    entry = TarEntry(
        name=name.rstrip(b"/"),
        kind=kind,
        mode=_number(block[100:108]),
        mtime=_seconds(records[b"mtime"]) if b"mtime" in records else float(_number(block[136:148])),
        target=records.get(b"linkpath") or _text(block[157:257]),
        size=stored,
        stored=stored,
        spans=[(0, stored)],
    )
    if b"GNU.sparse.major" in records:
        _read_map(source, entry, records)
    return entry


def _read_map(source: PieceReader, entry: TarEntry, records: dict[bytes, bytes]) -> None:
    """Take the map of a file with holes from the beginning of its data."""
    if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")) != (b"1", b"0") or entry.kind != REGULAR:
        raise ProtocolError("the guest's archive has a sparse file in an unknown format")
    entry.size = _decimal(records.get(b"GNU.sparse.realsize", b""))
    numbers = _MapReader(source, entry.stored)
    count = numbers.next()
    if count > _MAX_SPANS:
        raise ProtocolError("the guest's archive has a sparse file with too many holes")
    entry.spans = [(numbers.next(), numbers.next()) for _ in range(count)]
    entry.stored -= numbers.taken
    end = 0
    for offset, length in entry.spans:
        if offset < end or offset + length > entry.size:
            raise ProtocolError("the guest's archive has a sparse file whose parts do not fit")
        end = offset + length
    if sum(length for _, length in entry.spans) != entry.stored:
        raise ProtocolError("the guest's archive has a sparse file with more or less data than it says")


class _MapReader:
    """The decimal numbers at the beginning of a sparse file's data, one a line, in whole blocks."""

    def __init__(self, source: PieceReader, stored: int) -> None:
        self._source = source
        self._stored = stored
        self._text = b""
        self.taken = 0

    def next(self) -> int:
        """The next number."""
        while b"\n" not in self._text:
            if self.taken + _BLOCK > self._stored or len(self._text) > _BLOCK:
                raise ProtocolError("the guest's archive has a sparse file without a map")
            self._text += self._source.read(_BLOCK)
            self.taken += _BLOCK
        line, _, self._text = self._text.partition(b"\n")
        return _decimal(line)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """A header's number: octal digits, or binary where the first bit is set (GNU tar's manual, "Basic Tar Format")."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        return _bounded(lambda: value)
    digits = field.strip(b"\0 ")
    return _bounded(lambda: int(digits or b"0", 8))


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ProtocolError("the guest's archive has a field that is not a number")
    return _bounded(lambda: int(digits))


def _seconds(text: bytes) -> float:
    try:
        seconds = float(text[:40])
    except ValueError:
        raise ProtocolError("the guest's archive has a time that is not a number") from None
    if not -1e11 < seconds < 1e11:
        raise ProtocolError("the guest's archive has a time out of all bounds")
    return seconds


def _bounded(read: Callable[[], int]) -> int:
    try:
        value = read()
    except ValueError:
        raise ProtocolError("the guest's archive has a field that is not a number") from None
    if not 0 <= value < _MAX_NUMBER:
        raise ProtocolError("the guest's archive has a number out of all bounds")
    return value


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records ``length key=value\\n`` of an extended header."""
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 21)
        if space < 0:
            raise ProtocolError("the guest's archive has an extended header that cannot be read")
        end = position + _decimal(body[position:space])
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end > len(body) or end <= space + 1 or not equals or body[end - 1 : end] != b"\n":
            raise ProtocolError("the guest's archive has an extended header that cannot be read")
        yield key, value
        position = end
