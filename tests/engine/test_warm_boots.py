"""Machines that go on from the first of their shape, saved in the middle of its boot: alike in nothing that should be their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine import warmboots
from bandsox.errors import InvalidRequest
from bandsox.models import Progress
from bandsox.settings import Layout
from bandsox.store.identity import identity
from tests.conftest import PREPARED, share
from tests.engine.leaks import Traces
from tests.images.tars import Tar

SHAPE: dict[str, Any] = {"vmm": "qemu", "mem_mib": 192, "disk_size_mib": 64, "enable_networking": False}

DRAW = """
import json, os, secrets, ssl, time, uuid
boot = open("/proc/sys/kernel/random/boot_id").read()
print(json.dumps([[os.getrandom(16).hex(), secrets.token_hex(16), uuid.uuid4().hex, ssl.RAND_bytes(16).hex(), boot], time.time()]))
"""

CLOSE = 0.05
"""How near a machine's clock has to be to the host's, in seconds; besides what the answer takes."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BandSox]:
    """A storage directory in which nothing has booted."""
    place = tmp_path_factory.mktemp("warm") / "storage"
    place.mkdir(mode=0o700)
    share(PREPARED, place)
    with BandSox(place) as bandsox:
        yield bandsox


@pytest.fixture
def warm(own: BandSox) -> Iterator[Path]:
    """The directory of a warm boot of `SHAPE`, the only one there is."""
    boots = Layout.open(own.storage_dir).boots
    with own.create_vm(**SHAPE) as vm:
        name = _goes_on_from(vm)
    if name is None:  # now there is one
        with own.create_vm(**SHAPE) as vm:
            name = _goes_on_from(vm)
    assert name is not None
    for other in boots.iterdir():
        if other.name != name:
            shutil.rmtree(other)
    yield boots / name


def _goes_on_from(vm: MicroVM) -> str | None:
    """The name of the warm boot whose memory a machine maps."""
    found = re.search(rb"/boots/([0-9a-f]{32})/memory", Path(f"/proc/{vm.process.pid}/cmdline").read_bytes())
    return found[1].decode() if found else None


def _boots(own: BandSox) -> list[str]:
    return sorted(entry.name for entry in Layout.open(own.storage_dir).boots.iterdir())


def test_the_second_of_a_shape_goes_on_from_the_first(own: BandSox, warm: Path) -> None:
    with own.create_vm(**SHAPE) as vm:
        assert _goes_on_from(vm) == warm.name
        name = vm.run("cat /proc/sys/kernel/hostname").text
        assert name == vm.run("cat /etc/hostname").text != "bandsox\n"
        stages = re.findall(r"stage: (\w+)", vm.console())
    assert stages == ["modules", "mounts", "link", "root", "overlay", "switch", "ready"]


def test_each_has_a_network_of_its_own(own: BandSox) -> None:
    networked = {**SHAPE, "enable_networking": True}
    with own.create_vm(**networked) as first, own.create_vm(**networked) as second, own.create_vm(**networked) as third:
        assert _goes_on_from(second) is not None and _goes_on_from(second) == _goes_on_from(third)
        for vm in (first, second, third):
            config = vm.info()["network_config"]
            assert vm.run("cat /sys/class/net/eth0/address").text.strip() == config["guest_mac"]
            assert config["guest_ip"] in vm.run("cat /proc/net/fib_trie").text
            addresses = {line.split()[0] for line in vm.run("grep eth0 /proc/net/if_inet6").text.splitlines()}
            assert addresses == {ip_address(config["guest_ipv6"]).packed.hex(), ip_address("fe80::2").packed.hex()}
            if config["ipv6"]:
                assert f"{ip_address('fe80::1').packed.hex()} 00000400" in vm.run("grep ^0*.00.*eth0 /proc/net/ipv6_route").text
        assert len({vm.info()["network_config"]["guest_mac"] for vm in (first, second, third)}) == 3


def test_another_shape_does_not(own: BandSox, warm: Path) -> None:
    with own.create_vm(**{**SHAPE, "mem_mib": 224}) as vm:
        assert _goes_on_from(vm) is None
    assert len(_boots(own)) == 2
    with own.create_vm(**SHAPE, boot_args="quiet") as vm:
        assert _goes_on_from(vm) is None
    assert len(_boots(own)) == 3


def test_whose_boot_is_to_be_seen_boots_from_the_beginning(own: BandSox, warm: Path) -> None:
    with own.create_vm(**SHAPE, debug_console=True) as vm:
        assert _goes_on_from(vm) is None
        assert "Linux version" in vm.console()
    assert _boots(own) == [warm.name]


def test_machines_of_one_warm_boot_have_no_number_in_common_and_know_the_time(own: BandSox, warm: Path) -> None:
    drawn: list[str] = []
    for _ in range(5):
        with own.create_vm(**SHAPE) as vm:
            assert _goes_on_from(vm) == warm.name
            before = time.time()
            numbers, there = json.loads(vm.run(["python3", "-c", DRAW]).stdout)
            assert before - CLOSE <= there <= time.time() + CLOSE
            drawn += numbers
    assert len(set(drawn)) == len(drawn) == 5 * 5


def test_image_disk_and_identity_are_each_machines_own(own: BandSox, warm: Path, tmp_path: Path) -> None:
    image = tmp_path / "small.tar"
    image.write_bytes(Tar().directory("etc").file("etc/marker", b"another image").bytes())
    with own.create_vm(**SHAPE) as first, own.create_vm(f"rootfs:{image}", **{**SHAPE, "disk_size_mib": 128}) as second:
        assert _goes_on_from(first) == _goes_on_from(second) == warm.name
        assert second.read_bytes("/etc/marker") == b"another image"
        assert first.run("test -e /etc/marker").exit_code == 1
        first.write_text("/own", "first")
        with pytest.raises(FileNotFoundError):
            second.read_bytes("/own")
        assert first.read_bytes("/etc/hostname") != second.read_bytes("/etc/hostname")
        sizes = [machine.info()["disk_size_mib"] for machine in (first, second)]
        assert sizes == [64, 128]
        assert first.metrics().disk_total < second.metrics().disk_total


def test_a_machine_that_went_on_starts_again_and_forks(own: BandSox, warm: Path) -> None:
    with own.create_vm(**SHAPE) as vm:
        vm.write_text("/root/kept", "kept")
        vm.run("sync")
        (clone,) = vm.fork()
        assert clone.read_bytes("/root/kept") == b"kept"
        clone.delete()
        vm.stop()
        vm.start()
        assert _goes_on_from(vm) == warm.name
        assert vm.read_bytes("/root/kept") == b"kept"


def test_many_at_once_make_one_and_go_on_from_one(own: BandSox, warm: Path) -> None:
    shutil.rmtree(warm)
    for expected in ({None}, {warm.name}):
        with ThreadPoolExecutor(6) as pool:
            machines = list(pool.map(lambda _: own.create_vm(**SHAPE), range(6)))
        assert {_goes_on_from(vm) for vm in machines} == expected
        assert all(vm.run("true").exit_code == 0 for vm in machines)
        for vm in machines:
            vm.delete()
        assert _boots(own) == [warm.name]


def test_it_can_be_removed_while_machines_run(own: BandSox, warm: Path) -> None:
    with own.create_vm(**SHAPE) as vm:
        shutil.rmtree(warm)
        assert vm.run(["python3", "-c", "print(sum(bytearray(50 << 20)))"]).text == "0\n"


def test_it_can_be_turned_off(own: BandSox, warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_WARM_BOOT", "0")
    with own.create_vm(**SHAPE) as vm:
        assert _goes_on_from(vm) is None
    shutil.rmtree(warm)
    own.create_vm(**SHAPE).delete()
    assert _boots(own) == []
    monkeypatch.setenv("BANDSOX_WARM_BOOT", "perhaps")
    with pytest.raises(InvalidRequest, match="perhaps"):
        own.create_vm(**SHAPE)


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────────


def _changed(warm: Path) -> None:
    (warm / "memory").chmod(0o600)
    with (warm / "memory").open("r+b") as memory:
        memory.seek(1 << 20)
        memory.write(os.urandom(1 << 20))


def _cut(warm: Path) -> None:
    (warm / "state").chmod(0o600)
    os.truncate(warm / "state", 1000)


def _without_manifest(warm: Path) -> None:
    (warm / "manifest.json").unlink()


def _nonsense(warm: Path) -> None:
    (warm / "manifest.json").write_text("{}")


@pytest.mark.parametrize("spoil", [_changed, _cut, _without_manifest, _nonsense])
def test_what_is_not_as_it_was_saved_is_not_used_and_made_anew(own: BandSox, warm: Path, spoil: Callable[[Path], None]) -> None:
    spoil(warm)
    with own.create_vm(**SHAPE) as vm:
        assert _goes_on_from(vm) is None
    with own.create_vm(**SHAPE) as vm:
        assert _goes_on_from(vm) == warm.name


def _vouch_for(warm: Path) -> None:
    """Have what was spoilt be taken for what was saved."""
    manifest = json.loads((warm / "manifest.json").read_text())
    manifest["files"] = {name: identity(warm / name) for name in manifest["files"]}
    (warm / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("file", ["state", "memory"])
def test_a_machine_that_does_not_go_on_boots_from_the_beginning(own: BandSox, warm: Path, file: str) -> None:
    size = (warm / file).stat().st_size
    (warm / file).chmod(0o600)
    os.truncate(warm / file, 0)
    os.truncate(warm / file, size)  # all zeros: a state that QEMU refuses, a memory in which the processor faults without end and resets
    _vouch_for(warm)
    layout, steps = Layout.open(own.storage_dir), list[Progress]()
    before = Traces.of(layout)
    with own.create_vm(**SHAPE, progress=steps.append) as vm:
        assert _goes_on_from(vm) is None
        assert vm.run("true").exit_code == 0
    assert any("a warm boot was of no use" in step.label for step in steps)
    assert not warm.exists()
    assert Traces.of(layout).changes_since(before) == {}


_MAKER = """
    import os, signal, sys
    from bandsox import BandSox
    from bandsox.engine import warmboots
    from bandsox.guest import GuestClient
    from bandsox.vmm.qemu import Qemu

    stage = sys.argv[2]

    def die(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGKILL)

    def after(method):
        async def dies(*arguments, **options):
            await method(*arguments, **options)
            die()
        return dies

    if stage == "prepared":
        GuestClient.prepare = after(GuestClient.prepare)
    elif stage == "paused":
        Qemu.pause = after(Qemu.pause)
    elif stage == "saved":
        Qemu.save = after(Qemu.save)
    elif stage == "settled":
        Qemu.settle = after(Qemu.settle)
    elif stage == "placing":
        warmboots.write_atomically = die
    BandSox(sys.argv[1]).create_vm(vmm="qemu", mem_mib=192, disk_size_mib=64, enable_networking=False)
"""


@pytest.mark.parametrize("stage", ["prepared", "paused", "saved", "settled", "placing"])
def test_whoever_is_killed_while_he_makes_one_leaves_none(own: BandSox, warm: Path, stage: str) -> None:
    shutil.rmtree(warm)
    own.cleanup()
    layout = Layout.open(own.storage_dir)
    before = Traces.of(layout)
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(_MAKER), str(layout.root), stage], check=False)
    assert ended.returncode == -signal.SIGKILL
    own.cleanup()
    assert Traces.of(layout).changes_since(before) == {}
    assert _boots(own) == []
    own.create_vm(**SHAPE).delete()
    assert _boots(own) == [warm.name]


def test_a_machine_boots_where_there_is_no_room_for_one(own: BandSox, warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(warm)
    monkeypatch.setattr(warmboots, "LEAST_FREE", 1 << 60)
    with own.create_vm(**SHAPE) as vm:
        assert vm.run("true").exit_code == 0
    assert _boots(own) == []


def test_those_that_were_not_used_for_longest_make_room(own: BandSox, warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmboots, "MOST", 2)
    own.create_vm(**{**SHAPE, "mem_mib": 200}).delete()
    (second,) = set(_boots(own)) - {warm.name}
    own.create_vm(**SHAPE).delete()  # uses the first again
    own.create_vm(**{**SHAPE, "mem_mib": 208}).delete()
    assert warm.name in _boots(own)
    assert second not in _boots(own)
    assert len(_boots(own)) == 2
