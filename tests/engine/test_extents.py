"""Files as streams of what is in them: the same file comes back, holes and all, and nothing else is ever written."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bandsox.engine.snapshots import extents
from bandsox.errors import CorruptSnapshot

PAGE = extents.PAGE
PIECES = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 9000), st.sampled_from([b"\0", b"a", b"bc"])), max_size=8)


def _write(path: Path, size: int, pieces: list[tuple[int, int, bytes]]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for page, length, word in pieces:
            content = (word * length)[: max(0, min(length, size - page * PAGE))]
            if content:
                os.pwrite(file.fileno(), content, page * PAGE)


def _unpacked(chunks: Iterator[bytes], path: Path, size: int, limit: int | None = None) -> int:
    with path.open("r+b" if path.exists() else "xb") as file:
        return extents.unpack(chunks, file.fileno(), size, limit=limit)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(0, 3 << 20), pieces=PIECES, base_size=st.none() | st.integers(0, 3 << 20), base_pieces=PIECES)
def test_a_file_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    pieces: list[tuple[int, int, bytes]],
    base_size: int | None,
    base_pieces: list[tuple[int, int, bytes]],
) -> None:
    work = tmp_path_factory.mktemp("extents")
    source, base, target = work / "source", work / "base", work / "target"
    _write(source, size, pieces)
    if base_size is not None:
        _write(base, base_size, base_pieces)
        target.write_bytes(base.read_bytes())
    written = _unpacked(extents.pack(source, base if base_size is not None else None), target, size)
    assert target.read_bytes() == source.read_bytes()
    if base_size is None:
        assert target.stat().st_blocks <= source.stat().st_blocks
        assert written <= source.stat().st_blocks * 512 + PAGE


def test_what_is_the_same_in_the_base_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(os.urandom(4 << 20))
    content = bytearray((tmp_path / "base").read_bytes())
    content[5 * PAGE] ^= 1
    content[900 * PAGE : 902 * PAGE] = bytes(2 * PAGE)
    (tmp_path / "source").write_bytes(content)
    chunks = [*extents.pack(tmp_path / "source", tmp_path / "base")]
    (tmp_path / "base").rename(tmp_path / "target")
    assert _unpacked(iter(chunks), tmp_path / "target", len(content)) == 3 * PAGE
    assert (tmp_path / "target").read_bytes() == content
    assert sum(map(len, chunks)) < 3 * PAGE


def test_a_large_file_of_holes_costs_nothing(tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as file:
        file.truncate(1 << 40)
    chunks = b"".join(extents.pack(tmp_path / "source"))
    assert len(chunks) < 100
    _unpacked(iter([chunks]), tmp_path / "target", 1 << 40)
    assert (tmp_path / "target").stat().st_blocks == 0 and (tmp_path / "target").stat().st_size == 1 << 40


def _stream(*parts: bytes) -> bytes:
    return zstandard.compress(b"".join(parts))


HEADER = struct.pack(">8sQ", b"BSXTENT1", 1 << 20)
END = struct.pack(">QI", 1 << 20, 0)


def _extent(offset: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">QI", offset, len(content) if length is None else length) + content


HOSTILE = {
    "nothing": b"",
    "no zstd": os.urandom(100),
    "another file": _stream(struct.pack(">8sQ", b"BSXTENT2", 1 << 20), END),
    "of another size": _stream(struct.pack(">8sQ", b"BSXTENT1", 1 << 21), END),
    "beyond the end": _stream(HEADER, _extent((1 << 20) - 1, b"ab"), END),
    "far beyond the end": _stream(HEADER, _extent((1 << 64) - 2, b"ab"), END),
    "backwards": _stream(HEADER, _extent(PAGE, b"ab"), _extent(0, b"ab"), END),
    "the same place twice": _stream(HEADER, _extent(0, b"ab"), _extent(1, b"ab"), END),
    "an extent of a gibibyte": _stream(HEADER, _extent(0, b"ab", 1 << 30)),
    "no end": _stream(HEADER, _extent(0, b"ab")),
    "an end elsewhere": _stream(HEADER, struct.pack(">QI", 5, 0)),
    "something after the end": _stream(HEADER, END, b"x"),
    "a second stream": _stream(HEADER, END) + _stream(HEADER, END),
    "broken off": _stream(HEADER, _extent(0, os.urandom(PAGE)), END)[:-200],
    "a window of 2 GiB": zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    ).compress(HEADER + END + bytes(1 << 10)),
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_stream_is_refused(tmp_path: Path, stream: bytes) -> None:
    with pytest.raises(CorruptSnapshot):
        _unpacked(iter([stream] if stream else []), tmp_path / "target", 1 << 20)
    assert (tmp_path / "target").stat().st_size <= 1 << 20


def test_a_bomb_stops_at_its_limit(tmp_path: Path) -> None:
    size = 1 << 30
    parts = [struct.pack(">8sQ", b"BSXTENT1", size), *(_extent(start, b"\1" * (1 << 20)) for start in range(0, 64 << 20, 1 << 20))]
    with pytest.raises(CorruptSnapshot):
        _unpacked(iter([_stream(*parts)]), tmp_path / "target", size, limit=8 << 20)
    assert (tmp_path / "target").stat().st_blocks * 512 <= 8 << 20
