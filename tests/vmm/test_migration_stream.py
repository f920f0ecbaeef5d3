"""Taking QEMU's stream apart: what is right is kept whole, and what is wrong is refused, whoever wrote it."""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandsox.errors import VMMError
from bandsox.vmm.qemu.migration_stream import PAGE_SIZE, RAM_BLOCK, split, stream_limit

RAM = 16 * PAGE_SIZE
BIOS = 2 * PAGE_SIZE
DEVICES = b"\x04devices' state\x00"
ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def record(address: int, flags: int, block: str | None = None, content: bytes = b"") -> bytes:
    name = b"" if block is None else bytes([len(block)]) + block.encode()
    return struct.pack(">Q", address | flags) + name + content


def page(character: str) -> bytes:
    return character.encode() * PAGE_SIZE


SIZES = record(RAM + BIOS, MEM_SIZE) + b"".join(
    bytes([len(name)]) + name.encode() + struct.pack(">Q", size) for name, size in {RAM_BLOCK: RAM, "bios": BIOS}.items()
)
BEGINNING = b"QEVM\0\0\0\x03\x07" + number(7) + b"microvm"
FIRST = b"\x01" + number(2) + b"\x03ram" + number(0) + number(4) + SIZES + record(0, EOS)
FOOTER = b"\x7e" + number(2)


def stream(*records: bytes, part: Sequence[bytes] = ()) -> bytes:
    parts = b"\x02" + number(2) + b"".join(part) + record(0, EOS) + FOOTER if part else b""
    return BEGINNING + FIRST + FOOTER + parts + b"\x03" + number(2) + b"".join(records) + record(0, EOS) + FOOTER + DEVICES


WHOLE = stream(
    record(0, ZERO, RAM_BLOCK, b"\0"),
    *(record(position * PAGE_SIZE, PAGE | CONTINUE, None, page(chr(ord("a") + position))) for position in (1, 2, 5)),
    record(0, PAGE, "bios", page("x")),
    record(PAGE_SIZE, ZERO | CONTINUE, None, b"\0"),
    part=[record(15 * PAGE_SIZE, PAGE, RAM_BLOCK, page("p"))],
)


def taken_apart(content: bytes) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as work:
        raw, ram, state = (Path(work) / name for name in ("raw", "ram", "state"))
        raw.write_bytes(content)
        split(raw, ram, state, RAM)
        return ram.read_bytes(), state.read_bytes()


def test_the_memory_is_in_its_place_and_the_rest_is_a_stream() -> None:
    ram, state = taken_apart(WHOLE)
    expected = bytearray(RAM)
    for position, character in {1: "b", 2: "c", 5: "f", 15: "p"}.items():
        expected[position * PAGE_SIZE : (position + 1) * PAGE_SIZE] = page(character)
    assert ram == expected
    others = record(0, PAGE, "bios", page("x")) + record(PAGE_SIZE, ZERO, "bios", b"\0")
    end = b"\x03" + number(2) + record(0, EOS) + FOOTER
    assert state == BEGINNING + FIRST[: -len(record(0, EOS))] + others + record(0, EOS) + FOOTER + end + DEVICES


def test_what_remains_is_taken_apart_again_without_memory() -> None:
    ram, state = taken_apart(taken_apart(WHOLE)[1])
    assert ram == bytes(RAM)
    assert state == taken_apart(WHOLE)[1]


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"QEVM",
        b"QEVM\0\0\0\x02" + WHOLE[8:],
        WHOLE.replace(b"\x03ram", b"\x03rom"),
        stream(record(RAM, PAGE, RAM_BLOCK, page("a"))),
        stream(record(RAM, ZERO, RAM_BLOCK, b"\0")),
        stream(record(0, ZERO, RAM_BLOCK, b"\1")),
        stream(record(BIOS, PAGE, "bios", page("a"))),
        stream(record(0, PAGE, "other", page("a"))),
        stream(record(0, PAGE | CONTINUE, None, page("a"))),
        stream(record(0, PAGE | 0x100, RAM_BLOCK, page("a"))),
        stream(record(0, PAGE, RAM_BLOCK, b"short")),
        WHOLE.replace(SIZES, record((1 << 62) & ~0xFFF, MEM_SIZE) + SIZES[8:]),
        WHOLE.replace(struct.pack(">Q", RAM), struct.pack(">Q", RAM * 2)),
        WHOLE.replace(FOOTER, b"\x7e" + number(3)),
        BEGINNING + FIRST + FOOTER + DEVICES,
    ],
)
def test_what_is_no_stream_is_refused(wrong: bytes) -> None:
    with pytest.raises(VMMError):
        taken_apart(wrong)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=9), st.integers(0, len(WHOLE)))
def test_damage_is_refused_or_stays_within_the_memory(place: int, damage: bytes, end: int) -> None:
    content = bytearray(WHOLE)
    content[place : place + len(damage)] = damage
    try:
        ram, state = taken_apart(bytes(content[:end]) or b"\0")
    except VMMError:
        return
    assert len(ram) == RAM
    assert len(state) <= len(content)


def test_the_limit_allows_every_page_with_its_record() -> None:
    pages = RAM // PAGE_SIZE
    assert stream_limit(RAM) > pages * (PAGE_SIZE + 8) + len(stream())


def test_a_file_that_takes_no_more_in_the_middle_of_pages_is_told_as_that(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: both write a part, and refuse the next."""
    (tmp_path / "raw").write_bytes(stream(*(record(at * PAGE_SIZE, PAGE, RAM_BLOCK, page("x")) for at in range(16))))
    program = f"""
import errno, os, resource, signal
from pathlib import Path
from bandsox.vmm.qemu.migration_stream import split
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.ftruncate = lambda descriptor, size: resource.setrlimit(resource.RLIMIT_FSIZE, ({2 * PAGE_SIZE + 100}, {RAM}))
try:
    split(Path("raw"), Path("ram"), Path("state"), {RAM})
except OSError as error:
    assert error.errno == errno.EFBIG, error
else:
    raise AssertionError("it did not fail")
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
