"""Disks that take room only as they are written to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bandsox.engine import disks, sparse
from bandsox.errors import InvalidRequest
from bandsox.settings import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("BANDSOX_RUNTIME", str(tmp_path / "run"))
    return Layout.open(tmp_path / "storage")


def test_a_disk_is_a_whole_file_system_in_little_room(layout: Layout, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disks.create(layout, 4096, disk)
    assert disk.stat().st_size == 4096 << 20
    assert disk.stat().st_blocks * 512 < 16 << 20
    subprocess.run(["/usr/sbin/fsck.ext4", "-fn", str(disk)], check=True, capture_output=True)


def test_a_disk_is_its_owners_and_never_replaced(layout: Layout, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disks.create(layout, 64, disk)
    assert disk.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        disks.create(layout, 64, disk)


@pytest.mark.parametrize("size", [-1, 1, 10**9])
def test_sizes_out_of_bounds_are_refused(layout: Layout, tmp_path: Path, size: int) -> None:
    with pytest.raises(InvalidRequest):
        disks.create(layout, size, tmp_path / "disk.img")


@contextmanager
def _mounted(kind: str, place: Path, *options: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", kind, *options, kind, str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        for offset in (0, 1 << 20, (100 << 20) + 12345):
            file.seek(offset)
            file.write(os.urandom(70_000))
        file.truncate((300 << 20) + 99)


def test_a_sparse_copy_has_the_same_bytes_and_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    _make_sparse(source)
    sparse.copy(source, target)
    assert subprocess.run(["cmp", str(source), str(target)], check=False).returncode == 0
    assert target.stat().st_blocks <= source.stat().st_blocks + 16


def test_holes_that_a_file_system_does_not_tell_of_stay_holes(tmp_path: Path) -> None:
    with _mounted("ramfs", tmp_path / "memory") as memory:
        source, target = memory / "source", tmp_path / "target"
        _make_sparse(source)
        with source.open("rb") as file:
            assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == source.stat().st_size
        sparse.copy(source, target)
        assert subprocess.run(["cmp", str(source), str(target)], check=False).returncode == 0
        assert target.stat().st_blocks * 512 < 8 << 20


def test_a_copy_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 << 20))
    with _mounted("tmpfs", tmp_path / "small", "-o", "size=1m") as small:
        with pytest.raises(OSError, match="space"):
            sparse.copy(source, small / "target")
        assert list(small.iterdir()) == []
