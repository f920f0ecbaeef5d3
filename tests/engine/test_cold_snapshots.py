"""Snapshots in less room: the same when they are needed again, whatever they were packed on and whoever was killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import CorruptSnapshot, SnapshotNotFound
from bandsox.settings import Layout
from tests.engine.leaks import Traces


@pytest.fixture(scope="module")
def source(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=128, vmm="qemu", disk_size_mib=256, enable_networking=False) as machine:
        machine.run("echo 0 > /dev/shm/kept; echo 0 > /root/kept; sync")
        yield machine


@pytest.fixture(scope="module")
def chain(bandsox: BandSox, source: MicroVM) -> Iterator[list[str]]:
    """The ids of three snapshots, each of a clone of the one before, which has added a line. No test takes one away for good."""
    made = _chain(bandsox, source)
    yield made
    _delete(bandsox, made)


@pytest.fixture
def own_chain(bandsox: BandSox, source: MicroVM) -> Iterator[list[str]]:
    """Another one, of which one may."""
    made = _chain(bandsox, source)
    yield made
    _delete(bandsox, made)


def _chain(bandsox: BandSox, source: MicroVM) -> list[str]:
    made = [_id(bandsox, source.snapshot())]
    for number in (1, 2):
        with bandsox.restore_vm(made[-1]) as clone:
            clone.run(f"echo {number} >> /dev/shm/kept; echo {number} >> /root/kept; sync")
            made.append(_id(bandsox, clone.snapshot()))
    return made


def _delete(bandsox: BandSox, made: list[str]) -> None:
    for snapshot_id in {info["id"] for info in bandsox.list_snapshots()} & set(made):
        bandsox.delete_snapshot(snapshot_id)


def _id(bandsox: BandSox, name: str) -> str:
    return str(bandsox.get_snapshot_info(name)["id"])


def _goes_on(bandsox: BandSox, chain: list[str], *numbers: int) -> None:
    for number in numbers:
        with bandsox.restore_vm(chain[number]) as clone:
            lines = "".join(f"{each}\n" for each in range(number + 1))
            assert clone.run("cat /dev/shm/kept /root/kept").text == 2 * lines


def _path(bandsox: BandSox, snapshot_id: str) -> Path:
    return Path(bandsox.get_snapshot_info(snapshot_id)["path"])


def test_a_snapshot_takes_less_room_and_is_the_same(bandsox: BandSox, chain: list[str]) -> None:
    layout = Layout.open(bandsox.storage_dir)
    whole = [bandsox.get_snapshot_info(each)["size"] for each in chain]
    before = Traces.of(layout)
    for each in chain:
        bandsox.compress_snapshot(each)
        bandsox.compress_snapshot(each)
    packed = [bandsox.get_snapshot_info(each) for each in chain]
    assert all(info["compressed"] for info in packed)
    assert packed[0]["size"] < whole[0] / 2
    assert packed[1]["size"] < packed[0]["size"] / 2 > packed[2]["size"]
    assert Traces.of(layout).changes_since(before) == {}
    with bandsox.restore_vm(chain[2], cold=True) as cold:
        assert cold.run("cat /root/kept").text == "0\n1\n2\n"
    assert bandsox.get_snapshot_info(chain[2])["compressed"]
    _goes_on(bandsox, chain, 2, 1, 0)
    assert [bandsox.get_snapshot_info(each)["compressed"] for each in chain] == [False, False, False]
    assert [bandsox.get_snapshot_info(each)["size"] for each in chain] == pytest.approx(whole, rel=0.1)


def test_machines_that_run_from_it_are_not_concerned(bandsox: BandSox, chain: list[str]) -> None:
    with bandsox.restore_vm(chain[1]) as clone:
        bandsox.compress_snapshot(chain[1])
        assert clone.run("cat /dev/shm/kept").text == "0\n1\n"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_others_are_packed_on_can_be_deleted(bandsox: BandSox, own_chain: list[str], order: tuple[int, int]) -> None:
    for each in own_chain:
        bandsox.compress_snapshot(each)
    for number in order:
        bandsox.delete_snapshot(own_chain[number])
    assert bandsox.get_snapshot_info(own_chain[2])["compressed"]
    _goes_on(bandsox, own_chain, 2)


def test_a_packed_snapshot_travels(bandsox: BandSox, chain: list[str], tmp_path: Path) -> None:
    for each in chain:
        bandsox.compress_snapshot(each)
    bandsox.export_snapshot(chain[2], tmp_path / "file.tar", image=False, base=chain[0])
    bandsox.delete_snapshot(chain[2])
    assert _id(bandsox, bandsox.import_snapshot(tmp_path / "file.tar")) == chain[2]
    _goes_on(bandsox, chain, 2)


def test_restores_at_once_unpack_it_once(bandsox: BandSox, chain: list[str]) -> None:
    for each in chain:
        bandsox.compress_snapshot(each)
    with ThreadPoolExecutor(5) as threads:
        clones = list(threads.map(bandsox.restore_vm, [chain[2]] * 3 + [chain[1]] * 2))
        assert [len(clone.run("cat /dev/shm/kept").text.split()) for clone in clones] == [3] * 3 + [2] * 2
        list(threads.map(lambda clone: clone.delete(), clones))


@pytest.mark.parametrize("damage", ["a changed byte", "truncated", "missing"])
def test_a_damaged_packed_file_is_refused(bandsox: BandSox, chain: list[str], damage: str) -> None:
    layout = Layout.open(bandsox.storage_dir)
    for each in chain:
        bandsox.compress_snapshot(each)
    packed = _path(bandsox, chain[1]) / "memory.packed"
    right = packed.read_bytes()
    content = bytearray(right)
    if damage == "a changed byte":
        content[len(content) // 2] ^= 1
    elif damage == "truncated":
        del content[-20:]
    packed.unlink()
    if damage != "missing":
        packed.write_bytes(content)
    before = Traces.of(layout)
    for broken in chain[1:]:  # what is packed on it cannot be had either
        with pytest.raises(CorruptSnapshot):
            bandsox.restore_vm(broken)
    assert Traces.of(layout).changes_since(before) == {}
    packed.unlink(missing_ok=True)
    packed.write_bytes(right)
    _goes_on(bandsox, chain, 2)


def test_what_is_packed_on_what_was_damaged_does_not_keep_it_from_being_deleted(bandsox: BandSox, own_chain: list[str]) -> None:
    for each in own_chain:
        bandsox.compress_snapshot(each)
    left = Layout.open(bandsox.storage_dir).snapshots / os.urandom(8).hex()  # by somebody who was killed while he deleted another
    shutil.copytree(_path(bandsox, own_chain[2]), left)
    (_path(bandsox, own_chain[1]) / "memory.packed").unlink()
    bandsox.delete_snapshot(own_chain[1])
    bandsox.cleanup()
    assert not left.exists()
    with pytest.raises(CorruptSnapshot):
        bandsox.restore_vm(own_chain[2])
    _goes_on(bandsox, own_chain, 0)


KILLED = """
import os, signal, sys
from bandsox import BandSox
from bandsox.engine.snapshots import cold, extents
from bandsox.store import Snapshots as Table

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(place, name):
    original = getattr(place, name)
    def done(*arguments, **options):
        original(*arguments, **options)
        die()
    setattr(place, name, done)

storage, verb, snapshot, step = sys.argv[1:]
{
    "before anything": lambda: setattr(extents, "pack", die),
    "while it is written": lambda: setattr(cold.ColdStorage, "_write", die),
    "once a packed file is there": lambda: after(cold, "_settle"),
    "while it is unpacked": lambda: setattr(extents, "unpack", die),
    "before it is recorded": lambda: setattr(Table, "set_verified", die),
    "before it is removed": lambda: setattr(Table, "delete", die),
}[step]()
bandsox = BandSox(storage)
{"compress": bandsox.compress_snapshot, "restore": bandsox.restore_vm, "delete": bandsox.delete_snapshot}[verb](snapshot)
"""


@pytest.mark.parametrize(
    ("verb", "step"),
    [
        ("compress", "before anything"),
        ("compress", "while it is written"),
        ("compress", "once a packed file is there"),
        ("restore", "while it is unpacked"),
        ("restore", "once a packed file is there"),
        ("restore", "before it is recorded"),
        ("delete", "while it is unpacked"),
        ("delete", "once a packed file is there"),
        ("delete", "before it is removed"),
    ],
)
def test_whoever_is_killed_nothing_is_lost_and_nothing_left(
    bandsox: BandSox, storage: Path, chain: list[str], verb: str, step: str
) -> None:
    layout = Layout.open(storage)
    bandsox.cleanup()
    before = Traces.of(layout)
    for each in chain:
        bandsox.compress_snapshot(each)
    if verb == "compress":
        _goes_on(bandsox, chain, 1)
    concerned = chain[0] if verb == "delete" else chain[1]
    done = subprocess.run([sys.executable, "-c", KILLED, str(storage), verb, concerned, step], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    bandsox.cleanup()
    assert Traces.of(layout).changes_since(before) == {}
    for each in chain:
        bandsox.compress_snapshot(each)
    _goes_on(bandsox, chain, 2)


def test_what_is_not_there_cannot_be_compressed(bandsox: BandSox) -> None:
    with pytest.raises(SnapshotNotFound):
        bandsox.compress_snapshot(os.urandom(8).hex())
