"""Whoever saves a machine, or starts clones, is killed in the middle: the machine goes on, and nothing half-made is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine.frozen import is_frozen
from bandsox.settings import Layout
from tests.firecracker import VMMS, options_for

KILLED = """
import os, signal, sys
from bandsox import BandSox
from bandsox.engine import sparse
from bandsox.engine.engine import Engine
from bandsox.engine.snapshots import Snapshots
from bandsox.vmm.firecracker import configuration, saving
from bandsox.vmm.qemu import saving as saving_qemu
from bandsox.store import Snapshots as Table

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

storage, vm_id, vmm, step = sys.argv[1:]
place, name = {
    "while the disk is copied": (sparse, "copy"),
    "before what was written is settled": ({"qemu": saving_qemu, "firecracker": saving}[vmm], "settle"),
    "before it takes its place": (Table, "insert"),
    "before a clone starts": (Engine, "bring_up"),
    "before a clone goes on": {"qemu": (saving_qemu, "load"), "firecracker": (configuration, "_go_on")}[vmm],
}[step]
setattr(place, name, die)
vm = BandSox(storage).get_vm(vm_id)
vm.fork() if "clone" in step else vm.snapshot()
"""

STEPS = (
    "while the disk is copied",
    "before what was written is settled",
    "before it takes its place",
    "before a clone starts",
    "before a clone goes on",
)


@pytest.fixture(scope="module", params=VMMS)
def source(request: pytest.FixtureRequest, bandsox: BandSox) -> Iterator[MicroVM]:
    with options_for(request.param) as options, bandsox.create_vm(mem_mib=256, enable_networking=False, **options) as machine:
        yield machine


def _killed(storage: Path, source: MicroVM, step: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(storage), source.vm_id, source.info()["vmm"], step], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_saver_leaves_the_machine_running_and_nothing_else(bandsox: BandSox, storage: Path, source: MicroVM, step: str) -> None:
    layout = Layout.open(storage)
    machines = {info["id"] for info in bandsox.list_vms()}
    _killed(storage, source, step)
    assert source.run("echo alive", timeout=60).text == "alive\n"
    assert not is_frozen(layout.vm(source.vm_id))
    bandsox.cleanup()
    assert bandsox.list_snapshots() == []
    assert list(layout.snapshots.iterdir()) == []
    assert [entry for entry in layout.work.rglob("*") if entry.name.startswith("snapshot-")] == []
    assert {info["id"] for info in bandsox.list_vms()} == machines


def test_a_paused_machine_is_paused_again(bandsox: BandSox, storage: Path, source: MicroVM) -> None:
    source.pause()
    _killed(storage, source, "while the disk is copied")
    assert source.status().value == "paused"
    source.resume()
    assert source.run("echo alive", timeout=60).text == "alive\n"


PAUSING_KILLED = """
import os, signal, sys
from bandsox import BandSox
from bandsox.store import VMs

VMs.update = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
storage, vm_id, verb = sys.argv[1:]
getattr(BandSox(storage).get_vm(vm_id), verb)()
"""


@pytest.mark.parametrize(("verb", "status"), [("pause", "running"), ("resume", "paused")])
def test_a_machine_does_what_its_record_says_after_who_was_to_change_both_was_killed_between(
    bandsox: BandSox, storage: Path, source: MicroVM, verb: str, status: str
) -> None:
    if verb == "resume":
        source.pause()
    done = subprocess.run([sys.executable, "-c", PAUSING_KILLED, str(storage), source.vm_id, verb], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    directory = Layout.open(storage).vm(source.vm_id)
    assert is_frozen(directory)
    assert source.status().value == status
    assert not is_frozen(directory)
    source.resume()
    assert source.run("echo alive", timeout=60).text == "alive\n"
