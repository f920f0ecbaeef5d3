"""A snapshot that this host cannot go on from is refused, with the reason, before anything starts; its disk boots all the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox
from bandsox.engine.snapshots.shelf import MANIFEST
from bandsox.errors import RequirementNotMet, Unsupported
from bandsox.models import HostCPU
from bandsox.settings import Layout
from bandsox.store.records import encode
from bandsox.vmm.host_cpu import obstacle
from tests.engine.leaks import Traces

CPU = HostCPU("x86_64", "GenuineIntel", "a model", ("avx", "sse4_2"), 2_000_000)


@pytest.fixture(scope="module")
def saved(bandsox: BandSox) -> Iterator[str]:
    """The id of a snapshot."""
    with bandsox.create_vm(mem_mib=128, vmm="qemu", enable_networking=False) as source:
        source.run("echo on disk > /root/kept; sync")
        name = source.snapshot()
    snapshot_id = bandsox.get_snapshot_info(name)["id"]
    yield snapshot_id
    bandsox.delete_snapshot(snapshot_id)


@pytest.fixture
def taken_elsewhere(bandsox: BandSox, saved: str) -> Iterator[Any]:
    """Make the snapshot one that was taken on another host: a function of what was different there."""
    from bandsox.engine.engine import Engine

    engine = Engine(bandsox.storage_dir)
    table = engine.snapshots.shelf.table
    original = table.get(saved)
    manifest = engine.snapshots.shelf.path(original) / MANIFEST

    def write(**differences: Any) -> None:
        changed = encode(dataclasses.replace(original, **differences))
        manifest.write_text(changed)
        with engine.database.transaction() as connection:
            connection.execute("UPDATE snapshots SET record = ? WHERE id = ?", (changed, saved))

    yield write
    write()
    engine.close()


def _refused(bandsox: BandSox, saved: str, error: type[Exception], words: str) -> None:
    layout = Layout.open(bandsox.storage_dir)
    before = Traces.of(layout)
    with pytest.raises(error, match=words) as refusal:
        bandsox.restore_vm(saved)
    assert "cold" in str(refusal.value.remedy)  # type: ignore[attr-defined]
    assert Traces.of(layout).changes_since(before) == {}


@pytest.mark.parametrize(
    ("differences", "reason"),
    [
        ({"vmm_version": "6.2.0"}, "6.2.0"),
        ({"accelerator": "hvf"}, "hvf"),
        ({"cpu": dataclasses.replace(CPU, architecture="s390x")}, "s390x"),
    ],
)
def test_another_hypervisor_or_architecture_is_refused(
    bandsox: BandSox, saved: str, taken_elsewhere: Any, differences: dict[str, Any], reason: str
) -> None:
    taken_elsewhere(**differences)
    _refused(bandsox, saved, Unsupported, reason)


def test_less_isolation_than_is_required_is_refused(bandsox: BandSox, saved: str) -> None:
    with BandSox(bandsox.storage_dir, require="hardware") as demanding, pytest.raises(RequirementNotMet) as refusal:
        demanding.restore_vm(saved)
    assert "cold" in str(refusal.value.remedy)


def test_a_kernel_that_is_not_here_is_named(bandsox: BandSox, saved: str, taken_elsewhere: Any) -> None:
    taken_elsewhere(kernel="kernels/of-another-host/vmlinux")
    layout = Layout.open(bandsox.storage_dir)
    before = Traces.of(layout)
    with pytest.raises(Unsupported, match="kernel"):
        bandsox.restore_vm(saved)
    assert Traces.of(layout).changes_since(before) == {}


def test_cold_boots_what_cannot_go_on(bandsox: BandSox, saved: str, taken_elsewhere: Any) -> None:
    taken_elsewhere(vmm_version="6.2.0", accelerator="hvf", cpu=dataclasses.replace(CPU, architecture="s390x"))
    with bandsox.restore_vm(saved, cold=True) as clone:
        assert clone.read_bytes("/root/kept") == b"on disk\n"


@pytest.mark.parametrize("name", ["memory", "state", "disk.img"])
@pytest.mark.parametrize("change", ["shorter", "longer"])
def test_a_file_of_another_size_is_refused(bandsox: BandSox, saved: str, name: str, change: str) -> None:
    from bandsox.errors import CorruptSnapshot

    path = Path(bandsox.get_snapshot_info(saved)["path"]) / name
    size, mode = path.stat().st_size, path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.truncate(size - 1 if change == "shorter" else size + 1)
        layout = Layout.open(bandsox.storage_dir)
        before = Traces.of(layout)
        with pytest.raises(CorruptSnapshot, match=name):
            bandsox.restore_vm(saved)
        assert Traces.of(layout).changes_since(before) == {}
        file.truncate(size)
        file.seek(-1, 2)
        file.write(last)
    path.chmod(mode)


def test_after_all_that_it_can_be_gone_on_from(bandsox: BandSox, saved: str) -> None:
    with bandsox.restore_vm(saved) as clone:
        assert clone.read_bytes("/root/kept") == b"on disk\n"


class TestCPU:
    def test_the_same_cpu_is_no_obstacle(self) -> None:
        assert obstacle("kvm", CPU, CPU) is None

    def test_a_cpu_with_more_features_is_no_obstacle(self) -> None:
        assert obstacle("kvm", CPU, dataclasses.replace(CPU, flags=("avx", "avx2", "sse4_2"))) is None

    def test_missing_features_are_named(self) -> None:
        assert "avx" in str(obstacle("kvm", CPU, dataclasses.replace(CPU, flags=("sse4_2",))))

    def test_another_vendor_is_an_obstacle(self) -> None:
        assert "AuthenticAMD" in str(obstacle("kvm", CPU, dataclasses.replace(CPU, vendor="AuthenticAMD")))

    def test_an_emulated_cpu_has_no_vendor(self) -> None:
        assert obstacle("tcg", CPU, dataclasses.replace(CPU, vendor="AuthenticAMD", flags=())) is None

    def test_another_rate_of_the_time_stamp_counter_is_an_obstacle(self) -> None:
        assert "kHz" in str(obstacle("tcg", CPU, dataclasses.replace(CPU, tsc_khz=2_100_000)))
