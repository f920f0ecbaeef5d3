"""Which hypervisor a machine gets, and that what one of them cannot do is refused."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox
from bandsox.errors import InvalidRequest, MissingTool, RequirementNotMet, Unsupported
from bandsox.settings import Layout
from bandsox.vmm.qemu import vhost
from tests.engine.leaks import Traces
from tests.firecracker import CACHE
from tests.vmm.firecracker.guests import program


@pytest.fixture
def without_firecracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(tmp_path / "nothing"))


def test_a_hypervisor_that_is_named_and_missing_is_an_error(bandsox: BandSox, without_firecracker: None) -> None:
    with pytest.raises(MissingTool, match="BANDSOX_FIRECRACKER"):
        bandsox.create_vm(vmm="firecracker")


def test_the_environment_names_one_where_the_caller_does_not(bandsox: BandSox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_VMM", "no-such-vmm")
    with pytest.raises(InvalidRequest, match="firecracker, qemu"):
        bandsox.create_vm()


def test_a_transport_that_is_asked_for_and_missing_is_an_error(bandsox: BandSox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_TRANSPORT", "console")
    with pytest.raises(Unsupported, match="qemu has no transport console"):
        bandsox.create_vm(vmm="qemu")
    monkeypatch.setenv("BANDSOX_TRANSPORT", "pigeon")
    with pytest.raises(InvalidRequest, match="pigeon"):
        bandsox.create_vm()


def test_a_machine_says_how_it_is_reached_and_why(bandsox: BandSox, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = vhost.unavailable()
    with bandsox.create_vm(vmm="qemu", disk_size_mib=0) as vm:
        info = vm.info()
        assert info["transport"] == ("vsock" if missing is None else "virtio-serial")
        assert missing is None or f"no vsock: {missing}" in info["accelerator_reason"]


def test_a_machine_says_why_it_did_not_get_the_better_one(bandsox: BandSox, without_firecracker: None) -> None:
    with bandsox.create_vm(disk_bandwidth_mbps=200, disk_iops=20_000, debug_console=True) as vm:
        info = vm.info()
        assert info["vmm"] == "qemu"
        assert "not firecracker: BANDSOX_FIRECRACKER names" in info["accelerator_reason"]
        assert "Run /init as init process" in vm.console()
        assert vm.run("dd if=/dev/zero of=/root/file bs=1M count=4 conv=fsync").exit_code == 0


@pytest.mark.parametrize(
    "option",
    [{"cpu_template": "T2A"}, {"network_bandwidth_mbps": 1}, {"balloon_mib": 0}, {"mmds": {}}, {"track_dirty_pages": True}],
)
def test_qemu_refuses_what_only_firecracker_has(bandsox: BandSox, option: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=f"qemu does not know {next(iter(option))}"):
        bandsox.create_vm(vmm="qemu", **option)


@pytest.mark.parametrize(
    "options",
    [
        {"network_bandwidth_mbps": 0},
        {"network_bandwidth_mbps": float("nan")},
        {"balloon_mib": -1},
        {"balloon_mib": 100, "mem_mib": 128},
        {"mmds": {"key": "x" * 60_000}},
        {"mmds": {"key": object()}},
        {"mmds": {}, "enable_networking": False},
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_chosen(bandsox: BandSox, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        bandsox.create_vm(**options)


def test_without_firecracker_nothing_has_a_cpu_template(bandsox: BandSox, without_firecracker: None) -> None:
    with pytest.raises(Unsupported, match="cpu_template"):
        bandsox.create_vm(cpu_template='{"msr_modifiers": []}')


@pytest.mark.parametrize(
    "options", [{"disk_bandwidth_mbps": 0}, {"disk_bandwidth_mbps": float("nan")}, {"disk_iops": 0}, {"disk_iops": 1.5}]
)
def test_limits_that_are_none_are_refused(bandsox: BandSox, options: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        bandsox.create_vm(**options)  # type: ignore[arg-type]


def test_limits_from_the_environment_must_be_numbers(bandsox: BandSox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_DISK_IOPS", "many")
    with pytest.raises(InvalidRequest, match="BANDSOX_DISK_IOPS"):
        bandsox.create_vm()


@pytest.mark.skipif(not (CACHE / "firecracker").is_file() or not os.access("/dev/kvm", os.W_OK), reason="there is no Firecracker or no KVM")
def test_a_kernel_that_never_gets_to_the_agent_is_refused_with_the_reason(
    bandsox: BandSox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(CACHE / "firecracker"))
    kernel = program(tmp_path / "kernel.elf", b"no Linux: %s\n" % secrets.token_bytes(4).hex().encode(), "reset")
    before = Traces.of(Layout.open(bandsox.storage_dir))
    with pytest.raises(RequirementNotMet, match="cannot run machines on firecracker") as refused:
        bandsox.create_vm(vmm="firecracker", kernel_path=str(kernel), disk_size_mib=64)
    assert "not firecracker/kvm: it did not run the guest kernel" in (refused.value.cause or "")
    assert Traces.of(Layout.open(bandsox.storage_dir)).changes_since(before) == {}
