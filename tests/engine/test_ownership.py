"""Whose a machine's processes are: those of the storage directory that they work in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.settings import Layout


@pytest.fixture
def copied(bandsox: BandSox, vm: MicroVM, tmp_path: Path) -> Layout:
    """A copy of the storage directory, as somebody makes one while machines run: its records tell of the same processes."""
    source, copy = Layout.open(bandsox.storage_dir), Layout.open(tmp_path / "copy")
    copy.vm(vm.vm_id).mkdir()  # what is in it is sparse, and as large as it may become
    with closing(sqlite3.connect(source.database)) as original, closing(sqlite3.connect(copy.database)) as target:
        original.backup(target)
    return copy


def test_a_copy_of_the_storage_directory_has_no_part_in_the_machines_of_the_original(vm: MicroVM, copied: Layout) -> None:
    process = vm.process
    with BandSox(copied.root) as opened:
        twin = opened.get_vm(vm.vm_id)
        assert twin is not None
        assert twin.status().value == "dead"
        twin.stop()
        opened.cleanup()
        twin.delete()
        assert opened.get_vm(vm.vm_id) is None
    assert vm.process == process
    assert vm.run(["echo", "unharmed"]).stdout == b"unharmed\n"


def test_a_storage_directory_is_known_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    layout = Layout.open(tmp_path / "link" / "storage")
    assert layout == Layout.open(tmp_path / "there" / "storage")
    assert layout.root == (tmp_path / "there" / "storage").resolve()


def test_the_way_to_a_storage_directory_may_lead_through_a_link(storage: Path, vm: MicroVM, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(storage.parent)
    with BandSox(link / storage.name) as opened:
        opened.cleanup()
        same = opened.get_vm(vm.vm_id)
        assert same is not None
        assert same.status().value == "running"
        assert same.run(["echo", "unharmed"]).stdout == b"unharmed\n"
        with opened.create_vm(disk_size_mib=0) as another:
            assert another.run(["echo", "new"]).stdout == b"new\n"
            process = another.process
    assert process is not None
    assert not process.is_alive()
