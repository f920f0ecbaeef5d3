"""Reading single files out of a root file system image, without mounting it and without a machine.

`COPY --from=<image>` and the questions that COPY asks of the image it copies into (is this a directory, where does this link
lead, which number has this user) are answered from the squashfs that `bandsox.images.squashfs` wrote. Only what that writer
writes is read: squashfs 4.0 with LZ4. Format: https://dr-emann.github.io/squashfs/.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import lz4.block

from bandsox.dockerfile.files import FileNode, no_content
from bandsox.errors import CorruptImage
from bandsox.images.tree import Kind

_SUPERBLOCK = struct.Struct("<IIIIIHHHHHHQQQQQQQQ")
_MAGIC = 0x73717368
_LZ4 = 5
_METADATA = 8192
_STORED_METADATA = 1 << 15
_STORED_BLOCK = 1 << 24
_NONE = 0xFFFFFFFF
_CACHED_BLOCKS = 256
_XATTR_PREFIXES = {0: b"user.", 1: b"trusted.", 2: b"security."}
_KINDS = {1: Kind.DIRECTORY, 2: Kind.FILE, 3: Kind.SYMLINK, 4: Kind.BLOCK, 5: Kind.CHARACTER, 6: Kind.FIFO}
_EXTENDED = 7


@dataclass(frozen=True, slots=True)
class _Listing:
    """Where a directory's entries are: the block, the offset in it, and their length in bytes."""

    block: int
    offset: int
    length: int


class RootFS:
    """An open image. It can be used from several threads, one at a time.

    Raises
    ------
    CorruptImage: from any method, where the file is not what the writer writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._blocks: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        fields = _SUPERBLOCK.unpack(self._pread(0, _SUPERBLOCK.size))
        if fields[0] != _MAGIC or fields[5] != _LZ4:
            os.close(self._file)
            raise CorruptImage(f"{path} is not a root file system of this version", remedy="pull the image again")
        self._block_size = fields[3]
        self._root_reference: int = fields[11]
        self._id_table, self._xattr_table, self._inode_table, self._directory_table, self._fragment_table = fields[13:18]
        self._listings: dict[int, _Listing] = {}

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    # ── looking up ──────────────────────────────────────────────────────────────────────────────

    def find(self, path: tuple[bytes, ...]) -> FileNode | None:
        """The file at `path`, none of whose components is a symbolic link; None where there is none."""
        reference = self._reference(path)
        return None if reference is None else self._inode(reference)

    def list(self, path: tuple[bytes, ...]) -> list[bytes]:
        """The names in the directory at `path`, sorted; none where it is no directory."""
        reference = self._reference(path)
        return sorted(name for name, _ in self._entries(reference)) if reference is not None else []

    def _reference(self, path: tuple[bytes, ...]) -> int | None:
        reference: int | None = self._root_reference
        for part in path:
            if reference is None:
                return None
            reference = next((child for name, child in self._entries(reference) if name == part), None)
        return reference

    def _entries(self, reference: int) -> Iterator[tuple[bytes, int]]:
        """The entries of a directory, with references to their inodes."""
        self._inode(reference)
        listing = self._listings.get(reference)
        if listing is None or listing.length <= 3:
            return
        data = self._metadata(self._directory_table + listing.block, listing.offset, listing.length - 3)
        position = 0
        while position < len(data):
            count, start, _ = struct.unpack_from("<III", data, position)
            position += 12
            for _ in range(count + 1):
                offset, _, _, size = struct.unpack_from("<HhHH", data, position)
                yield data[position + 8 : position + 9 + size], start << 16 | offset
                position += 9 + size

    # ── inodes ──────────────────────────────────────────────────────────────────────────────────

    def _inode(self, reference: int) -> FileNode:
        block, offset = self._inode_table + (reference >> 16), reference & 0xFFFF
        type_, mode, uid, gid, mtime, number = struct.unpack("<HHHHII", self._metadata(block, offset, 16))
        extended = type_ > _EXTENDED
        kind = _KINDS.get(type_ - _EXTENDED if extended else type_)
        if kind is None:
            raise CorruptImage(f"{self._path} has a file of the unknown type {type_}")
        body = (block, offset + 16)
        node = FileNode(kind, mode, self._id(uid), self._id(gid), mtime)
        if kind is Kind.DIRECTORY:
            return self._directory(reference, body, extended, node)
        if kind is Kind.FILE:
            return self._regular(number, body, extended, node)
        links, value = struct.unpack("<II", self._metadata(*body, 8)) if kind is not Kind.FIFO else (1, 0)
        if kind is Kind.SYMLINK:
            raw = self._metadata(*body, 8 + value + 4 * extended)
            xattr = struct.unpack_from("<I", raw, 8 + value)[0] if extended else _NONE
            return replace(node, target=raw[8 : 8 + value], xattrs=self._xattrs(xattr))
        length = 4 if kind is Kind.FIFO else 8
        xattr = struct.unpack("<I", self._metadata(*body, length + 4)[-4:])[0] if extended else _NONE
        device = ((value >> 8) & 0xFFF, (value & 0xFF) | ((value >> 12) & 0xFFF00))
        return replace(node, device=device, xattrs=self._xattrs(xattr), inode=(id(self), number) if links > 1 else None)

    def _directory(self, reference: int, body: tuple[int, int], extended: bool, node: FileNode) -> FileNode:
        xattr = _NONE
        if extended:
            _, length, block, _, _, offset, xattr = struct.unpack("<IIIIHHI", self._metadata(*body, 24))
        else:
            block, _, length, offset, _ = struct.unpack("<IIHHI", self._metadata(*body, 16))
        self._listings[reference] = _Listing(block, offset, length)
        return replace(node, xattrs=self._xattrs(xattr))

    def _regular(self, number: int, body: tuple[int, int], extended: bool, node: FileNode) -> FileNode:
        links, xattr = 1, _NONE
        if extended:
            start, size, _, links, fragment, offset, xattr = struct.unpack("<QQQIIII", self._metadata(*body, 40))
            header = 40
        else:
            start, fragment, offset, size = struct.unpack("<IIII", self._metadata(*body, 16))
            header = 16
        whole = size // self._block_size if fragment != _NONE else -(-size // self._block_size)

        def read() -> Iterator[bytes]:
            raw = self._metadata(*body, header + 4 * whole)
            sizes = struct.unpack_from(f"<{whole}I", raw, header)
            return self._content(size, start, sizes, fragment, offset)

        inode = (id(self), number) if links > 1 else None
        return replace(node, size=size, xattrs=self._xattrs(xattr), inode=inode, read=read if size else no_content)

    def _content(self, size: int, start: int, sizes: tuple[int, ...], fragment: int, offset: int) -> Iterator[bytes]:
        left = size
        for stored in sizes:
            length = min(left, self._block_size)
            yield self._block(start, stored) if stored else bytes(length)
            start += stored & ~_STORED_BLOCK
            left -= length
        if left:
            entry = self._table(self._fragment_table, fragment, 16)
            fragment_start, fragment_size = struct.unpack_from("<QI", entry)
            yield self._block(fragment_start, fragment_size)[offset : offset + left]

    def _block(self, start: int, stored: int) -> bytes:
        raw = self._pread(start, stored & ~_STORED_BLOCK)
        return raw if stored & _STORED_BLOCK else self._unpack(raw, self._block_size)

    # ── tables ──────────────────────────────────────────────────────────────────────────────────

    def _id(self, index: int) -> int:
        return int(struct.unpack("<I", self._table(self._id_table, index, 4))[0])

    def _table(self, table: int, index: int, size: int) -> bytes:
        """An entry of a table whose metadata blocks are listed at `table`."""
        block, offset = divmod(index * size, _METADATA)
        (start,) = struct.unpack("<Q", self._pread(table + 8 * block, 8))
        return self._metadata(start, offset, size)

    def _xattrs(self, index: int) -> tuple[tuple[bytes, bytes], ...]:
        if index == _NONE:
            return ()
        (values_start,) = struct.unpack("<Q", self._pread(self._xattr_table, 8))
        reference, count, _ = struct.unpack("<QII", self._table(self._xattr_table + 16, index, 16))
        found: list[tuple[bytes, bytes]] = []
        position = (values_start + (reference >> 16), reference & 0xFFFF)
        data = _Cursor(self, *position)
        for _ in range(count):
            type_, name_size = struct.unpack("<HH", data.take(4))
            name = _XATTR_PREFIXES.get(type_ & 0xFF, b"") + data.take(name_size)
            (value_size,) = struct.unpack("<I", data.take(4))
            value = data.take(value_size)
            if type_ & 0x100:
                (elsewhere,) = struct.unpack("<Q", value)
                other = _Cursor(self, values_start + (elsewhere >> 16), elsewhere & 0xFFFF)
                value = other.take(struct.unpack("<I", other.take(4))[0])
            found.append((name, value))
        return tuple(sorted(found))

    # ── bytes ───────────────────────────────────────────────────────────────────────────────────

    def _metadata(self, start: int, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on of the metadata blocks that begin at `start`."""
        return _Cursor(self, start, offset).take(count)

    def metadata_block(self, start: int) -> tuple[bytes, int]:
        """The metadata block at `start`, and where the next one begins."""
        known = self._blocks.get(start)
        if known is not None:
            self._blocks.move_to_end(start)
            return known
        (header,) = struct.unpack("<H", self._pread(start, 2))
        length = header & ~_STORED_METADATA
        raw = self._pread(start + 2, length)
        block = (raw if header & _STORED_METADATA else self._unpack(raw, _METADATA), start + 2 + length)
        self._blocks[start] = block
        if len(self._blocks) > _CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return block

    def _unpack(self, raw: bytes, size: int) -> bytes:
        try:
            return bytes(lz4.block.decompress(raw, uncompressed_size=size))
        except lz4.block.LZ4BlockError as error:
            raise CorruptImage(f"{self._path} is damaged", remedy="remove the image and pull it again") from error

    def _pread(self, start: int, count: int) -> bytes:
        data = os.pread(self._file, count, start)
        if len(data) != count:
            raise CorruptImage(f"{self._path} ends too early", remedy="remove the image and pull it again")
        return data


class _Cursor:
    """A position in a run of metadata blocks."""

    def __init__(self, image: RootFS, start: int, offset: int) -> None:
        self._image = image
        self._start = start
        self._offset = offset

    def take(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            block, following = self._image.metadata_block(self._start)
            if self._offset >= len(block):
                self._start, self._offset = following, self._offset - len(block)
                continue
            part = block[self._offset : self._offset + count]
            parts.append(part)
            count -= len(part)
            self._offset += len(part)
        return b"".join(parts)
