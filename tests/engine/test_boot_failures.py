"""A machine that does not come up says where it stopped and why, and leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bandsox import BandSox, BandSoxError
from bandsox.errors import BootFailed, Conflict, CorruptImage, InvalidRequest, KernelNotFound, RequirementNotMet
from bandsox.settings import DEFAULT_IMAGE, Layout
from tests.engine.leaks import Traces


@pytest.fixture(autouse=True)
def nothing_is_left(bandsox: BandSox) -> object:
    layout = Layout.open(bandsox.storage_dir)
    machines, before = bandsox.list_vms(), Traces.of(layout)
    yield
    assert bandsox.list_vms() == machines
    assert Traces.of(layout).changes_since(before) == {}


def test_a_missing_kernel_is_a_file_not_found_error(bandsox: BandSox) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        bandsox.create_vm(kernel_path="/no/such/kernel")
    assert isinstance(raised.value, KernelNotFound)


def test_a_file_that_is_no_kernel_is_refused(bandsox: BandSox, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(os.urandom(100_000))
    with pytest.raises(CorruptImage):
        bandsox.create_vm(kernel_path=str(tmp_path / "kernel"))


def test_an_elf_file_that_is_no_kernel_fails_at_a_named_stage(bandsox: BandSox) -> None:
    with pytest.raises(BootFailed) as raised:
        bandsox.create_vm(kernel_path="/bin/true")
    assert raised.value.stage == "spawn"
    assert raised.value.cause


def test_too_little_memory_is_named_as_the_cause(bandsox: BandSox) -> None:
    with pytest.raises(BootFailed, match=r"(?i)memory"):
        bandsox.create_vm(mem_mib=48)


def test_a_kernel_panic_is_shown_with_the_console(bandsox: BandSox) -> None:
    with pytest.raises(BootFailed) as raised:
        bandsox.create_vm(boot_args="rdinit=/no-such-init")
    assert "anic" in raised.value.console
    assert raised.value.cause


@pytest.mark.parametrize(
    "options",
    [
        {"vcpu": 0},
        {"vcpu": 1000},
        {"mem_mib": 1},
        {"mem_mib": "128"},
        {"disk_size_mib": 3},
        {"disk_size_mib": -1},
        {"name": ""},
        {"name": "a\nb"},
        {"env_vars": {"A=B": "c"}},
        {"env_vars": {"A": "nul\0"}},
        {"metadata": {"x": object()}},
        {"boot_args": "a\nb"},
        {"ttl": -1},
        {"vmm": "no-such-vmm"},
    ],
)
def test_bad_parameters_are_refused(bandsox: BandSox, options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        bandsox.create_vm(**options)  # type: ignore[arg-type]


def test_an_unknown_isolation_is_refused(storage: Path) -> None:
    with pytest.raises(InvalidRequest, match="emulated, hardware"):
        BandSox(storage, require="perfect")


def test_a_name_is_given_once(bandsox: BandSox) -> None:
    with bandsox.create_vm(name="the only one"), pytest.raises(Conflict, match="the only one"):
        bandsox.create_vm(name="the only one")


def test_more_isolation_than_there_is_is_refused(storage: Path) -> None:
    with BandSox(storage, require="hardware") as demanding:
        usable = {finding.subject: finding.state for finding in demanding.doctor()}.get("qemu/kvm") == "ok"
        if usable:
            demanding.create_vm().delete()
        else:
            with pytest.raises(RequirementNotMet, match="hardware"):
                demanding.create_vm()


def test_an_unknown_image_is_an_error(bandsox: BandSox) -> None:
    with pytest.raises(BandSoxError):
        bandsox.create_vm("rootfs:/no/such/file.tar")


def test_a_truncated_root_file_system_is_named_as_the_cause(bandsox: BandSox, tmp_path: Path) -> None:
    image = bandsox.pull_image(DEFAULT_IMAGE, "missing")
    whole = image.rootfs.read_bytes()
    kept = tmp_path / "whole.squashfs"
    image.rootfs.rename(kept)
    try:
        image.rootfs.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BootFailed) as raised:
            bandsox.create_vm()
        assert raised.value.stage in {"root", "overlay", "switch"}
        assert "damaged" in str(raised.value)
    finally:
        kept.replace(image.rootfs)
