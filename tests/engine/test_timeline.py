"""A machine goes back in time: memory, programs and disk are those of a checkpoint, and it stays the same machine."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import (
    BandSoxError,
    CheckpointNotFound,
    Conflict,
    CorruptSnapshot,
    InvalidRequest,
    LimitExceeded,
    SnapshotNotFound,
    Unsupported,
)
from bandsox.guest import comparison
from bandsox.settings import Layout
from tests.engine.leaks import Traces

COUNTER = (
    "(i=0; trap 'i=1000000' USR1; while :; do i=$((i+1)); echo $i > /dev/shm/count.new; mv /dev/shm/count.new /dev/shm/count; sleep 0.05; "
    "done) & echo $! > /dev/shm/counter"
)
"""A program that counts, so slowly that it comes to a million only when it is told to go on from there."""


@pytest.fixture(scope="module")
def vm(bandsox: BandSox) -> Iterator[MicroVM]:
    """A machine with a running program, which has a timeline of two checkpoints."""
    with bandsox.create_vm(mem_mib=256, vmm="qemu", env_vars={"OWN": "kept"}, metadata={"team": "web"}) as machine:
        machine.run(COUNTER)
        machine.run("echo one > /root/file; echo one > /dev/shm/memory")
        machine.checkpoint("one")
        machine.run(
            "echo two > /root/file; echo two > /dev/shm/memory; mkdir /srv/made; echo x > /srv/made/x; rm /etc/motd; chmod 700 /opt"
        )
        machine.checkpoint("two")
        yield machine


def count(vm: MicroVM) -> int:
    return int(vm.run("cat /dev/shm/count").text)


def test_a_machine_goes_back_and_forth(vm: MicroVM) -> None:
    network = vm.info()["network_config"]
    address = vm.run("cat /sys/class/net/*/address").text
    vm.run("kill -USR1 $(cat /dev/shm/counter); until [ $(cat /dev/shm/count) -gt 1000000 ]; do sleep 0.01; done", timeout=60)
    for label in ("one", "two", "one"):
        vm.rewind(label)
        assert vm.run("cat /root/file /dev/shm/memory").text == f"{label}\n{label}\n"
        assert vm.receipt is not None and vm.receipt.frozen and not vm.receipt.failures
    assert [checkpoint.label for checkpoint in vm.checkpoints()] == ["one", "two"]
    info = vm.info()
    assert (info["status"], info["network_config"], info["metadata"]) == ("running", network, {"team": "web"})
    assert vm.run("cat /sys/class/net/*/address; echo $OWN").text == f"{address}kept\n"
    now = count(vm)
    assert now < 1_000_000
    vm.run(f"until [ $(cat /dev/shm/count) -gt {now} ]; do sleep 0.01; done", timeout=60)  # the program goes on


def test_a_timeline_branches(vm: MicroVM) -> None:
    vm.rewind("one")
    after = vm.checkpoint("branch")
    one = next(each for each in vm.checkpoints() if each.label == "one")
    assert after.after == one.snapshot
    vm.remove_checkpoint("branch")
    with pytest.raises(CheckpointNotFound):
        vm.rewind("branch")


def test_what_changed_between_checkpoints(vm: MicroVM, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {(each.change, each.path, each.type) for each in vm.diff("one", "two")}
    assert found == {
        ("modified", b"/root/file", "file"),
        ("created", b"/srv/made", "directory"),
        ("created", b"/srv/made/x", "file"),
        ("removed", b"/etc/motd", "file"),
        ("modified", b"/opt", "directory"),
    }
    assert {(each.change, each.path) for each in vm.diff("two", "one")} == {
        ({"created": "removed", "removed": "created"}.get(change, change), path) for change, path, _ in found
    }
    with pytest.raises(LimitExceeded):
        vm.diff("one", "two", limit=4)
    monkeypatch.setattr(comparison, "MOST_PATH_BYTES", 40)
    with pytest.raises(LimitExceeded, match="40 bytes"):
        vm.diff("one", "two")


def test_what_changed_until_now_whatever_the_machine_does(bandsox: BandSox, vm: MicroVM) -> None:
    vm.rewind("one")
    vm.run("rm -r /var/lib/dpkg/info; mkdir /var/lib/dpkg/info; echo new > /var/lib/dpkg/info/new; ln -s a /root/link")
    expected = {("created", b"/var/lib/dpkg/info/new"), ("created", b"/root/link")}
    removed = {(each.change, each.path) for each in vm.diff("one")} - expected
    assert len(removed) > 10
    assert all(change == "removed" and path.startswith(b"/var/lib/dpkg/info/") for change, path in removed)
    vm.run("rm /root/link; ln -s b /root/link; printf 'one\\n' > /root/file")
    vm.pause()
    paused = {(each.change, each.path) for each in vm.diff("one")}
    assert paused == removed | expected
    assert vm.status().value == "paused"
    vm.stop()
    assert {(each.change, each.path) for each in vm.diff("one")} >= paused
    vm.rewind("one")  # a machine that is stopped goes back as well
    assert vm.diff("one") == []


def test_others_can_be_made_of_a_checkpoint_which_only_its_machine_can_remove(bandsox: BandSox, vm: MicroVM) -> None:
    one = vm.checkpoints()[0]
    assert one.snapshot not in {info["id"] for info in bandsox.list_snapshots()}
    with bandsox.restore_vm(one.snapshot) as clone:
        assert clone.run("cat /root/file").text == "one\n"
        assert clone.checkpoints() == []
    for refused in (bandsox.delete_snapshot, lambda snapshot: bandsox.rename_snapshot(snapshot, "mine")):
        with pytest.raises(Conflict):
            refused(one.snapshot)


def test_what_cannot_be(bandsox: BandSox, vm: MicroVM) -> None:
    with pytest.raises(Conflict):
        vm.checkpoint("one")
    for refused in (vm.rewind, vm.diff, vm.remove_checkpoint):
        with pytest.raises(CheckpointNotFound):
            refused("no such checkpoint")
    for label in ("", "a" * 101, "a\nb"):
        with pytest.raises(InvalidRequest):
            vm.checkpoint(label)
    with pytest.raises(InvalidRequest):
        vm.diff("one", limit=0)


def test_a_damaged_checkpoint_changes_nothing(bandsox: BandSox, vm: MicroVM) -> None:
    checkpoint = vm.checkpoint()
    memory = Path(bandsox.get_snapshot_info(checkpoint.snapshot)["path"]) / "memory"
    vm.run("echo now > /dev/shm/memory")
    memory.chmod(0o600)
    with memory.open("r+b") as file:
        file.seek(1 << 20)
        file.write(os.urandom(4096))
    with pytest.raises(CorruptSnapshot):
        vm.rewind(checkpoint.label)
    assert vm.run("cat /dev/shm/memory").text == "now\n"
    vm.remove_checkpoint(checkpoint.label)


KILLED = """
import os, signal, sys
from bandsox import BandSox
from bandsox.engine import timeline
from bandsox.engine.engine import Engine
from bandsox.vmm.qemu import saving

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

storage, vm_id, step = sys.argv[1:]
place, name = {
    "before the disk is copied": (timeline, "_copy_disk"),
    "before the present ends": (timeline.Timeline, "_end"),
    "before another VMM starts": (Engine, "bring_up"),
    "before it goes on": (saving, "load"),
}[step]
setattr(place, name, die)
BandSox(storage).get_vm(vm_id).rewind("one")
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("before the disk is copied", "running"),
        ("before the present ends", "running"),
        ("before another VMM starts", "stopped"),
        ("before it goes on", "stopped"),
    ],
)
def test_whoever_rewinds_is_killed_and_the_machine_can_go_back_again(
    bandsox: BandSox, vm: MicroVM, storage: Path, step: str, left: str
) -> None:
    vm.rewind("two")
    vm.run("echo later > /root/file")
    done = subprocess.run([sys.executable, "-c", KILLED, str(storage), vm.vm_id, step], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert vm.status().value == left
    bandsox.cleanup()
    if left == "running":
        assert vm.run("cat /root/file").text == "later\n"
    vm.rewind("two")
    assert vm.run("cat /root/file /dev/shm/memory").text == "two\ntwo\n"


def test_a_hostile_disk_makes_a_wrong_list_at_most(bandsox: BandSox, storage: Path) -> None:
    layout, choice = Layout.open(storage), random.Random(7)
    with bandsox.create_vm(mem_mib=256, vmm="qemu", disk_size_mib=64, enable_networking=False) as machine:
        machine.run("mkdir /srv/tree; for i in $(seq 200); do head -c 3000 /dev/urandom > /srv/tree/$i; done")
        machine.checkpoint("whole")
        machine.stop()
        disk = layout.vm(machine.vm_id) / "disk.img"
        before = Traces.of(layout)
        with disk.open("r+b") as file:
            for _ in range(400):
                file.seek(choice.randrange(1, (64 << 20) // 4096) * 4096)
                file.write(choice.randbytes(64))
        with contextlib.suppress(BandSoxError):
            assert machine.diff("whole") != []
        with disk.open("r+b") as file:
            file.seek(1024)
            file.write(bytes(1024))  # the superblock
        with pytest.raises(BandSoxError):
            machine.diff("whole")
        assert Traces.of(layout).changes_since(before) == {}
        machine.rewind("whole")
        assert machine.run("ls /srv/tree | wc -l").text == "200\n"


def test_a_machine_without_a_disk_has_a_timeline_but_cannot_be_compared(bandsox: BandSox, storage: Path) -> None:
    layout = Layout.open(storage)
    before, snapshots = Traces.of(layout), set(layout.snapshots.iterdir())
    with bandsox.create_vm(mem_mib=256, vmm="qemu", disk_size_mib=0, enable_networking=False) as machine:
        machine.run("echo one > /root/file")
        label = machine.checkpoint().label
        machine.run("rm /root/file")
        machine.rewind(label)
        assert machine.run("cat /root/file").text == "one\n"
        with pytest.raises(Unsupported):
            machine.diff(label)
        taken = machine.checkpoints()[0].snapshot
    with pytest.raises(SnapshotNotFound):  # it has gone with its machine
        bandsox.get_snapshot_info(taken)
    assert set(layout.snapshots.iterdir()) == snapshots
    assert Traces.of(layout).changes_since(before) == {}
