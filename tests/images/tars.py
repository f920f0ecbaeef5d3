"""Hand-made tar archives, correct or nasty, byte by byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Tar:
    """Builds a tar archive entry by entry, with any header field at all."""

    data: bytearray = field(default_factory=bytearray)

    def file(self, name: str | bytes, content: bytes = b"", **fields: Any) -> Tar:
        return self.entry(name, tarfile.REGTYPE, content, **fields)

    def directory(self, name: str | bytes, **fields: Any) -> Tar:
        return self.entry(name, tarfile.DIRTYPE, **{"mode": 0o755, **fields})

    def symlink(self, name: str | bytes, target: str | bytes, **fields: Any) -> Tar:
        return self.entry(name, tarfile.SYMTYPE, linkname=target, **fields)

    def hardlink(self, name: str | bytes, target: str | bytes, **fields: Any) -> Tar:
        return self.entry(name, tarfile.LNKTYPE, linkname=target, **fields)

    def whiteout(self, name: str) -> Tar:
        head, _, last = name.rpartition("/")
        return self.file(f"{head}/.wh.{last}" if head else f".wh.{last}")

    def opaque(self, name: str) -> Tar:
        return self.file(f"{name}/.wh..wh..opq")

    def entry(
        self,
        name: str | bytes,
        kind: bytes,
        content: bytes = b"",
        *,
        linkname: str | bytes = "",
        pax: dict[str | bytes, str | bytes] | None = None,
        format: Literal[0, 1, 2] = tarfile.PAX_FORMAT,  # noqa: A002
        xattrs: dict[str, bytes] | None = None,
        **fields: Any,
    ) -> Tar:
        info = tarfile.TarInfo(_text(name))
        info.type = kind
        info.linkname = _text(linkname)
        info.size = len(content)
        info.mode = 0o644
        for key, value in fields.items():
            setattr(info, key, value)
        records = {_bytes(key): _bytes(value) for key, value in (pax or {}).items()}
        records.update({b"SCHILY.xattr." + key.encode(): value for key, value in (xattrs or {}).items()})
        if records:
            self.pax(records)
        self.data += info.tobuf(format, "utf-8", "surrogateescape")
        return self.raw(content)

    def pax(self, records: dict[bytes, bytes], kind: bytes = b"x") -> Tar:
        """A pax header of these very records."""
        body = b"".join(_record(key, value) for key, value in records.items())
        info = tarfile.TarInfo("./PaxHeaders/x")
        info.type = kind
        info.size = len(body)
        self.data += info.tobuf(tarfile.USTAR_FORMAT)
        return self.raw(body)

    def raw(self, content: bytes) -> Tar:
        """Content as it is, padded to whole blocks."""
        self.data += content + bytes(-len(content) % 512)
        return self

    def gzip(self) -> bytes:
        return gzip.compress(self.bytes(), mtime=0)

    def bytes(self) -> bytes:
        return bytes(self.data) + bytes(1024)


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def gnu_sparse(name: str, pieces: list[tuple[int, bytes]], size: int, version: str) -> bytes:
    """An archive with one sparse file, in GNU's old format or pax format 0.0, 0.1 or 1.0."""
    tar = Tar()
    content = b"".join(piece for _, piece in pieces)
    numbers = [number for offset, piece in pieces for number in (offset, len(piece))]
    if version == "old":
        info = tarfile.TarInfo(name)
        info.type = b"S"
        info.size = len(content)
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        extents = b"".join(b"%011o\0" % number for number in numbers)
        first, rest = extents[: 24 * 4], extents[24 * 4 :]
        header[386 : 386 + len(first)] = first
        header[482] = 1 if rest else 0
        header[483:495] = b"%011o\0" % size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        tar.data += header
        while rest:
            block, rest = rest[: 24 * 21], rest[24 * 21 :]
            tar.data += block + bytes(504 - len(block)) + (b"\1" if rest else b"\0") + bytes(7)
        return tar.raw(content).bytes()
    records: dict[bytes, bytes] = {}
    if version == "1.0":
        records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % size}
        table = b"".join(b"%d\n" % number for number in [len(pieces), *numbers])
        content = table + bytes(-len(table) % 512) + content
        records[b"GNU.sparse.name"] = name.encode()
    elif version == "0.1":
        records = {b"GNU.sparse.size": b"%d" % size, b"GNU.sparse.numblocks": b"%d" % len(pieces)}
        records[b"GNU.sparse.name"] = name.encode()
        records[b"GNU.sparse.map"] = ",".join(str(number) for number in numbers).encode()
    if version == "0.0":
        body = _record(b"GNU.sparse.size", b"%d" % size) + _record(b"GNU.sparse.numblocks", b"%d" % len(pieces))
        for offset, piece in pieces:
            body += _record(b"GNU.sparse.offset", b"%d" % offset) + _record(b"GNU.sparse.numbytes", b"%d" % len(piece))
        info = tarfile.TarInfo("x")
        info.type = b"x"
        info.size = len(body)
        tar.data += info.tobuf(tarfile.USTAR_FORMAT)
        tar.raw(body)
        return tar.file(name, content, format=tarfile.USTAR_FORMAT).bytes()
    tar.pax(records)
    return tar.file("GNUSparseFile.0/" + name, content, format=tarfile.USTAR_FORMAT).bytes()


def in_chunks(data: bytes, size: int) -> io.BufferedReader:
    """`data` as a stream that gives at most `size` bytes a read."""

    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self.position = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            piece = data[self.position : self.position + min(size, len(buffer))]
            buffer[: len(piece)] = piece
            self.position += len(piece)
            return len(piece)

    return io.BufferedReader(Slow(), size)  # type: ignore[arg-type]
