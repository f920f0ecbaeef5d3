"""What QEMU writes of a stopped machine, taken apart: the guest's memory into a file that can be mapped, the rest as a stream.

The stream (QEMU, docs/devel/migration.rst; migration/savevm.c and ram.c) begins with a header and the machine type's name. The sections of
``ram`` follow: the sizes of all memory blocks, then page by page their contents, where the guest's memory is one block and the rest
are ROMs and tables. What comes after them is the devices' state, which is for QEMU alone.

A clone maps the file as its memory, and reads the stream without the guest's memory: header, the blocks' sizes, the pages of the other
blocks, and the devices.

The writer may have been taken over by its guest, so every number is checked: nothing is written beyond the memory's size, and nothing
is kept in memory but the stream without the guest's memory, which is bounded.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from bandsox.errors import VMMError

RAM_BLOCK = "microvm.ram"
"""What QEMU calls the memory of a guest on the machine type microvm."""

PAGE_SIZE = 4096

OTHERS_LIMIT = 64 << 20
"""What all but the guest's memory may take together; it is less than 2 MiB."""

_MAGIC = struct.pack(">II", 0x5145564D, 3)
_START, _PART, _END, _CONFIGURATION, _FOOTER = 0x01, 0x02, 0x03, 0x07, 0x7E
_NAME_LIMIT = 255
_BLOCKS_LIMIT = 64

_ZERO, _MEM_SIZE, _PAGE, _EOS, _CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
"""Flags of a record in a section of ``ram``, in the lower bits of its address (QEMU, migration/ram.c, ``RAM_SAVE_FLAG_…``)."""

_RUN = 512
"""How many pages are written with one system call; IOV_MAX is 1024."""

_BE32, _BE64 = struct.Struct(">I"), struct.Struct(">Q")


def stream_limit(ram_bytes: int) -> int:
    """The most that the stream of a guest with so much memory can take."""
    return ram_bytes + ram_bytes // PAGE_SIZE * 16 + OTHERS_LIMIT


def split(raw: Path, ram: Path, state: Path, ram_bytes: int) -> None:
    """Write the guest's memory to `ram`, without its zero pages, and what remains of the stream to `state`. Blocks.

    Parameters
    ----------
    raw: the stream as QEMU wrote it; `ram` and `state` do not exist yet.
    ram_bytes: how large the guest's memory is.

    Raises
    ------
    VMMError: it is not such a stream. OSError: there is no room.
    """
    if raw.stat().st_size == 0:
        raise _not_a_stream("it is empty")
    with raw.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
        descriptor = os.open(ram, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, ram_bytes)
            with _Splitter(view, descriptor, ram_bytes) as splitter:
                try:
                    rest = splitter.split()
                except (struct.error, IndexError, UnicodeDecodeError) as error:
                    raise _not_a_stream("it ends within a record") from error
        finally:
            os.close(descriptor)
    state.write_bytes(rest)


@dataclass
class _Splitter:
    view: memoryview
    ram: int
    ram_bytes: int
    position: int = 0
    blocks: dict[str, int] = field(default_factory=dict)
    others: bytearray = field(default_factory=bytearray)
    block: str = ""
    run: list[memoryview] = field(default_factory=list)
    run_at: int = 0

    def __enter__(self) -> _Splitter:
        return self

    def __exit__(self, *_: object) -> None:
        for piece in self.run:
            piece.release()

    def split(self) -> bytes:
        """The stream without the guest's memory, which is written to its file."""
        self._header()
        head = bytes(self.view[: self.position])
        if self._byte() != _START:
            raise _not_a_stream("it does not begin with the memory")
        section = self._number()
        start = self.position
        if self._text() != "ram":
            raise _not_a_stream("it does not begin with the memory")
        self.position += 8  # instance and version
        first = bytes(self.view[start : self.position])
        sizes = self._sizes()
        self._pages()
        self._footer(section)
        while (kind := self._byte()) == _PART:
            self._section(section)
        if kind != _END:
            raise _not_a_stream("its memory has no end")
        self._section(section)
        devices = self.view[self.position :]
        if len(devices) > OTHERS_LIMIT:
            raise _not_a_stream("its devices have too much state")
        identity, eos, footer = _BE32.pack(section), _BE64.pack(_EOS), bytes([_FOOTER]) + _BE32.pack(section)
        with devices:
            pieces = (bytes([_START]), identity, first, sizes, self.others, eos, footer, bytes([_END]), identity, eos, footer, devices)
            return head + b"".join(pieces)

    # ── sections ────────────────────────────────────────────────────────────────────────────────

    def _header(self) -> None:
        if bytes(self.view[:8]) != _MAGIC:
            raise _not_a_stream("it has another beginning")
        self.position = 8
        if self._byte() != _CONFIGURATION:
            raise _not_a_stream("it does not name the machine type")
        length = self._number()
        if length > _NAME_LIMIT:
            raise _not_a_stream("its machine type has no name")
        self.position += length

    def _section(self, section: int) -> None:
        if self._number() != section:
            raise _not_a_stream("a section is where the memory's should be")
        self._pages()
        self._footer(section)

    def _footer(self, section: int) -> None:
        if self._byte() != _FOOTER or self._number() != section:
            raise _not_a_stream("a section does not end where it should")

    def _sizes(self) -> bytes:
        """The record that lists the memory blocks, as it is."""
        start = self.position
        record = self._long()
        if record & (PAGE_SIZE - 1) != _MEM_SIZE:
            raise _not_a_stream("its memory has no sizes")
        total = record - _MEM_SIZE
        while sum(self.blocks.values()) < total:
            name = self._text()
            size = self._long()
            if name in self.blocks or size == 0 or size % PAGE_SIZE:
                raise _not_a_stream("the sizes of its memory cannot be")
            self.blocks[name] = size
            if len(self.blocks) > _BLOCKS_LIMIT:
                raise _not_a_stream("it has too many kinds of memory")
        if self.blocks.get(RAM_BLOCK) != self.ram_bytes or sum(self.blocks.values()) != total:
            raise _not_a_stream("its memory has another size")
        return bytes(self.view[start : self.position])

    def _pages(self) -> None:
        """The records of one section, up to its end mark."""
        unpack, view, flag_bits = _BE64.unpack_from, self.view, PAGE_SIZE - 1
        while True:
            (record,) = unpack(view, self.position)
            flags = record & flag_bits
            self.position += 8
            if flags == _PAGE | _CONTINUE and self.block == RAM_BLOCK:
                self._page(record - flags)
            elif flags == _ZERO | _CONTINUE and self.block == RAM_BLOCK:
                self._zero(record - flags)
            elif flags == _EOS and record == _EOS:
                break
            else:
                self._other(record - flags, flags)
        self._write()

    # ── pages ───────────────────────────────────────────────────────────────────────────────────

    def _page(self, address: int) -> None:
        """One page of the guest's memory, kept until the next one does not follow it."""
        end = self.position + PAGE_SIZE
        if address + PAGE_SIZE > self.ram_bytes or end > len(self.view):
            raise _not_a_stream("a page is outside of the memory")
        if address != self.run_at + len(self.run) * PAGE_SIZE or len(self.run) == _RUN:
            self._write()
            self.run_at = address
        self.run.append(self.view[self.position : end])
        self.position = end

    def _zero(self, address: int) -> None:
        if address + PAGE_SIZE > self.ram_bytes or self._byte() != 0:
            raise _not_a_stream("a page is outside of the memory")

    def _other(self, address: int, flags: int) -> None:
        """A record that names its block, or belongs to another one than the guest's memory: that is kept, with its name."""
        if flags & ~_CONTINUE not in (_PAGE, _ZERO):
            raise _not_a_stream(f"a record of its memory has the flags {flags:#x}")
        if not flags & _CONTINUE:
            self.block = self._text()
        kind = flags & ~_CONTINUE
        if self.block == RAM_BLOCK:
            self._page(address) if kind == _PAGE else self._zero(address)
            return
        size = self.blocks.get(self.block)
        if size is None or address + PAGE_SIZE > size:
            raise _not_a_stream("a page is outside of the memory")
        length = PAGE_SIZE if kind == _PAGE else 1
        name = self.block.encode()
        self.others += _BE64.pack(address | kind) + bytes([len(name)]) + name + self._take(length)
        if len(self.others) > OTHERS_LIMIT:
            raise _not_a_stream("its other memory takes too much")

    def _write(self) -> None:
        position, pieces, rests = self.run_at, self.run, list[memoryview]()
        expected = len(pieces) * PAGE_SIZE
        try:
            while expected:
                written = os.pwritev(self.ram, pieces, position)
                if written == expected:
                    break
                whole, part = divmod(written, PAGE_SIZE)  # the file system gave up in between; the next try says why
                position, expected = position + written, expected - written
                rests.append(pieces[whole][part:])
                pieces = [rests[-1], *pieces[whole + 1 :]]
        finally:  # also for the error's sake: a view that is left would keep the stream from being closed, and hide it
            for piece in (*rests, *self.run):
                piece.release()
            self.run = []

    # ── values ──────────────────────────────────────────────────────────────────────────────────

    def _take(self, length: int) -> bytes:
        taken = bytes(self.view[self.position : self.position + length])
        if len(taken) != length:
            raise _not_a_stream("it ends within a record")
        self.position += length
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self) -> int:
        number: int = _BE32.unpack(self._take(4))[0]
        return number

    def _long(self) -> int:
        number: int = _BE64.unpack(self._take(8))[0]
        return number

    def _text(self) -> str:
        return self._take(self._byte()).decode()


def _not_a_stream(cause: str) -> VMMError:
    return VMMError("QEMU has written something that is not a machine's state", cause=cause)
