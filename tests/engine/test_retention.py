"""Snapshots that go by themselves: which do, which never do, and by whom that is seen to."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, Retention
from bandsox.engine import Engine, retention
from bandsox.errors import HostError, InvalidRequest
from bandsox.models import Belonging, HostCPU, ImageConfig, Isolation, Shape, Snapshot, VMSpec
from bandsox.process import ProcessId
from bandsox.store import VMs
from bandsox.vmm.inotify import CREATE, DELETE, Watch
from tests.cli.conftest import Cli
from tests.server.servers import STOPPED

DAY = 86400.0


def row(name: str, age: float, machine: str = "a", *, needed: bool = False) -> tuple[str, str, float, str, int]:
    return name, name, -age, machine, int(needed)


def doomed(kept: Retention, *rows: tuple[str, str, float, str, int]) -> list[str]:
    return list(retention.chosen(sorted(rows, key=lambda each: -each[2]), kept, 0.0).now)


# ── which ───────────────────────────────────────────────────────────────────────────────────────────


def test_without_limits_all_are_kept() -> None:
    assert retention.chosen([row("old", 1e6)], Retention(), 0.0) == retention.Due((), None)


def test_what_is_too_old_goes_and_the_next_one_is_known() -> None:
    rows = [row("new", 1), row("young", 9), row("exact", 10), row("old", 11)]
    assert retention.chosen(rows, Retention(max_age=10), 0.0) == retention.Due(("exact", "old"), 1.0)


def test_of_each_machine_the_newest_are_kept() -> None:
    rows = [row("a1", 1), row("a2", 2), row("a3", 3), row("b1", 4, "b"), row("b2", 5, "b"), row("c1", 6, "c")]
    assert doomed(Retention(max_count=2), *rows) == ["a3"]
    assert doomed(Retention(max_count=1), *rows) == ["a2", "a3", "b2"]


def test_a_protected_name_stays_and_does_not_count() -> None:
    rows = [row("release-1", 1), row("mine", 2), row("release-2", 3), row("other", 4)]
    assert doomed(Retention(max_age=0.5, max_count=1, protected=("release-*", "ot?er")), *rows) == ["mine"]
    assert doomed(Retention(max_count=1, protected=("release-*",)), *rows) == ["other"]


def test_what_something_needs_stays_and_counts() -> None:
    rows = [row("new", 1), row("needed", 2, needed=True), row("old", 3)]
    assert doomed(Retention(max_count=2), *rows) == ["old"]
    assert doomed(Retention(max_age=0.5), *rows) == ["new", "old"]


@pytest.mark.parametrize(
    "wrong",
    [
        Retention(max_age=0),
        Retention(max_age=-1),
        Retention(max_age=float("nan")),
        Retention(max_age=1e12),
        Retention(max_count=0),
        Retention(protected=("",)),
        Retention(protected=("x" * 129,)),
        Retention(protected=("x",) * 101),
    ],
)
def test_what_may_not_be_asked_for_changes_nothing(bandsox: BandSox, wrong: Retention, tmp_path: Path) -> None:
    with BandSox(tmp_path) as own:
        for ask in (own.set_snapshot_retention, own.prune_snapshots):
            with pytest.raises(InvalidRequest):
                ask(wrong)
        assert own.snapshot_retention() == Retention()


@pytest.mark.parametrize(
    "said",
    ["", "{", "{}", '{"max_age": "x", "max_count": null, "protected": []}', '{"max_age": 1, "max_count": 0, "protected": []}'],
)
def test_what_cannot_be_read_keeps_everything_and_says_so(keeping: Keeping, said: str) -> None:
    kept = keeping.saved("kept", DAY)
    (keeping.root / retention.FILE).write_text(said)
    with pytest.raises(HostError, match="which snapshots are kept"):
        keeping.bandsox.snapshot_retention()
    with pytest.raises(HostError):
        keeping.bandsox.prune_snapshots()
    assert keeping.names() == {kept.name}


# ── in a storage directory ──────────────────────────────────────────────────────────────────────────


class Keeping:
    """A storage directory with snapshots as they are recorded, without files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bandsox = BandSox(root)
        self.engine = Engine(root)
        self._number = 0

    def saved(
        self, name: str, age: float, machine: str = "a" * 16, parent: str | None = None, belonging: Belonging | None = None
    ) -> Snapshot:
        """Record a snapshot that was taken so many seconds ago."""
        self._number += 1
        snapshot = Snapshot(
            id=f"{self._number:016x}",
            name=name,
            created_at=time.time() - age,
            source_vm_id="a" * 16,
            spec=VMSpec("image", "vm"),
            image_id="image",
            image_config=ImageConfig(),
            rootfs="rootfs",
            kernel="kernel",
            initramfs="initramfs",
            vmm="qemu",
            vmm_version="",
            accelerator="tcg",
            isolation=Isolation.EMULATED,
            transport="virtio-serial",
            shape=Shape(1),
            cpu=HostCPU("x86_64", "", "", (), None),
            files={},
            token="",
            frozen=True,
            parent=parent,
        )
        directory = self.engine.layout.temporary / snapshot.id
        directory.mkdir()
        self.engine.snapshots.shelf.publish(snapshot, directory, belonging)
        return snapshot

    def names(self) -> set[str]:
        return {each.name for each in self.engine.snapshots.shelf.table.list()}

    def wait_for(self, *names: str) -> None:
        """Until these are the snapshots, as the housekeeper or somebody else has made it."""
        deadline = time.monotonic() + 240
        while True:
            with Watch({self.root / "snapshots": CREATE | DELETE}) as watch:
                if self.names() == set(names):
                    return
                poll = select.poll()
                poll.register(watch.fileno(), select.POLLIN)
                assert poll.poll(max(0, deadline - time.monotonic()) * 1000), f"they are {self.names()}"

    def used_by_a_machine(self, snapshot: Snapshot) -> str:
        """Record a machine that goes on from a snapshot."""
        record = dataclasses.replace(STOPPED, id="f" * 16, restored_from=snapshot.id)
        VMs(self.engine.database).insert(record)
        return record.id


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    made = Keeping(tmp_path)
    yield made
    made.bandsox.set_snapshot_retention(Retention())
    made.engine.close()
    made.bandsox.close()
    for process in housekeepers(tmp_path):
        with process.handle() as pidfd:
            if pidfd is not None:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                assert poll.poll(120_000), "the housekeeper goes with the last deadline"


def housekeepers(root: Path) -> list[ProcessId]:
    wanted = b"bandsox.engine.housekeeper\0" + os.fsencode(root) + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes():
                found.append(ProcessId.of(int(entry.name)))
        except OSError:
            continue
    return [each for each in found if each is not None]


def test_what_is_asked_for_is_kept_owner_only_and_taken_back(keeping: Keeping) -> None:
    kept = Retention(30 * DAY, 7, ("release-*",))
    keeping.bandsox.set_snapshot_retention(kept)
    assert keeping.bandsox.snapshot_retention() == kept
    assert (keeping.root / retention.FILE).stat().st_mode & 0o777 == 0o600
    keeping.bandsox.set_snapshot_retention(Retention())
    assert not (keeping.root / retention.FILE).exists()


def test_a_dry_run_names_them_and_removes_none(keeping: Keeping) -> None:
    keeping.saved("old", 2 * DAY)
    keeping.saved("new", 0)
    assert keeping.bandsox.prune_snapshots(Retention(max_age=DAY), dry_run=True) == ["old"]
    assert keeping.names() == {"old", "new"}
    assert keeping.bandsox.prune_snapshots(Retention(max_age=DAY)) == ["old"]
    assert keeping.bandsox.prune_snapshots() == []
    assert [entry.name for entry in (keeping.root / "snapshots").iterdir()] == ["0000000000000002"]


def test_nothing_goes_that_something_needs_until_that_is_gone(keeping: Keeping) -> None:
    base, machines = keeping.saved("base", 9 * DAY), keeping.saved("of a machine", 8 * DAY)
    keeping.saved("based", 7 * DAY, parent=base.id)
    keeping.saved("release-1", 6 * DAY)
    for purpose in ("checkpoint", "memory", "template"):
        keeping.saved(purpose, 5 * DAY, belonging=Belonging(purpose, "f" * 16, purpose))
    machine = keeping.used_by_a_machine(machines)
    kept = Retention(max_age=DAY, protected=("release-*",))
    assert keeping.bandsox.prune_snapshots(kept) == ["based"]
    assert keeping.bandsox.prune_snapshots(kept) == ["base"]
    VMs(keeping.engine.database).delete(machine)
    assert keeping.bandsox.prune_snapshots(kept) == ["of a machine"]
    assert keeping.names() == {"release-1", "checkpoint", "memory", "template"}


def test_what_somebody_uses_stays_while_he_does(keeping: Keeping) -> None:
    used = keeping.saved("used", 2 * DAY)

    async def prune_meanwhile() -> list[Snapshot]:
        async with keeping.engine.snapshots.shelf.in_use(used):
            return await retention.prune(keeping.engine, Retention(max_age=DAY))

    assert asyncio.run(prune_meanwhile()) == []
    assert keeping.bandsox.prune_snapshots(Retention(max_age=DAY)) == ["used"]


# ── by itself ───────────────────────────────────────────────────────────────────────────────────────


def test_the_housekeeper_removes_at_once_what_is_not_kept(keeping: Keeping) -> None:
    for number in range(4):
        keeping.saved(f"{number}", DAY - number)
    keeping.bandsox.set_snapshot_retention(Retention(max_count=2))
    keeping.wait_for("2", "3")


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda keeping: keeping.saved("newer", 0) and None, {"newer"}),
        (lambda keeping: keeping.bandsox.rename_snapshot("release-1", "nothing special"), {"first"}),
    ],
)
def test_the_housekeeper_hears_of_what_makes_one_go(keeping: Keeping, change: Callable[[Keeping], None], left: set[str]) -> None:
    keeping.saved("release-1", 9)
    keeping.saved("first", 5)
    keeping.bandsox.set_snapshot_retention(Retention(max_count=1, protected=("release-*",)))
    change(keeping)
    keeping.wait_for(*(left | ({"release-1"} if "newer" in left else set())))


def test_it_sleeps_until_one_is_too_old(keeping: Keeping) -> None:
    keeping.saved("young", DAY - 3)
    keeping.bandsox.set_snapshot_retention(Retention(max_age=DAY))
    keeping.wait_for()


def test_the_end_of_the_machine_that_needed_one_lets_it_go(keeping: Keeping) -> None:
    machine = keeping.used_by_a_machine(keeping.saved("needed", 2 * DAY))
    keeping.bandsox.set_snapshot_retention(Retention(max_age=DAY))
    assert keeping.bandsox.prune_snapshots() == []
    keeping.bandsox.delete_vm(machine)
    keeping.wait_for()


def test_the_command_line_says_what_is_kept(keeping: Keeping) -> None:
    cli = Cli(keeping.root)
    keeping.saved("old", 2 * DAY)
    assert cli("--json", "snapshot", "retention", check=True).json == {"max_age": None, "max_count": None, "protected": []}
    assert cli("snapshot", "prune", "--dry-run", "--max-age", "1d", check=True).text == "old\n"
    said = cli("--json", "snapshot", "retention", "--max-age", "1d", "--keep", "3", "--protect", "release-*", check=True).json
    assert said == {"max_age": DAY, "max_count": 3, "protected": ["release-*"]}
    keeping.wait_for()
    assert cli("--json", "snapshot", "retention", "--off", check=True).json["max_age"] is None
    assert cli("snapshot", "retention", "--off", "--keep", "3").status == 2
    (keeping.root / retention.FILE).write_text("{")
    assert "which snapshots are kept" in json.dumps(cli("--json", "snapshot", "retention").error)
    assert cli("--json", "snapshot", "retention", "--off", check=True).json["max_age"] is None, "it is mended by saying it anew"
