"""Machines over the whole range of their options: the real program takes every request that is made of them, and has understood it."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandsox.engine.identity import MIN_MEM_MIB
from bandsox.models import Confinement, RateLimits, Shape
from bandsox.vmm.base import Disk, LaunchSpec, NetworkDevice, Origin
from bandsox.vmm.firecracker import configuration, saving
from bandsox.vmm.firecracker.features import VersionTriple
from bandsox.vmm.firecracker.requests import Action, SnapshotLoad
from tests.vmm.firecracker.conftest import KVM, Bare, bare
from tests.vmm.firecracker.guests import program

VERSION: VersionTriple = (1, 12, 1)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

rates = st.none() | st.integers(1, 1 << 40)
limits = st.builds(RateLimits, rates, rates)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
networks = st.builds(
    lambda mac: NetworkDevice(
        mac=":".join(f"{octet:02x}" for octet in (2, *mac)), name=f"bsx{secrets.token_hex(4)}", tap=None, namespace=-1
    ),
    st.binary(min_size=5, max_size=5),
)


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """What may be asked for of a machine, beside its files."""
    memory = draw(st.integers(MIN_MEM_MIB, 1 << 20))
    network = draw(networks) if os.geteuid() == 0 and draw(st.booleans()) else None  # only root may make TAP devices
    return {
        "vcpu": draw(st.integers(1, 32)),
        "mem_mib": memory,
        "boot_args": draw(st.text("abcdefgh=.,-_:/0123456789 ", max_size=1000)),
        "transport": draw(st.sampled_from(["vsock", "console"])),
        "cpu_template": draw(st.sampled_from([None, "T2", "T2S", "T2CL", "T2A", "C3", '{"kvm_capabilities": ["!171"]}', "{}"])),
        "disk_limits": draw(limits),
        "network_limits": draw(limits),
        "debug_console": draw(st.booleans()),
        "network": network,
        "balloon_mib": draw(st.none() | st.integers(0, memory - MIN_MEM_MIB)),
        "mmds": draw(st.none() | st.dictionaries(st.text(max_size=10), values, max_size=4)) if network is not None else None,
        "track_dirty_pages": draw(st.booleans()),
    }


def _spec(directory: Path) -> LaunchSpec:
    """The smallest machine in a directory, with the files and links that are there when the library starts it."""
    for name in ("shared.squashfs", "disk.img", "initramfs.cpio"):
        (directory / name).write_bytes(bytes(4096))
    (directory / "sockets").mkdir()
    saving.prepare(directory)
    spec = LaunchSpec(
        vm_id="machine",
        directory=directory,
        sockets=directory / "sockets",
        vcpu=1,
        mem_mib=MIN_MEM_MIB,
        kernel=program(directory / "guest.elf", b"hello\n", "halt"),
        initramfs=directory / "initramfs.cpio",
        disks=(Disk(directory / "shared.squashfs", read_only=True), Disk(directory / "disk.img", read_only=False)),
        boot_args="",
        accelerator=KVM,
        confinement=Confinement.NONE,
        transport="vsock",
    )
    for name, target in {configuration.RUN: spec.sockets, **configuration.links(spec)}.items():
        (directory / name).symlink_to(target)
    return spec


def _sent(idle: Bare, spec: LaunchSpec) -> dict[str, Any]:
    """Send all that makes a machine but its start; what Firecracker has made of it."""
    *prepared, last = configuration.configure(spec, VERSION)
    assert last == Action(action_type="InstanceStart")
    idle.client.send_all(prepared)
    return idle.client.get("/vm/config", dict[str, Any])


@FEW
@given(changes=changes())
def test_every_machine_that_can_be_asked_for_is_made(binary: Path, changes: dict[str, Any]) -> None:
    with bare(binary) as idle:
        spec = replace(_spec(idle.directory), **changes)
        seen = _sent(idle, spec)
        mmds = idle.client.get("/mmds", dict[str, Any]) if spec.mmds is not None else None
    machine = seen["machine-config"]
    assert (machine["vcpu_count"], machine["mem_size_mib"], machine["smt"]) == (spec.vcpu, spec.mem_mib, False)
    assert machine["track_dirty_pages"] == spec.track_dirty_pages
    assert seen["boot-source"]["boot_args"] == configuration.boot_args(spec)
    assert [(drive["is_read_only"], drive["is_root_device"]) for drive in seen["drives"]] == [(True, False), (False, False)]
    for drive in seen["drives"]:
        assert _rates(drive["rate_limiter"]) == spec.disk_limits
    assert (seen["vsock"] is not None) == (spec.transport == "vsock")
    assert (seen["balloon"] or {}).get("amount_mib") == spec.balloon_mib
    assert [card["guest_mac"] for card in seen["network-interfaces"]] == ([spec.network.mac] if spec.network else [])
    for card in seen["network-interfaces"]:
        assert _rates(card["rx_rate_limiter"]) == _rates(card["tx_rate_limiter"]) == spec.network_limits
    assert (seen["mmds-config"] or {}).get("version") == (None if spec.mmds is None else "V2")
    assert mmds == spec.mmds


def _rates(limiter: dict[str, Any] | None) -> RateLimits:
    """What Firecracker's rate limiter lets through in a second."""

    def rate(bucket: dict[str, Any] | None) -> int | None:
        return None if bucket is None else bucket["size"] * 1000 // bucket["refill_time"]

    return RateLimits() if limiter is None else RateLimits(rate(limiter.get("bandwidth")), rate(limiter.get("ops")))


def test_what_is_not_asked_for_is_not_there(binary: Path) -> None:
    with bare(binary) as idle:
        seen = _sent(idle, _spec(idle.directory))
    assert seen["mmds-config"] is None
    assert seen["balloon"] is None
    assert seen["network-interfaces"] == []
    assert all(_rates(drive["rate_limiter"]) == RateLimits() for drive in seen["drives"])
    assert seen["entropy"] is not None
    assert re.search(r"\bquiet\b", seen["boot-source"]["boot_args"])
    assert seen["machine-config"]["track_dirty_pages"] is False


@pytest.mark.parametrize(
    ("version", "expected"),
    [((1, 8, 0), b"enable_diff_snapshots"), ((1, 12, 1), b"enable_diff_snapshots"), ((1, 13, 0), b"track_dirty_pages")],
)
def test_a_version_is_told_to_keep_track_in_the_words_that_it_knows(tmp_path: Path, version: VersionTriple, expected: bytes) -> None:
    going_on = replace(_spec(tmp_path), track_dirty_pages=True, origin=Origin(tmp_path, Shape(1 << 20)))
    load = next(request for request in configuration.configure(going_on, version) if isinstance(request, SnapshotLoad))
    assert re.findall(rb"enable_diff_snapshots|track_dirty_pages", load.encoded()) == [expected]
