"""A machine gets the hypervisor that is asked for, or the best that works here, and keeps it; and doctor says which and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import MissingTool, Unsupported
from bandsox.settings import Layout
from bandsox.store import Database, VMs
from tests.cli.conftest import Cli
from tests.firecracker import found


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests decides."""
    for name in ("BANDSOX_VMM", "BANDSOX_FIRECRACKER", "BANDSOX_JAILER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(storage: Path) -> Cli:
    """The command line with the tests' storage directory."""
    return Cli(storage)


@pytest.fixture(scope="module")
def stopped(bandsox: BandSox) -> Iterator[MicroVM]:
    """A machine made with QEMU, which does not run."""
    vm = bandsox.create_vm(vmm="qemu", disk_size_mib=64)
    vm.stop()
    yield vm
    vm.delete()


def test_the_setting_is_used_and_the_parameter_wins(bandsox: BandSox, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_VMM", "bochs")
    with bandsox.create_vm(vmm="qemu", disk_size_mib=0) as vm:
        assert vm.info()["vmm"] == "qemu"
    monkeypatch.setenv("BANDSOX_VMM", "qemu")
    with bandsox.create_vm(disk_size_mib=0) as vm:
        assert vm.info()["vmm"] == "qemu"
    assert cli("--json", "create", "--vmm", "bochs", "python:3-alpine", BANDSOX_VMM="qemu").error["code"] == "invalid_request"
    assert cli("--json", "create", "python:3-alpine", BANDSOX_VMM="bochs").error["code"] == "invalid_request"


def test_a_version_that_is_not_supported_is_passed_over(bandsox: BandSox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "firecracker"
    old.write_text("#!/bin/sh\necho Firecracker v1.7.0\n")
    old.chmod(0o755)
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(old))
    with pytest.raises(Unsupported, match=r"1\.7\.0"):
        bandsox.create_vm(vmm="firecracker")


def test_the_best_is_what_was_seen_to_run_a_guest(bandsox: BandSox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in found().environment.items():
        monkeypatch.setenv(name, value)
    with bandsox.create_vm(disk_size_mib=0) as vm:
        info = vm.info()
    if info["vmm"] == "qemu":
        assert "not firecracker" in info["accelerator_reason"]
    else:
        assert (info["vmm"], info["isolation"]) == ("firecracker", "hardware")


def test_a_machine_keeps_the_hypervisor_it_was_made_with(bandsox: BandSox, stopped: MicroVM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_VMM", "firecracker")
    stopped.start()
    assert stopped.info()["vmm"] == "qemu"
    assert stopped.run(["true"]).exit_code == 0
    stopped.stop()


def test_a_machine_is_not_opened_with_another_hypervisor(
    storage: Path, bandsox: BandSox, stopped: MicroVM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(tmp_path / "nowhere"))
    vms = VMs(Database(Layout.open(storage).database))
    vms.update(stopped.vm_id, vmm="firecracker")
    try:
        with pytest.raises(MissingTool, match="BANDSOX_FIRECRACKER"):
            stopped.start()
        assert stopped.status().value == "stopped"
        assert stopped.process is None
    finally:
        vms.update(stopped.vm_id, vmm="qemu")


def test_doctor_says_which_is_chosen_and_why_no_other(cli: Cli, tmp_path: Path) -> None:
    findings = {each["subject"]: each for each in cli("--json", "doctor", BANDSOX_FIRECRACKER=str(tmp_path / "nowhere")).json["findings"]}
    assert findings["choice"]["text"].startswith("VMs run on qemu/")
    assert "not firecracker" in findings["choice"]["text"]
    assert findings["firecracker"]["state"] == "note"
    assert findings["kvm"]["state"] in {"ok", "note"}
    assert findings["qemu"]["text"].startswith("version ")
    chosen = cli("--json", "doctor", BANDSOX_VMM="bochs")
    assert chosen.status == 1
    assert [each["state"] for each in chosen.json["findings"] if each["subject"] == "choice"] == ["missing"]


def test_doctor_tells_where_a_program_is_from(cli: Cli) -> None:
    setup = found()
    environment: dict[str, Any] = {**setup.environment}
    if not Path(setup.environment["BANDSOX_FIRECRACKER"]).exists():
        pytest.skip(f"firecracker: {setup}")
    findings = {each["subject"]: each for each in cli("--json", "doctor", **environment).json["findings"]}
    assert findings["firecracker"]["state"] == findings["jailer"]["state"] == "ok"
    assert "1.12.1" in findings["firecracker"]["text"]
    assert "(BANDSOX_FIRECRACKER)" in findings["firecracker"]["text"]
    assert "firecracker/kvm" in findings
