"""Machines whose memory goes to the disk, and which go on when they are wanted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import Conflict, CorruptSnapshot
from bandsox.settings import Layout
from bandsox.store import Database, VMs
from tests.engine.leaks import Traces
from tests.engine.test_deadlines import LONG, age, expire


@pytest.fixture(scope="module")
def vm(bandsox: BandSox) -> Iterator[MicroVM]:
    """A machine that wakes when it is used, with a running program, and files on its disk and in its memory."""
    options = {"idle_timeout": LONG, "on_expiry": "snapshot", "auto_resume": True, "disk_size_mib": 64}
    with bandsox.create_vm(mem_mib=256, vmm="qemu", **options) as machine:  # type: ignore[arg-type]
        machine.run("echo on disk > /root/kept; echo in memory > /dev/shm/kept")
        machine.run("(while :; do date +%s%N > /dev/shm/beat; sleep 0.05; done) > /dev/null 2>&1 &")
        yield machine


def goes_on(vm: MicroVM) -> None:
    """See to it that nothing is lost, and that its program goes on."""
    assert vm.run("cat /root/kept /dev/shm/kept").text == "on disk\nin memory\n"
    before = vm.run("cat /dev/shm/beat").text
    vm.run(f"until [ $(cat /dev/shm/beat) != {before.strip()} ]; do sleep 0.01; done", timeout=60)


def test_a_machine_that_is_idle_is_saved_and_wakes_when_it_is_used(bandsox: BandSox, vm: MicroVM, storage: Path) -> None:
    names = "cat /run/machine-id; hostname; cat /sys/class/net/*/address"
    before, layout = vm.run(names).text, Layout.open(storage)
    snapshots = set(layout.snapshots.iterdir())
    process = vm.process
    age(bandsox, vm)
    assert expire(bandsox, vm)
    info = vm.info()
    assert (info["status"], info["pid"]) == ("saved", None)
    assert process is not None and not process.is_alive()
    assert bandsox.list_snapshots() == []
    assert vm.run(names).text == before
    goes_on(vm)
    assert vm.status().value == "running"
    assert set(layout.snapshots.iterdir()) == snapshots


def test_it_is_saved_when_asked_and_goes_on_when_asked(bandsox: BandSox, vm: MicroVM) -> None:
    for wake in (vm.resume, vm.start, lambda: bandsox.update_vm_status(vm.vm_id, "running")):
        vm.hibernate()
        vm.hibernate()  # it is already
        assert vm.status().value == "saved"
        wake()
        goes_on(vm)
    vm.pause()
    vm.hibernate()
    goes_on(vm)
    vm.checkpoint("before")
    vm.run("echo later > /root/kept")
    vm.hibernate()
    vm.rewind("before")
    goes_on(vm)
    vm.remove_checkpoint("before")


def test_its_memory_alone_is_no_snapshot_to_go_on_from_but_can_be_packed(bandsox: BandSox, vm: MicroVM, tmp_path: Path) -> None:
    vm.hibernate()
    memory = f"{vm.vm_id}:memory"
    for refused in (
        lambda: bandsox.restore_vm(memory),
        lambda: bandsox.restore_vm(memory, cold=True),
        lambda: bandsox.export_snapshot(memory, tmp_path / "memory.tar"),
        lambda: bandsox.delete_snapshot(memory),
    ):
        with pytest.raises(Conflict, match="saved VM"):
            refused()
    assert not (tmp_path / "memory.tar").exists() and vm.status().value == "saved"
    before = bandsox.get_snapshot_info(memory)["size"]
    bandsox.compress_snapshot(memory)
    assert bandsox.get_snapshot_info(memory)["size"] < before
    goes_on(vm)


def test_a_checkpoint_travels_while_its_machine_sleeps_and_goes_back(bandsox: BandSox, vm: MicroVM, tmp_path: Path) -> None:
    checkpoint = vm.checkpoint("to travel")
    vm.run("echo later > /root/kept")
    vm.hibernate()
    bandsox.export_snapshot(checkpoint.snapshot, tmp_path / "checkpoint.tar", image=False)
    assert vm.status().value == "saved"
    name = bandsox.import_snapshot(tmp_path / "checkpoint.tar", "of afar")
    vm.rewind("to travel")
    goes_on(vm)
    vm.remove_checkpoint("to travel")
    with bandsox.restore_vm(name) as clone:
        assert clone.run("cat /root/kept").text == "on disk\n"
    bandsox.delete_snapshot(name)


def test_clones_sleep_as_their_source_does_but_their_time_is_their_own(bandsox: BandSox, vm: MicroVM) -> None:
    database = Database(bandsox.storage_dir / "bandsox.db")
    VMs(database).update(vm.vm_id, spec_ttl=LONG, expires_at=time.time() + LONG)
    (clone,) = vm.fork()
    VMs(database).update(vm.vm_id, spec_ttl=None, expires_at=None)
    database.close()
    with clone:
        info = clone.info()
        assert (info["idle_timeout"], info["on_expiry"], info["auto_resume"]) == (LONG, "snapshot", True)
        assert info["expires_at"] is None
        clone.hibernate()
        goes_on(clone)


def test_a_machine_that_does_not_wake_by_itself_says_so(bandsox: BandSox, storage: Path) -> None:
    layout = Layout.open(storage)
    before, snapshots = Traces.of(layout), set(layout.snapshots.iterdir())
    with bandsox.create_vm(mem_mib=256, vmm="qemu", disk_size_mib=64, enable_networking=False) as machine:
        machine.run("echo on disk > /root/kept; echo in memory > /dev/shm/kept")
        machine.hibernate()
        for refused in (lambda: machine.run("true"), machine.pause, machine.snapshot, machine.fork):
            with pytest.raises(Conflict):
                refused()
        machine.stop()  # gives the memory up
        assert set(layout.snapshots.iterdir()) == snapshots
        machine.start()
        assert machine.run("cat /root/kept; ls /dev/shm").text == "on disk\n"
        machine.hibernate()
    assert set(layout.snapshots.iterdir()) == snapshots
    assert Traces.of(layout).changes_since(before) == {}


KILLED = """
import os, signal, sys
from bandsox import BandSox
from bandsox.engine import ownership
from bandsox.engine.engine import Engine
from bandsox.store import Snapshots as Table
from bandsox.vmm.qemu import saving

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

storage, vm_id, step = sys.argv[1:]
place, name = {
    "before the memory is taken apart": (saving, "settle"),
    "before the memory has its place": (Table, "insert"),
    "before it is called saved": (Engine, "update"),
    "before its VMM ends": (ownership, "end"),
    "before it goes on": (saving, "load"),
}[step]
vm = BandSox(storage).get_vm(vm_id)
setattr(place, name, die)
vm.hibernate() if vm.status().value == "running" else vm.resume()
"""


def _killed(storage: Path, vm: MicroVM, step: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(storage), vm.vm_id, step], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    "step", ["before the memory is taken apart", "before the memory has its place", "before it is called saved", "before its VMM ends"]
)
def test_whoever_saves_it_is_killed_and_nothing_is_lost(bandsox: BandSox, vm: MicroVM, storage: Path, step: str) -> None:
    goes_on(vm)
    _killed(storage, vm, step)
    assert vm.status().value == ("saved" if step == "before its VMM ends" else "running")
    goes_on(vm)
    vm.hibernate()
    bandsox.cleanup()
    goes_on(vm)
    assert list(Layout.open(storage).snapshots.iterdir()) == []


def test_whoever_wakes_it_is_killed_and_nothing_is_lost(bandsox: BandSox, vm: MicroVM, storage: Path) -> None:
    vm.hibernate()
    _killed(storage, vm, "before it goes on")
    goes_on(vm)
    assert list(Layout.open(storage).snapshots.iterdir()) == []


def test_a_memory_that_does_not_fit_the_disk_is_not_gone_on_from(bandsox: BandSox, storage: Path) -> None:
    with bandsox.create_vm(mem_mib=256, vmm="qemu", disk_size_mib=64, enable_networking=False) as machine:
        machine.run("echo on disk > /root/kept")
        machine.hibernate()
        os.utime(Layout.open(storage).vm(machine.vm_id) / "disk.img")  # as after a start that was broken off
        with pytest.raises(CorruptSnapshot):
            machine.resume()
        assert machine.status().value == "dead"
        machine.start()
        assert machine.run("cat /root/kept").text == "on disk\n"
