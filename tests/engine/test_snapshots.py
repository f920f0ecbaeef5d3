"""Snapshots of real machines: one instant, kept whole, gone on from as often as wanted."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import Conflict, CorruptSnapshot, SnapshotNotFound
from bandsox.settings import Layout
from tests.engine.leaks import Traces
from tests.firecracker import VMMS, options_for


@pytest.fixture(scope="module", params=VMMS)
def source(request: pytest.FixtureRequest, bandsox: BandSox) -> Iterator[MicroVM]:
    """A machine on each hypervisor with a running program, a file in memory and one on disk."""
    own: dict[str, Any] = {"env_vars": {"OWN": "source", "KEPT": "yes"}, "metadata": {"team": "web"}}
    with options_for(request.param) as options, bandsox.create_vm(mem_mib=256, **own, **options) as machine:
        machine.run(
            "echo in memory > /dev/shm/kept; echo on disk > /root/kept; (while :; do date +%s%N > /dev/shm/beat; sleep 0.05; done) &"
        )
        yield machine


@pytest.fixture(scope="module")
def saved(bandsox: BandSox, source: MicroVM) -> Iterator[str]:
    """The name of a snapshot of it."""
    name = source.snapshot(f"saved-{secrets.token_hex(4)}", {"purpose": "tests"})
    yield name
    bandsox.delete_snapshot(name)


@pytest.fixture
def path(bandsox: BandSox, saved: str) -> Path:
    return Path(bandsox.get_snapshot_info(saved)["path"])


def test_a_clone_goes_on_where_its_source_was_saved(bandsox: BandSox, source: MicroVM, saved: str) -> None:
    with bandsox.restore_vm(saved, env_vars={"OWN": "clone"}) as clone:
        assert clone.run("cat /dev/shm/kept /root/kept").text == "in memory\non disk\n"
        assert clone.run("echo $OWN $KEPT").text == "clone yes\n"
        before = clone.run("cat /dev/shm/beat").text
        clone.run(f"until [ $(cat /dev/shm/beat) != {before.strip()} ]; do sleep 0.01; done", timeout=60)
        assert clone.run("hostname; cat /run/machine-id").text != source.run("hostname; cat /run/machine-id").text
        assert clone.receipt is not None and clone.receipt.frozen and not clone.receipt.failures
        assert clone.info()["metadata"] == {"team": "web"}
        assert clone.info()["restored_from"] == bandsox.get_snapshot_info(saved)["id"]
        assert source.run("echo $OWN").text == "source\n"


def test_clones_and_source_write_to_nobody_elses_memory_or_disk(bandsox: BandSox, source: MicroVM, saved: str) -> None:
    with bandsox.restore_vm(saved) as one, bandsox.restore_vm(saved) as other:
        for machine, word in {one: "one", other: "other", source: "source"}.items():
            machine.run(f"echo {word} > /dev/shm/own; echo {word} > /root/own; sync")
        for machine, word in {one: "one", other: "other", source: "source"}.items():
            assert machine.run("cat /dev/shm/own /root/own").text == f"{word}\n{word}\n"
    with bandsox.restore_vm(saved) as later:
        assert later.run("ls /dev/shm/own /root/own").exit_code != 0


def test_a_clone_can_be_stopped_and_started_without_its_snapshot(bandsox: BandSox, source: MicroVM) -> None:
    name = source.snapshot()
    with bandsox.restore_vm(name) as clone:
        clone.run("echo own > /root/own")
        bandsox.delete_snapshot(name)
        assert clone.run("cat /dev/shm/kept /root/own").text == "in memory\nown\n"
        clone.stop()
        clone.start()
        assert clone.run("cat /root/kept /root/own").text == "on disk\nown\n"


def test_a_fork_of_a_fork_outlives_its_parents(bandsox: BandSox, source: MicroVM) -> None:
    (child,) = source.fork(name=f"child-{source.vm_id}")
    child.run("echo child > /dev/shm/child")
    grandchildren = child.fork(2, f"grandchild-{source.vm_id}", env_vars={"OWN": "grandchild"})
    child.delete()
    try:
        assert [each.name for each in grandchildren] == [f"grandchild-{source.vm_id}-{number}" for number in (1, 2)]
        for each in grandchildren:
            assert each.run("cat /dev/shm/kept /dev/shm/child /root/kept; echo $OWN").text == "in memory\nchild\non disk\ngrandchild\n"
    finally:
        for each in grandchildren:
            each.delete()


def test_a_paused_machine_stays_paused(bandsox: BandSox, source: MicroVM) -> None:
    source.pause()
    try:
        name = source.snapshot()
        assert source.status().value == "paused"
    finally:
        source.resume()
    with bandsox.restore_vm(name) as clone:
        assert clone.run("cat /dev/shm/kept").text == "in memory\n"
        for each in (source, clone):  # the program goes on in both
            before = each.run("cat /dev/shm/beat").text
            each.run(f"until [ $(cat /dev/shm/beat) != {before.strip()} ]; do sleep 0.01; done", timeout=60)
    bandsox.delete_snapshot(name)


def test_sessions_and_added_ports_are_there_in_a_clone(bandsox: BandSox, source: MicroVM) -> None:
    sessions = [source.start_session("cat")[0] for _ in range(6)]
    name = source.snapshot()
    for session in sessions:
        source.kill_session(session)
    with bandsox.restore_vm(name) as clone:
        assert {info.id for info in clone.list_sessions() if info.running} >= set(sessions)
        stream = clone.stream("echo started; exec sleep 600")
        assert next(stream) == ("stdout", b"started\n")
        stream.close()  # type: ignore[attr-defined]
    bandsox.delete_snapshot(name)


def test_a_terminal_is_attached_to_again_in_a_clone(bandsox: BandSox, source: MicroVM) -> None:
    command = 'echo $$ > /dev/shm/shell; while read line; do echo "$line from $(hostname) $(stty size)"; touch /dev/shm/said; done'
    terminal = source.start_pty_session(["sh", "-c", command], cols=90, rows=30)
    source.send_session_input(terminal, "before\n")
    source.run("until test -e /dev/shm/said; do sleep 0.05; done", timeout=60)
    (clone,) = source.fork()
    with clone:
        seen, answered = [], threading.Event()

        def shown(text: str) -> None:
            seen.append(text)
            if "after from" in "".join(seen):
                answered.set()

        clone.attach_session(terminal, shown)
        clone.resize_session(terminal, 100, 40)
        clone.send_session_input(terminal, "after\n")
        assert answered.wait(60), seen
        printed = "".join(seen)
        assert f"before from {source.run('hostname').text.strip()} 30 90" in printed, "what it had printed comes first"
        assert f"after from {clone.run('hostname').text.strip()} 40 100" in printed
        assert clone.run("cat /dev/shm/shell").text == source.run("cat /dev/shm/shell").text, "the same process"
    source.kill_session(terminal)


def test_only_what_runs_can_be_saved(bandsox: BandSox, source: MicroVM) -> None:
    (clone,) = source.fork()
    with clone:
        clone.stop()
        with pytest.raises(Conflict):
            clone.snapshot()
        with pytest.raises(Conflict):
            clone.fork()


def test_names_are_labels(bandsox: BandSox, source: MicroVM, saved: str) -> None:
    info = bandsox.get_snapshot_info(saved)
    with pytest.raises(Conflict):
        source.snapshot(saved)
    awkward = "../../.. 'x'"
    bandsox.rename_snapshot(saved, awkward)
    try:
        assert bandsox.get_snapshot_info(awkward) == {**info, "snapshot_name": awkward}
        assert bandsox.get_snapshot_info(info["id"])["snapshot_name"] == awkward
        with pytest.raises(FileNotFoundError):
            bandsox.restore_vm(saved)
        for name in (awkward, info["id"]):
            with bandsox.restore_vm(name) as clone:
                assert clone.run("cat /dev/shm/kept").text == "in memory\n"
    finally:
        bandsox.rename_snapshot(awkward, saved)


def test_metadata_can_change(bandsox: BandSox, saved: str) -> None:
    assert bandsox.get_snapshot_info(saved)["metadata"] == {"purpose": "tests"}
    assert bandsox.update_snapshot_metadata(saved, {"a": [1]}) == {"a": [1]}
    assert next(info for info in bandsox.list_snapshots() if info["snapshot_name"] == saved)["metadata"] == {"a": [1]}
    bandsox.update_snapshot_metadata(saved, {"purpose": "tests"})


@pytest.mark.parametrize("name", ["memory", "state", "disk.img"])
def test_a_damaged_file_is_refused_before_anything_starts(bandsox: BandSox, source: MicroVM, storage: Path, name: str) -> None:
    snapshot = source.snapshot()
    file = Path(bandsox.get_snapshot_info(snapshot)["path"]) / name
    file.chmod(0o600)
    with file.open("r+b") as content:
        start = os.lseek(content.fileno(), 0, os.SEEK_DATA)
        byte = os.pread(content.fileno(), 1, start)
        os.pwrite(content.fileno(), bytes([byte[0] ^ 1]), start)
    before = Traces.of(Layout.open(storage))
    with pytest.raises(CorruptSnapshot, match=name):
        bandsox.restore_vm(snapshot)
    assert Traces.of(Layout.open(storage)).changes_since(before) == {}
    bandsox.delete_snapshot(snapshot)


def test_a_missing_file_and_a_damaged_manifest_are_named(bandsox: BandSox, source: MicroVM) -> None:
    snapshot = source.snapshot()
    path = Path(bandsox.get_snapshot_info(snapshot)["path"])
    (path / "manifest.json").write_text("{}")
    assert bandsox.get_snapshot_info(snapshot)["status"] == "metadata_corrupted"
    with pytest.raises(CorruptSnapshot, match="manifest"):
        bandsox.restore_vm(snapshot)
    (path / "manifest.json").unlink()
    assert bandsox.get_snapshot_info(snapshot)["status"] == "no_metadata"
    with pytest.raises(CorruptSnapshot, match="missing"):
        bandsox.restore_vm(snapshot)
    bandsox.delete_snapshot(snapshot)
    assert not path.exists()


def test_a_file_that_was_touched_but_not_changed_is_fine(bandsox: BandSox, saved: str, path: Path) -> None:
    (path / "memory").touch()
    with bandsox.restore_vm(saved) as clone:
        assert clone.run("cat /dev/shm/kept").text == "in memory\n"


def test_the_memory_of_a_snapshot_cannot_be_written_by_its_clones(bandsox: BandSox, saved: str, path: Path) -> None:
    with bandsox.restore_vm(saved) as clone:
        assert clone.process is not None
        process = Path(f"/proc/{clone.process.pid}")
        maps = [line.split() for line in (process / "maps").read_text().splitlines()]
        mapped = [words[1] for words in maps if words[-1].endswith("/memory")]
        assert mapped, "the clone maps the snapshot's file"
        assert all(mode.endswith("p") for mode in mapped)
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has been closed meanwhile
                if descriptor.readlink().name == "memory":
                    flags = (process / "fdinfo" / descriptor.name).read_text()
                    assert int(flags.split("flags:")[1].split()[0], 8) & os.O_ACCMODE == os.O_RDONLY


def test_a_clone_on_qemu_has_no_huge_pages_and_no_disassembler(bandsox: BandSox, source: MicroVM, saved: str) -> None:
    if source.info()["vmm"] != "qemu":
        pytest.skip("only QEMU translates code, and asks for huge pages for it")
    with bandsox.restore_vm(saved) as clone:
        assert clone.process is not None and source.process is not None
        assert "AnonHugePages:         0 kB" in Path(f"/proc/{clone.process.pid}/smaps_rollup").read_text()
        assert "libcapstone" not in Path(f"/proc/{clone.process.pid}/maps").read_text()
        allowed = [Path(f"/proc/{pid}/status").read_text().split("THP_enabled:")[1].split()[0] for pid in (clone.process.pid, "self")]
        assert allowed == ["0", "1" if Path("/sys/kernel/mm/transparent_hugepage").exists() else "0"]


def test_cold_boots_from_the_disk_alone(bandsox: BandSox, source: MicroVM) -> None:
    source.run("sync")
    snapshot = source.snapshot()
    (Path(bandsox.get_snapshot_info(snapshot)["path"]) / "memory").unlink()
    with bandsox.restore_vm(snapshot, cold=True) as clone:
        assert clone.run("cat /root/kept; ls /dev/shm").text == "on disk\n"
    bandsox.delete_snapshot(snapshot)


def test_what_is_not_there(bandsox: BandSox) -> None:
    for operation in (bandsox.restore_vm, bandsox.delete_snapshot, bandsox.get_snapshot_info):
        with pytest.raises(SnapshotNotFound):
            operation("no such snapshot")


def test_nothing_is_left(bandsox: BandSox, source: MicroVM, storage: Path) -> None:
    layout = Layout.open(storage)
    before, snapshots = Traces.of(layout), set(layout.snapshots.iterdir())
    name = source.snapshot()
    clones = [bandsox.restore_vm(name), *source.fork(2)]
    bandsox.delete_snapshot(name)
    for clone in clones:
        clone.delete()
    assert set(layout.snapshots.iterdir()) == snapshots
    assert Traces.of(layout).changes_since(before) == {}
