"""Disks that take room only as they are written to."""

from __future__ import annotations

import os
import subprocess
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


def test_a_sparse_copy_has_the_same_bytes_and_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for offset in (0, 1 << 20, (100 << 20) + 12345):
            file.seek(offset)
            file.write(os.urandom(70_000))
        file.truncate(300 << 20)
    sparse.copy(source, target)
    assert subprocess.run(["cmp", str(source), str(target)], check=False).returncode == 0
    assert target.stat().st_blocks <= source.stat().st_blocks + 16


def test_a_copy_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    source, small = tmp_path / "source", tmp_path / "small"
    source.write_bytes(os.urandom(3 << 20))
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(OSError, match="space"):
            sparse.copy(source, small / "target")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
