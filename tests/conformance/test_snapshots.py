"""What was saved, gone on from and copied, the same through every face."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from bandsox.settings import DEFAULT_IMAGE
from tests.faces import Face


@pytest.fixture(autouse=True)
def can_be_saved(request: pytest.FixtureRequest, face: Face) -> None:
    way = request.node.callspec.params["face"].split("-", 1)[1]
    if way == "qemu/vsock" or way.endswith("/console"):
        pytest.skip("a machine that is reached so cannot be saved")


def test_a_snapshot_lives_through_everything(face: Face, tmp_path: Path) -> None:
    own = face.create(DEFAULT_IMAGE, mem_mib=128)
    name = f"snapshot of {own.vm_id}"
    own.run("echo in memory > /dev/shm/kept; echo on disk > /root/kept; sync")
    assert own.snapshot(name) == name
    own.run("echo changed > /dev/shm/kept")
    own.pause()
    (copy,) = own.fork(1)
    assert (own.status(), copy.status()) == ("paused", "running")
    own.delete()
    assert copy.read("/dev/shm/kept") == b"changed\n"
    copy.delete()

    snapshot_id = face.snapshots()[name]
    face.rename_snapshot(name, f"renamed {secrets.token_hex(4)}")
    assert snapshot_id in face.snapshots().values() and name not in face.snapshots()
    face.compress_snapshot(snapshot_id)
    face.export_snapshot(snapshot_id, tmp_path / "exported.tar")
    face.delete_snapshot(snapshot_id)
    assert face.import_snapshot(tmp_path / "exported.tar", name) == name
    assert face.snapshots()[name] == snapshot_id
    warm, cold = face.restore(snapshot_id), face.restore(snapshot_id, cold=True)
    face.delete_snapshot(snapshot_id)
    assert snapshot_id not in face.snapshots().values()
    assert warm.run("cat /dev/shm/kept /root/kept").stdout == b"in memory\non disk\n"
    assert cold.run("cat /root/kept; ls /dev/shm").stdout == b"on disk\n"
    for machine in (warm, cold):
        machine.delete()
