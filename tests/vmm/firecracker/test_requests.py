"""Every body that can be sent is accepted by the real program, over the range of its options."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandsox.errors import VMMError
from bandsox.vmm.firecracker import requests
from bandsox.vmm.firecracker.features import Feature, snapshot_format
from bandsox.vmm.firecracker.requests import (
    Action,
    Balloon,
    BalloonStatistics,
    BalloonStatisticsUpdate,
    BalloonUpdate,
    BootSource,
    CpuConfig,
    Drive,
    DriveUpdate,
    Entropy,
    InstanceInfo,
    Logger,
    MachineConfig,
    MemoryBackend,
    Metrics,
    MmdsConfig,
    MmdsContents,
    NetworkInterface,
    NetworkInterfaceUpdate,
    NetworkOverride,
    RateLimiter,
    Request,
    SnapshotCreate,
    SnapshotLoad,
    State,
    TokenBucket,
    Version,
    Vsock,
)
from tests.vmm.firecracker.conftest import Bare, bare
from tests.vmm.firecracker.guests import program

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

counts = st.integers(1, 1 << 40)
buckets = st.builds(TokenBucket, size=counts, refill_time=st.integers(1, 1 << 30), one_time_burst=st.none() | st.integers(0, 1 << 40))
limiters = st.none() | st.builds(RateLimiter, bandwidth=st.none() | buckets, ops=st.none() | buckets)
bitmaps = st.text("01x", min_size=1, max_size=32).map(lambda bits: f"0b{bits}")
flag = st.none() | st.booleans()

devices = st.one_of(
    st.builds(
        Drive,
        drive_id=st.sampled_from(["disk0", "disk1", "a_b"]),
        path_on_host=st.just("disk.img"),
        is_root_device=st.just(False),
        is_read_only=st.booleans(),
        cache_type=st.sampled_from([None, "Unsafe", "Writeback"]),
        io_engine=st.sampled_from([None, "Sync", "Async"]),
        rate_limiter=limiters,
    ),
    st.builds(Drive, drive_id=st.just("root"), path_on_host=st.just("disk.img"), is_root_device=st.just(True), is_read_only=st.booleans()),
    st.builds(Entropy, rate_limiter=limiters),
    st.builds(Balloon, amount_mib=st.integers(0, 64), deflate_on_oom=st.booleans(), stats_polling_interval_s=st.integers(0, 3600)),
)

machines = st.one_of(
    st.builds(
        MachineConfig,
        vcpu_count=st.integers(1, 16).map(lambda pairs: pairs * 2) | st.just(1),
        mem_size_mib=st.integers(32, 1 << 19).map(lambda pairs: pairs * 2),
        smt=st.booleans(),
        cpu_template=st.sampled_from([None, "T2", "T2S", "T2CL", "T2A", "C3"]),
        track_dirty_pages=st.booleans(),
        huge_pages=st.sampled_from([None, "None"]),
    ),
    st.builds(
        CpuConfig,
        cpuid_modifiers=st.none()
        | st.lists(
            st.builds(
                lambda leaf, register, bitmap: {
                    "leaf": hex(leaf),
                    "subleaf": "0x0",
                    "flags": 0,
                    "modifiers": [{"register": register, "bitmap": bitmap}],
                },
                st.integers(0, 0xFFFFFFFF),
                st.sampled_from(["eax", "ebx", "ecx", "edx"]),
                bitmaps,
            ),
            max_size=4,
        ),
        msr_modifiers=st.none()
        | st.lists(st.builds(lambda addr, bitmap: {"addr": hex(addr), "bitmap": bitmap}, st.integers(0, 0xFFFFFFFF), bitmaps), max_size=4),
        kvm_capabilities=st.none() | st.lists(st.sampled_from(["171", "!172"]), max_size=2),
    ),
    st.builds(
        BootSource,
        kernel_image_path=st.just("kernel.elf"),
        initrd_path=st.sampled_from([None, "disk.img"]),
        boot_args=st.none() | st.text("abcdefgh=.,0123456789 ", max_size=1000),
    ),
    st.builds(
        Logger,
        level=st.sampled_from([None, "Off", "Error", "Warning", "Info", "Debug", "Trace"]),
        log_path=st.sampled_from([None, "log"]),
        show_level=flag,
        show_log_origin=flag,
        module=st.sampled_from([None, "api_server"]),
    ),
)


@pytest.fixture(scope="module")
def idle(binary: Path) -> Iterator[Bare]:
    """One Firecracker whose machine is never started, with the files that requests name."""
    with bare(binary) as started:
        _furnish(started.directory)
        yield started


def _furnish(directory: Path) -> None:
    program(directory / "kernel.elf", b"hello\n", "halt")
    (directory / "disk.img").write_bytes(bytes(4096))
    (directory / "log").touch()
    os.mkfifo(directory / "metrics")


@MANY
@given(request=devices | machines)
def test_every_body_before_the_start_is_accepted(idle: Bare, request: Request) -> None:
    idle.client.send(request)


def test_what_can_be_said_only_once_is_accepted(fresh: Bare) -> None:
    _furnish(fresh.directory)
    fresh.client.send(MachineConfig(vcpu_count=1, mem_size_mib=64, huge_pages="2M"))  # which no balloon may have been asked for before
    fresh.client.send(Metrics(metrics_path="metrics"))
    fresh.client.send(Vsock(guest_cid=3, uds_path="vsock.sock"))
    assert fresh.client.get("/", InstanceInfo).state == "Not started"
    assert fresh.client.get("/version", Version).firecracker_version == "1.12.1"


@pytest.fixture
def running(fresh: Bare) -> Bare:
    """A Firecracker whose small guest runs, with every device that needs nothing of the host."""
    _furnish(fresh.directory)
    for request in (
        MachineConfig(vcpu_count=1, mem_size_mib=64, track_dirty_pages=True),
        BootSource(kernel_image_path="kernel.elf"),
        Drive(drive_id="disk0", path_on_host="disk.img", is_root_device=False, is_read_only=False),
        Balloon(amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=1),
        Vsock(guest_cid=3, uds_path="vsock.sock"),
        Metrics(metrics_path="metrics"),
        Action(action_type="InstanceStart"),
    ):
        fresh.client.send(request)
    return fresh


def test_a_running_machine_takes_every_change(running: Bare) -> None:
    bucket = TokenBucket(size=1_000_000, refill_time=1000)
    for request in (
        State(state="Paused"),
        State(state="Resumed"),
        DriveUpdate(drive_id="disk0", path_on_host="disk.img"),
        DriveUpdate(drive_id="disk0", rate_limiter=RateLimiter(bandwidth=bucket, ops=bucket)),
        DriveUpdate(drive_id="disk0", rate_limiter=RateLimiter(bandwidth=TokenBucket(size=0, refill_time=0))),
        Action(action_type="FlushMetrics"),
        Action(action_type="SendCtrlAltDel"),
    ):
        running.client.send(request)
    assert running.client.get("/", InstanceInfo).state == "Running"


def test_changes_of_a_balloon_are_understood(running: Bare) -> None:
    """This guest has no driver for it, which is all that Firecracker finds fault with."""
    running.client.send(BalloonStatisticsUpdate(stats_polling_interval_s=2))
    with pytest.raises(VMMError, match="Device not activated yet"):
        running.client.send(BalloonUpdate(amount_mib=8))
    assert running.client.get("/balloon/statistics", BalloonStatistics).actual_mib == 0


@pytest.mark.parametrize("kind", ["Full", "Diff"])
def test_snapshots_are_written_and_become_a_machine_again(running: Bare, binary: Path, kind: str) -> None:
    running.client.send(State(state="Paused"))
    running.client.send(SnapshotCreate(snapshot_path="state", mem_file_path="memory", snapshot_type=kind))  # type: ignore[arg-type]
    (running.directory / "vsock.sock").unlink()
    with bare(binary) as second:
        for name in ("state", "memory", "disk.img"):
            (second.directory / name).symlink_to(running.directory / name)
        second.client.send(
            SnapshotLoad(
                snapshot_path="state",
                mem_backend=MemoryBackend(backend_type="File", backend_path="memory"),
                enable_diff_snapshots=True,
                resume_vm=True,
            )
        )
        assert second.client.get("/", InstanceInfo).state == "Running"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make TAP devices")
def test_network_cards_with_limits_metadata_and_another_tap_after_a_restore(fresh: Bare, binary: Path) -> None:
    tap, other = (f"bsx{secrets.token_hex(4)}" for _ in range(2))
    bucket = TokenBucket(size=1_000_000, refill_time=1000, one_time_burst=5)
    limiter = RateLimiter(bandwidth=bucket, ops=bucket)
    _furnish(fresh.directory)
    for request in (
        MachineConfig(vcpu_count=1, mem_size_mib=64),
        BootSource(kernel_image_path="kernel.elf"),
        NetworkInterface(
            iface_id="eth0", host_dev_name=tap, guest_mac="06:00:AC:10:00:02", rx_rate_limiter=limiter, tx_rate_limiter=limiter
        ),
        MmdsConfig(network_interfaces=["eth0"], version="V2", ipv4_address="169.254.170.2"),
        MmdsContents(contents={"role": "web", "deep": {"er": [1, None, "grün"]}}),
        Action(action_type="InstanceStart"),
        NetworkInterfaceUpdate(iface_id="eth0", rx_rate_limiter=limiter),
        State(state="Paused"),
        SnapshotCreate(snapshot_path="state", mem_file_path="memory"),
    ):
        fresh.client.send(request)
    with bare(binary) as second:
        second.client.send(
            SnapshotLoad(
                snapshot_path=str(fresh.directory / "state"),
                mem_backend=MemoryBackend(backend_type="File", backend_path=str(fresh.directory / "memory")),
                network_overrides=[NetworkOverride(iface_id="eth0", host_dev_name=other)],
            )
        )
        assert second.client.get("/", InstanceInfo).state == "Paused"


def test_many_requests_at_once_are_carried_out_in_their_order(fresh: Bare) -> None:
    _furnish(fresh.directory)
    drives = [Drive(drive_id=f"disk{number}", path_on_host="disk.img", is_root_device=False, is_read_only=True) for number in range(20)]
    sizes = [MachineConfig(vcpu_count=1, mem_size_mib=size) for size in (64, 128, 96)]
    with pytest.raises(VMMError, match=r"refused PUT /boot-source: .*No such file"):
        fresh.client.send_all([*drives, *sizes, BootSource(kernel_image_path="nowhere")])
    seen = fresh.client.get("/vm/config", dict[str, Any])
    assert [drive["drive_id"] for drive in seen["drives"]] == [drive.drive_id for drive in drives]
    assert seen["machine-config"]["mem_size_mib"] == 96


def test_a_refusal_has_firecrackers_own_words(fresh: Bare) -> None:
    with pytest.raises(VMMError, match="Firecracker refused PUT /actions: ") as refused:
        fresh.client.send(Action(action_type="InstanceStart"))
    assert "without kernel configuration" in refused.value.detail["fault_message"]
    assert refused.value.detail["status"] == 400
    assert fresh.client.get("/", InstanceInfo).state == "Not started"


def test_every_body_is_tried_here() -> None:
    """A class that is added without a test of it is noticed."""
    tried = set(globals()) | {"VsockOverride"}  # 1.16 and later
    named = {name for name, value in vars(requests).items() if isinstance(value, type) and issubclass(value, requests.Body)}
    assert named - {"Body", "Request"} <= tried


@pytest.mark.parametrize(
    ("version", "expected"),
    [((1, 8, 0), 2), ((1, 10, 0), 3), ((1, 10, 1), 4), ((1, 12, 1), 6), ((1, 14, 4), 8), ((1, 16, 1), 10), ((1, 17, 0), None)],
)
def test_versions_have_their_snapshot_format(version: tuple[int, int, int], expected: int | None) -> None:
    assert snapshot_format(version) == expected


def test_features_come_with_versions() -> None:
    assert Feature.NETWORK_OVERRIDES.available((1, 12, 1))
    assert not Feature.VSOCK_OVERRIDE.available((1, 15, 1))
    with pytest.raises(Exception, match=r"Firecracker 1\.12\.1 lacks another vsock socket.*\n.*1\.16"):
        Feature.VSOCK_OVERRIDE.require((1, 12, 1))
