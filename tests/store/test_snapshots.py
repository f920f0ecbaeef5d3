"""The registry of snapshots, and what it keeps from being removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandsox.errors import Conflict, SnapshotNotFound
from bandsox.models import HostCPU, Image, ImageConfig, Isolation, Shape, Snapshot, StoredFile, VMSpec
from bandsox.store import Database, ImageTable, Snapshots

IMAGE = Image("sha256:00", (), "sha256:01", "sha256:aa", Path("/images/aa.squashfs"), 1, "amd64", 0.0, ImageConfig(), "source")


def snapshot(snapshot_id: str, name: str) -> Snapshot:
    return Snapshot(
        id=snapshot_id,
        name=name,
        created_at=float(int(snapshot_id, 16) % 1000),
        source_vm_id="source",
        spec=VMSpec(image="image", name="source"),
        image_id=IMAGE.id,
        image_config=ImageConfig(env={"A": "ü"}),
        rootfs="images/aa.squashfs",
        kernel="kernels/k/vmlinux",
        initramfs="kernels/k/initramfs",
        vmm="qemu",
        vmm_version="7.2",
        accelerator="tcg",
        isolation=Isolation.EMULATED,
        transport="virtio-serial",
        shape=Shape(1 << 28, 4),
        cpu=HostCPU("x86_64", "vendor", "model", ("fpu",), 2_000_000),
        files={"memory": StoredFile(1 << 28, "xxh3:00")},
        token="00",
        frozen=True,
        metadata={"x": [1, {"y": None}]},
    )


def insert(table: Snapshots, taken: Snapshot) -> None:
    table.insert(taken, str(IMAGE.rootfs), {"memory": (1, 2, 3, 4)}, lambda: None)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "db")


@pytest.fixture
def table(database: Database) -> Snapshots:
    return Snapshots(database)


def test_a_snapshot_comes_back_as_it_was(table: Snapshots) -> None:
    insert(table, snapshot("aaaa1111", "one"))
    assert table.get("one") == table.get("aaaa") == snapshot("aaaa1111", "one")
    assert table.verified("aaaa1111") == {"memory": (1, 2, 3, 4)}


def test_labels_change_and_the_manifest_does_not(table: Snapshots) -> None:
    insert(table, snapshot("aaaa1111", "one"))
    manifest = table.manifest("aaaa1111")
    table.rename("aaaa1111", "another")
    table.set_metadata("aaaa1111", {"new": True})
    assert (table.get("another").name, table.get("another").metadata) == ("another", {"new": True})
    assert table.manifest("aaaa1111") == manifest
    with pytest.raises(SnapshotNotFound):
        table.get("one")


def test_names_are_unique(table: Snapshots) -> None:
    insert(table, snapshot("aaaa1111", "one"))
    insert(table, snapshot("aaaa2222", "two"))
    with pytest.raises(Conflict):
        insert(table, snapshot("aaaa3333", "two"))
    with pytest.raises(Conflict):
        table.rename("aaaa1111", "two")
    with pytest.raises(Conflict, match="several"):
        table.get("aaaa")


def test_a_snapshot_whose_files_do_not_take_their_place_is_none(table: Snapshots) -> None:
    def fail() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        table.insert(snapshot("aaaa1111", "one"), str(IMAGE.rootfs), {}, fail)
    assert table.list() == []


def test_one_that_was_deleted_is_not_found(table: Snapshots) -> None:
    insert(table, snapshot("aaaa1111", "one"))
    table.delete("aaaa1111")
    table.delete("aaaa1111")
    for change in (lambda: table.rename("aaaa1111", "x"), lambda: table.set_metadata("aaaa1111", {}), lambda: table.manifest("aaaa1111")):
        with pytest.raises(SnapshotNotFound):
            change()


def test_a_snapshot_keeps_its_image_and_root_file_system(database: Database, table: Snapshots) -> None:
    images = ImageTable(database, IMAGE.rootfs.parent)
    images.save(IMAGE, [])
    assert images.users(IMAGE) == []
    insert(table, snapshot("aaaa1111", "one"))
    assert images.users(IMAGE) == ["the snapshot one"]
    images.remove(IMAGE.id)
    assert images.live_rootfs() == {IMAGE.rootfs}
    table.delete("aaaa1111")
    assert images.live_rootfs() == set()
