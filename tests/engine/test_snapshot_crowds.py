"""Many at once: twenty restores of one snapshot, and processes that take, use and delete snapshots at the same time."""

from __future__ import annotations

import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bandsox import BandSox
from bandsox.settings import Layout
from tests.engine.leaks import Traces

RESTORES = 20

_RESTORER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from bandsox import BandSox
bandsox = BandSox(sys.argv[1])
with ThreadPoolExecutor(int(sys.argv[3])) as threads:
    for clone in threads.map(bandsox.restore_vm, [sys.argv[2]] * int(sys.argv[3])):
        print(clone.vm_id)
"""


def test_twenty_restores_at_once_from_two_processes_are_twenty_machines(bandsox: BandSox, storage: Path) -> None:
    layout = Layout.open(storage)
    bandsox.cleanup()
    before = Traces.of(layout)
    with bandsox.create_vm(mem_mib=128, vmm="qemu") as source:
        source.run("echo kept > /dev/shm/kept")
        name = source.snapshot(f"crowd-{secrets.token_hex(4)}")
    program = [sys.executable, "-X", "faulthandler", "-c", _RESTORER, str(storage), name, str(RESTORES // 2)]
    restorers = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [restorer.communicate() for restorer in restorers]
    bandsox.delete_snapshot(name)
    assert [restorer.returncode for restorer in restorers] == [0, 0], said
    ids = [line for printed, _ in said for line in printed.split()]
    clones = [clone for vm_id in ids if (clone := bandsox.get_vm(vm_id)) is not None]
    assert len(clones) == RESTORES
    with ThreadPoolExecutor(RESTORES) as threads:
        read = list(threads.map(lambda clone: clone.run(f"cat /dev/shm/kept; echo {clone.vm_id} > /root/own; cat /root/own").text, clones))
        assert read == [f"kept\n{clone.vm_id}\n" for clone in clones]
        assert len(set(threads.map(lambda clone: clone.run("hostname; cat /run/machine-id").text, clones))) == RESTORES
        networks = [clone.info()["network_config"] for clone in clones]
        assert len({network["guest_mac"] for network in networks if network}) == sum(network is not None for network in networks)
        list(threads.map(lambda clone: clone.delete(), clones))
    assert Traces.of(layout).changes_since(before) == {}


_TAKER = """
import sys
from bandsox import BandSox
from bandsox.errors import SnapshotNotFound
bandsox = BandSox(sys.argv[1])
vm = bandsox.get_vm(sys.argv[2])
for number in range(4):
    vm.snapshot(f"{sys.argv[3]}-{number}")
    for info in bandsox.list_snapshots():
        if info["source_vm_id"] != vm.vm_id:
            continue
        try:
            if number % 2:
                bandsox.delete_snapshot(info["id"])
            else:
                with bandsox.restore_vm(info["id"]) as clone:
                    assert clone.run("cat /dev/shm/kept").text == "kept\\n"
        except SnapshotNotFound:
            continue
"""


def test_processes_that_take_use_and_delete_snapshots_of_one_machine_at_once(bandsox: BandSox, storage: Path) -> None:
    layout = Layout.open(storage)
    bandsox.cleanup()
    before, shelf = Traces.of(layout), set(layout.snapshots.iterdir())
    with bandsox.create_vm(mem_mib=128, vmm="qemu", enable_networking=False) as source:
        source.run("echo kept > /dev/shm/kept")
        program = [sys.executable, "-c", _TAKER, str(storage), source.vm_id]
        takers = [subprocess.Popen([*program, name], stderr=subprocess.PIPE, text=True) for name in ("one", "other")]
        said = [taker.communicate()[1] for taker in takers]
        assert [taker.returncode for taker in takers] == [0, 0], said
        assert source.run("cat /dev/shm/kept").text == "kept\n"
    for info in bandsox.list_snapshots():
        if info["source_vm_id"] == source.vm_id:
            bandsox.delete_snapshot(info["id"])
    assert set(layout.snapshots.iterdir()) == shelf
    assert Traces.of(layout).changes_since(before) == {}
