"""A machine's life: made, paused, stopped, started, deleted, and what it says of itself meanwhile."""

from __future__ import annotations

from bandsox.settings import DEFAULT_IMAGE
from tests.faces import Face


def test_a_machine_lives_through_everything(face: Face) -> None:
    own = face.create(DEFAULT_IMAGE, name="own machine: 'quoted'")
    assert own.status() == "running"
    own.write("/root/kept", b"on disk")
    own.run("echo in memory > /dev/shm/lost; sync")

    own.pause()
    assert own.status() == "paused"
    own.resume()
    assert own.status() == "running"
    assert own.run(["cat", "/dev/shm/lost"]).stdout == b"in memory\n"

    own.stop()
    assert own.status() == "stopped"
    own.start()
    assert own.read("/root/kept") == b"on disk"
    assert own.run(["test", "-e", "/dev/shm/lost"]).exit_code == 1

    assert "own machine: 'quoted'" in face.names()
    face.rename(own.vm_id, "renamed")
    assert "renamed" in face.names()

    own.delete()
    assert "renamed" not in face.names()


def test_a_machine_without_a_disk_keeps_its_files_in_memory(face: Face) -> None:
    machine = face.create(DEFAULT_IMAGE, disk_size_mib=0, mem_mib=256)
    try:
        machine.write("/root/file", b"content")
        assert machine.read("/root/file") == b"content"
        assert machine.run("df -T / | tail -1").exit_code == 0
    finally:
        machine.delete()


def test_several_cpus(face: Face) -> None:
    machine = face.create(DEFAULT_IMAGE, vcpu=2, mem_mib=256)
    try:
        assert machine.run(["nproc"]).stdout == b"2\n"
    finally:
        machine.delete()
