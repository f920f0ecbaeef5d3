"""The tables of a squashfs 4.0 image: inodes, directories, owners and extended attributes, made from a finished tree.

`squashfs` writes the contents and puts the tables behind them. The layouts are those of the kernel's
``fs/squashfs/squashfs_fs.h``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import lz4.block

from bandsox.errors import CorruptImage
from bandsox.images.tree import Directory, Inode, Kind

METADATA_SIZE = 8192
NO_FRAGMENT = 0xFFFFFFFF
STORED_BLOCK = 1 << 24
STORED_METADATA = 1 << 15
_NO_XATTRS = 0xFFFFFFFF
_MAX_IDS = 65536
_MAX_TIME = 0xFFFFFFFF
_MAX_RUN = 256
_LZ4_ACCELERATION = 2

_XATTR_PREFIXES = ((b"user.", 0), (b"trusted.", 1), (b"security.", 2))

_TYPE_NUMBER = {Kind.DIRECTORY: 1, Kind.FILE: 2, Kind.SYMLINK: 3, Kind.BLOCK: 4, Kind.CHARACTER: 5, Kind.FIFO: 6}
_EXTENDED = 7


@dataclass(slots=True, eq=False)
class Content:
    """Where a file's bytes are in the image: whole blocks from `start` on, or a piece of a fragment block.

    ``blocks`` are the stored sizes (0: a hole, bit 24: not compressed); ``sparse`` the bytes held by holes. What the
    compressing threads have not delivered yet is filled in by `Writer.finish` at the latest.
    """

    size: int
    start: int = 0
    blocks: list[int] = field(default_factory=list)
    sparse: int = 0
    fragment: int = NO_FRAGMENT
    offset: int = 0

    @property
    def stored(self) -> int:
        """Bytes of the image that the blocks occupy."""
        return sum(size & ~STORED_BLOCK for size in self.blocks)


EMPTY = Content(0)


def compress(data: bytes | memoryview) -> bytes | None:
    """`data` as one LZ4 block, or None where that would not be smaller."""
    packed: bytes = lz4.block.compress(data, mode="fast", acceleration=_LZ4_ACCELERATION, store_size=False)
    return packed if len(packed) < len(data) else None


class MetadataStream:
    """A sequence of metadata blocks: 8 KiB each before compression, with a two-byte length in front."""

    def __init__(self) -> None:
        self.packed = bytearray()
        self._pending = bytearray()

    def position(self) -> tuple[int, int]:
        """Where the next byte will be: its block's offset in the packed stream, and its offset in the block."""
        return len(self.packed), len(self._pending)

    def append(self, data: bytes) -> None:
        """Add bytes, which may span blocks."""
        self._pending += data
        while len(self._pending) >= METADATA_SIZE:
            self._emit(bytes(self._pending[:METADATA_SIZE]))
            del self._pending[:METADATA_SIZE]

    def finish(self) -> bytearray:
        """Everything packed, the last block included."""
        if self._pending:
            self._emit(bytes(self._pending))
            self._pending.clear()
        return self.packed

    def _emit(self, block: bytes) -> None:
        packed = compress(block)
        if packed is None:
            self.packed += struct.pack("<H", len(block) | STORED_METADATA) + block
        else:
            self.packed += struct.pack("<H", len(packed)) + packed


class _IdTable:
    """User and group ids, which inodes name by their number in this table."""

    def __init__(self) -> None:
        self.ids: dict[int, int] = {}

    def number(self, identity: int) -> int:
        number = self.ids.setdefault(identity, len(self.ids))
        if number >= _MAX_IDS:
            raise CorruptImage(f"the image has files of more than {_MAX_IDS} different users and groups")
        return number


class XattrTable:
    """Sets of extended attributes, each stored once however many inodes have it."""

    def __init__(self) -> None:
        self.stream = MetadataStream()
        self.entries: list[bytes] = []
        self._numbers: dict[tuple[tuple[bytes, bytes], ...], int] = {}

    def number(self, xattrs: dict[bytes, bytes] | None) -> int:
        """The number by which inodes name this set of attributes; "none" where it is empty."""
        if not xattrs:
            return _NO_XATTRS
        key = tuple(sorted(xattrs.items()))
        known = self._numbers.get(key)
        if known is not None:
            return known
        block, offset = self.stream.position()
        size = 0
        for name, value in key:
            kind, short = _split_xattr(name)
            data = struct.pack("<HH", kind, len(short)) + short + struct.pack("<I", len(value)) + value
            size += len(data)
            self.stream.append(data)
        self.entries.append(struct.pack("<QII", block << 16 | offset, len(key), size))
        self._numbers[key] = len(self.entries) - 1
        return len(self.entries) - 1


def _split_xattr(name: bytes) -> tuple[int, bytes]:
    for prefix, kind in _XATTR_PREFIXES:
        if name.startswith(prefix):
            return kind, name[len(prefix) :]
    raise ValueError(f"squashfs has no extended attributes like {name!r}")


def storable_xattr(name: bytes) -> bool:
    """Whether squashfs can hold this attribute: ``user.``, ``trusted.`` and ``security.`` ones only."""
    return any(name.startswith(prefix) and len(name) > len(prefix) for prefix, _ in _XATTR_PREFIXES)


class TreeWriter:
    """Makes the inode and directory tables of a tree, children before their directory."""

    def __init__(self) -> None:
        self.inodes = MetadataStream()
        self.directories = MetadataStream()
        self.ids = _IdTable()
        self.xattrs = XattrTable()
        self.references: list[int] = []
        self._numbers: dict[int, int] = {}
        self._links: dict[int, int] = {}

    def write(self, root: Directory) -> int:
        """Write everything under `root`; return the root's inode reference."""
        order = self._number(root)
        self.references = [0] * len(self._numbers)
        for directory, parent in reversed(order):
            for child in directory.children.values():
                if not isinstance(child, Directory) and not self.references[self._numbers[id(child)] - 1]:
                    self._write_leaf(child)
            self._write_directory(directory, self._numbers[id(parent)] if parent else len(self._numbers) + 1)
        return self.references[self._numbers[id(root)] - 1]

    def _number(self, root: Directory) -> list[tuple[Directory, Directory | None]]:
        """Number every inode from 1 and count links; return the directories, parents before children."""
        order: list[tuple[Directory, Directory | None]] = [(root, None)]
        self._numbers[id(root)] = 1
        for directory, _ in order:
            for name in sorted(directory.children):
                child = directory.children[name]
                self._numbers.setdefault(id(child), len(self._numbers) + 1)
                self._links[id(child)] = self._links.get(id(child), 0) + 1
                if isinstance(child, Directory):
                    order.append((child, directory))
        return order

    def _header(self, inode: Inode, kind: int) -> bytes:
        """Begin an inode: remember where it is, and give the part that all kinds share."""
        number = self._numbers[id(inode)]
        block, offset = self.inodes.position()
        self.references[number - 1] = block << 16 | offset
        uid, gid = self.ids.number(inode.uid), self.ids.number(inode.gid)
        time = min(max(inode.mtime, 0), _MAX_TIME)
        return struct.pack("<HHHHII", kind, inode.mode, uid, gid, time, number)

    def _write_leaf(self, inode: Inode) -> None:
        if inode.kind is Kind.FILE:
            self._write_file(inode)
            return
        xattrs = self.xattrs.number(inode.xattrs)
        kind = _TYPE_NUMBER[inode.kind]
        links = self._links[id(inode)]
        body = struct.pack("<I", links)
        if inode.kind is Kind.SYMLINK:
            body += struct.pack("<I", len(inode.target)) + inode.target
        elif inode.kind is not Kind.FIFO:
            major, minor = inode.device
            body += struct.pack("<I", major << 8 | minor & 0xFF | (minor & ~0xFF) << 12)
        if xattrs != _NO_XATTRS:
            kind += _EXTENDED
            body += struct.pack("<I", xattrs)
        self.inodes.append(self._header(inode, kind) + body)

    def _write_file(self, inode: Inode) -> None:
        content = inode.content or EMPTY
        links = self._links[id(inode)]
        xattrs = self.xattrs.number(inode.xattrs)
        sizes = struct.pack(f"<{len(content.blocks)}I", *content.blocks)
        large = content.size > 0xFFFFFFFF or content.start > 0xFFFFFFFF
        if links == 1 and xattrs == _NO_XATTRS and not large and not content.sparse:
            body = struct.pack("<IIII", content.start, content.fragment, content.offset, content.size)
            self.inodes.append(self._header(inode, 2) + body + sizes)
        else:
            sparse = min(content.sparse, content.size - 1) if content.sparse else 0
            body = struct.pack(
                "<QQQIIII", content.start, content.size, sparse, links, content.fragment, content.offset, xattrs
            )  # fmt: skip
            self.inodes.append(self._header(inode, 2 + _EXTENDED) + body + sizes)

    def _write_directory(self, directory: Directory, parent_number: int) -> None:
        start, offset = self.directories.position()
        size, index = self._write_listing(directory)
        subdirectories = sum(isinstance(child, Directory) for child in directory.children.values())
        xattrs = self.xattrs.number(directory.xattrs)
        links = 2 + subdirectories
        if xattrs == _NO_XATTRS and size + 3 <= 0xFFFF:
            body = struct.pack("<IIHHI", start, links, size + 3, offset, parent_number)
            self.inodes.append(self._header(directory, 1) + body)
        else:
            body = struct.pack("<IIIIHHI", links, size + 3, start, parent_number, len(index), offset, xattrs)
            self.inodes.append(self._header(directory, 1 + _EXTENDED) + body + b"".join(index))

    def _write_listing(self, directory: Directory) -> tuple[int, list[bytes]]:
        """Write a directory's entries in runs that share an inode block; return their size and the index.

        The index has an entry for each metadata block the listing begins in after its first, so that a look-up
        in a large directory need not read it from its beginning.
        """
        names = sorted(directory.children)
        size = position = 0
        index: list[bytes] = []
        last_block = self.directories.position()[0]
        while position < len(names):
            run = self._run(directory, names, position)
            block = self.directories.position()[0]
            if block != last_block and len(index) < 0xFFFF:
                name = names[position]
                index.append(struct.pack("<III", size, block, len(name) - 1) + name)
                last_block = block
            data = self._encode_run(directory, run)
            self.directories.append(data)
            size += len(data)
            position += len(run)
        return size, index

    def _run(self, directory: Directory, names: list[bytes], position: int) -> list[bytes]:
        """The longest run of names from `position` on that one header can describe."""
        children = directory.children
        base = self._numbers[id(children[names[position]])]
        block = self.references[base - 1] >> 16
        end = position
        while end < len(names) and end - position < _MAX_RUN:
            number = self._numbers[id(children[names[end]])]
            if self.references[number - 1] >> 16 != block or not -0x8000 <= number - base <= 0x7FFF:
                break
            end += 1
        return names[position:end]

    def _encode_run(self, directory: Directory, run: list[bytes]) -> bytes:
        base = self._numbers[id(directory.children[run[0]])]
        parts = [struct.pack("<III", len(run) - 1, self.references[base - 1] >> 16, base)]
        for name in run:
            child = directory.children[name]
            number = self._numbers[id(child)]
            offset = self.references[number - 1] & 0xFFFF
            parts.append(struct.pack("<HhHH", offset, number - base, _TYPE_NUMBER[child.kind], len(name) - 1) + name)
        return b"".join(parts)
