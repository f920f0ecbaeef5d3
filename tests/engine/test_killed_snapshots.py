"""Whoever saves a machine, goes on from a snapshot or forks, or the VMM meanwhile, is killed at every step: what was there goes on, and
nothing half-made is left."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine.frozen import is_frozen
from bandsox.settings import Layout
from tests.engine.leaks import Traces

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from bandsox import BandSox
from bandsox.engine import launch, sparse
from bandsox.engine.engine import Engine
from bandsox.engine.snapshots import shelf, verbs
from bandsox.store import VMs
from bandsox.store import Snapshots as Table
from bandsox.vmm.qemu import Qemu, saving

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before(place, name):
    setattr(place, name, lambda *_, **__: die())

def after(place, name, when=lambda arguments: True):
    original = getattr(place, name)
    async def waited(*arguments, **options):
        result = await original(*arguments, **options)
        die() if when(arguments) else None
        return result
    def done(*arguments, **options):
        result = original(*arguments, **options)
        die() if when(arguments) else None
        return result
    setattr(place, name, waited if asyncio.iscoroutinefunction(original) else done)

storage, verb, what, step = sys.argv[1:]
{
    "once its programs are frozen": lambda: before(Qemu, "pause"),
    "once its CPUs stand still": lambda: after(Qemu, "pause"),
    "while its memory is written": lambda: before(saving, "_receive"),
    "while its disk is copied": lambda: before(sparse, "copy"),
    "once its CPUs run again": lambda: after(Qemu, "resume"),
    "while its memory is taken apart": lambda: before(saving.migration_stream, "split"),
    "while its checksums are made": lambda: after(sparse, "digest"),
    "once its manifest is there": lambda: after(shelf, "write_atomically"),
    "before it is recorded": lambda: before(Table, "insert"),
    "once its directory has its place": lambda: after(Path, "rename", lambda arguments: "snapshots" in str(arguments[1])),
    "before a clone is recorded": lambda: before(VMs, "insert"),
    "once a clone is recorded": lambda: after(VMs, "insert"),
    "while a clone's disk is copied": lambda: after(sparse, "copy", lambda arguments: "vms" in arguments[1].parts),
    "before a clone starts": lambda: before(Engine, "bring_up"),
    "before a clone is given its state": lambda: before(saving, "load"),
    "once a clone runs": lambda: after(saving, "load"),
    "before a clone is renewed": lambda: before(launch, "renew"),
    "once a clone is renewed": lambda: after(launch, "renew"),
}[step]()
bandsox = BandSox(storage)
if verb == "restore":
    bandsox.restore_vm(what)
elif verb == "fork":
    bandsox.get_vm(what).fork(2)
else:
    bandsox.get_vm(what).snapshot()
"""

SAVING = (
    "once its programs are frozen",
    "once its CPUs stand still",
    "while its memory is written",
    "while its disk is copied",
    "once its CPUs run again",
    "while its memory is taken apart",
    "while its checksums are made",
    "once its manifest is there",
    "before it is recorded",
    "once its directory has its place",
)
CLONING = (
    "before a clone is recorded",
    "once a clone is recorded",
    "while a clone's disk is copied",
    "before a clone starts",
    "before a clone is given its state",
    "once a clone runs",
    "before a clone is renewed",
    "once a clone is renewed",
)
KEEPING = ("while its checksums are made", "once its manifest is there", "before it is recorded", "once its directory has its place")
"""Steps of a snapshot that a fork does without."""

STEPS = [
    *(("snapshot", step) for step in SAVING),
    *(("restore", step) for step in CLONING),
    *(("fork", step) for step in (*SAVING, *CLONING) if step not in KEEPING),
]


@pytest.fixture(scope="module")
def source(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=256, vmm="qemu", enable_networking=False) as machine:
        machine.run("echo kept > /dev/shm/kept")
        yield machine


@pytest.fixture(scope="module")
def saved(bandsox: BandSox, source: MicroVM) -> Iterator[str]:
    name = source.snapshot(f"saved-{secrets.token_hex(4)}")
    yield name
    bandsox.delete_snapshot(name)


def _names(bandsox: BandSox) -> set[str]:
    return {info["snapshot_name"] for info in bandsox.list_snapshots()}


def _killed(storage: Path, verb: str, what: str, step: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(storage), verb, what, step], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(("verb", "step"), STEPS)
def test_a_killed_library_leaves_what_was_there_and_nothing_else(
    bandsox: BandSox, storage: Path, source: MicroVM, saved: str, verb: str, step: str
) -> None:
    layout = Layout.open(storage)
    bandsox.cleanup()
    machines, snapshots = {info["id"] for info in bandsox.list_vms()}, _names(bandsox)
    before, shelf = Traces.of(layout), set(layout.snapshots.iterdir())
    _killed(storage, verb, saved if verb == "restore" else source.vm_id, step)
    assert source.run("cat /dev/shm/kept", timeout=60).text == "kept\n"
    assert not is_frozen(layout.vm(source.vm_id))
    bandsox.cleanup()
    assert {info["id"] for info in bandsox.list_vms()} == machines
    assert _names(bandsox) == snapshots
    assert set(layout.snapshots.iterdir()) == shelf
    assert Traces.of(layout).changes_since(before) == {}


def test_what_was_saved_can_be_used_after_all_that(bandsox: BandSox, saved: str) -> None:
    with bandsox.restore_vm(saved) as clone:
        assert clone.run("cat /dev/shm/kept").text == "kept\n"


def test_a_paused_machine_is_paused_again(storage: Path, source: MicroVM) -> None:
    source.pause()
    _killed(storage, "snapshot", source.vm_id, "while its disk is copied")
    assert source.status().value == "paused"
    source.resume()
    assert source.run("echo alive", timeout=60).text == "alive\n"


VMM_KILLED = """
import select, signal, sys
from bandsox import BandSox
from bandsox.engine import launch, sparse
from bandsox.errors import BandSoxError
from bandsox.vmm.qemu import Qemu, saving

storage, verb, what, step = sys.argv[1:]
bandsox = BandSox(storage)
started = [] if verb == "restore" else [bandsox.get_vm(what).process]

def kill():
    process = started[-1]
    with process.handle() as descriptor:
        process.signal(signal.SIGKILL)
        select.select([descriptor], [], [])

def noted(original):
    def start(*arguments, **options):
        started.append(original(*arguments, **options))
        return started[-1]
    return start

def before(place, name):
    original = getattr(place, name)
    def killed(*arguments, **options):
        kill()
        return original(*arguments, **options)
    setattr(place, name, killed)

Qemu._start = noted(Qemu._start)
before(*{
    "before its CPUs stand still": (Qemu, "pause"),
    "while its memory is written": (saving, "_receive"),
    "while its disk is copied": (sparse, "copy"),
    "before its CPUs run again": (Qemu, "resume"),
    "once all is written": (Qemu, "settle"),
    "before a clone is given its state": (saving, "load"),
    "before a clone is renewed": (launch, "renew"),
}[step])
try:
    if verb == "restore":
        bandsox.restore_vm(what)
    elif verb == "fork":
        bandsox.get_vm(what).fork(2)
    else:
        bandsox.get_vm(what).snapshot("of the killed")
except BandSoxError as error:
    print(type(error).__name__)
else:
    print("whole")
"""


def _with_vmm_killed(storage: Path, verb: str, what: str, step: str) -> str:
    done = subprocess.run([sys.executable, "-c", VMM_KILLED, str(storage), verb, what, step], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "step",
    [
        "before its CPUs stand still",
        "while its memory is written",
        "while its disk is copied",
        "before its CPUs run again",
        "once all is written",
    ],
)
def test_a_machine_killed_while_it_is_saved_gives_a_whole_snapshot_or_none(bandsox: BandSox, storage: Path, saved: str, step: str) -> None:
    layout = Layout.open(storage)
    bandsox.cleanup()
    others = _names(bandsox)
    with bandsox.restore_vm(saved) as machine:
        machine.run("echo on disk > /root/file; sync")
        outcome = _with_vmm_killed(storage, "snapshot", machine.vm_id, step)
        assert machine.status().value == "dead"
        assert not is_frozen(layout.vm(machine.vm_id))
        assert _names(bandsox) - others == ({"of the killed"} if outcome == "whole" else set())
        assert len(list(layout.snapshots.iterdir())) == len(_names(bandsox))
        assert not list(layout.work.glob("*/snapshot-*"))
        if outcome == "whole":
            with bandsox.restore_vm("of the killed") as clone:
                assert clone.run("cat /dev/shm/kept /root/file").text == "kept\non disk\n"
            bandsox.delete_snapshot("of the killed")
        machine.start()
        assert machine.read_bytes("/root/file") == b"on disk\n"


@pytest.mark.parametrize("step", ["before its CPUs stand still", "while its memory is written", "while its disk is copied"])
def test_a_machine_killed_while_it_is_forked_leaves_itself_and_no_clone(bandsox: BandSox, storage: Path, saved: str, step: str) -> None:
    layout = Layout.open(storage)
    bandsox.cleanup()
    with bandsox.restore_vm(saved) as machine:
        others, before = {info["id"] for info in bandsox.list_vms()}, Traces.of(layout)
        assert _with_vmm_killed(storage, "fork", machine.vm_id, step) != "whole"
        assert machine.status().value == "dead"
        assert not is_frozen(layout.vm(machine.vm_id))
        assert {info["id"] for info in bandsox.list_vms()} == others
        assert Traces.of(layout).files == before.files
        assert not list(layout.work.glob("*/snapshot-*"))


@pytest.mark.parametrize("step", ["before a clone is given its state", "before a clone is renewed"])
@pytest.mark.parametrize("verb", ["restore", "fork"])
def test_of_a_clone_that_is_killed_while_it_starts_nothing_is_left(
    bandsox: BandSox, storage: Path, source: MicroVM, saved: str, verb: str, step: str
) -> None:
    layout = Layout.open(storage)
    bandsox.cleanup()
    before = Traces.of(layout)
    assert _with_vmm_killed(storage, verb, saved if verb == "restore" else source.vm_id, step) in {"BootFailed", "VMMError"}
    assert Traces.of(layout).changes_since(before) == {}
    assert source.run("cat /dev/shm/kept").text == "kept\n"
