"""Control groups that bound VMMs, on a host that has them: a machine, whose kernel has cgroup v2 and nobody else who uses it.

The library and the host's bubblewrap are brought into that machine, and run there as they are.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox
from bandsox.vmm import programs
from tests.users import CHECKOUT

_IN_THE_MACHINE = """
    import asyncio, json, os, signal
    from pathlib import Path
    from bandsox.models import Confinement, RateLimits
    from bandsox.vmm.cgroup import Groups, Limits
    from bandsox.vmm.confinement import Confiner
    from bandsox.vmm.room import Room

    place = Path("/srv/place")
    for name in ("machine", "runtime", "few"):
        (place / name).mkdir(parents=True)
    confiner = Confiner(place / "programs", place / "runtime")
    groups = Path("/sys/fs/cgroup/bandsox-vmms/runtime")
    group = groups / "0123456789abcdef"

    def launched(*words):
        room = Room(group.name, place / "machine", Path(words[0]), (), (), (), (), memory_mib=2048, threads=16, resident_mib=64, cpus=1)
        with (place / "output").open("wb") as output:
            return confiner.launch(words, room, Confinement.JAIL, output=output.fileno(), errors=output.fileno())

    def content(name):
        return (group / name).read_text().strip()

    found = {"reason": confiner.offer().reason}

    process = launched("/usr/bin/sleep", "1000")
    found["limits"] = {name: content(name) for name in ("cpu.max", "memory.max", "memory.oom.group", "pids.max")}
    found["members"] = [content("cgroup.procs"), str(process.pid)]
    (groups / "fedcba9876543210").mkdir()
    confiner.sweep()
    found["swept"] = [(groups / "fedcba9876543210").exists(), group.exists()]
    process.signal(signal.SIGKILL)
    asyncio.run(process.wait())
    confiner.forget(group.name)
    found["forgotten"] = group.exists()

    asyncio.run(launched("/usr/bin/dd", "if=/dev/urandom", "of=/dev/null", "bs=200M", "count=1").wait())
    found["events"] = dict(line.split() for line in content("memory.events").splitlines())
    found["peak"] = int(content("memory.peak"))
    confiner.forget(group.name)

    disk = Path("/mnt")
    Groups("disks").make("machine", Limits(1, 64, 16, disk, RateLimits(bandwidth=10_000_000, operations=500)))
    found["io.max"] = Path("/sys/fs/cgroup/bandsox-vmms/disks/machine/io.max").read_text().split()
    Groups("disks").remove("machine")
    found["device"] = f"{os.major(disk.stat().st_dev)}:{os.minor(disk.stat().st_dev)}"

    (place / "few" / "cgroup.controllers").write_text("cpu memory pids")
    found["obstacles"] = [Groups("x", place).obstacle(), Groups("x", place / "few").obstacle()]
    found["left"] = [str(path) for path in groups.parent.rglob("*") if path.is_dir()]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(bandsox: BandSox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the script found in a machine that is a host."""
    wrapper = shutil.which("bwrap")
    assert wrapper is not None
    tree = programs.tree(tmp_path_factory.mktemp("programs"), [Path(wrapper)], ())
    loader = next(tree.rglob("ld-linux*"))
    libraries = ":".join({f"/srv/bwrap/{path.parent.relative_to(tree)}" for path in tree.rglob("*.so*")})
    words = f"/srv/bwrap/{loader.relative_to(tree)} --library-path {libraries} /srv/bwrap{wrapper}"
    with bandsox.create_vm(mem_mib=512) as vm:
        vm.upload_folder(tree, "/srv/bwrap")
        for package in (CHECKOUT / "bandsox", *map(_place, ("anyio", "idna"))):
            vm.upload_folder(package, f"/srv/library/{package.name}", skip_pattern=["agent", "*.pyc"])
        vm.upload_file(_place("typing_extensions"), "/srv/library/typing_extensions.py")
        vm.write_bytes("/usr/local/bin/bwrap", f'#!/bin/sh\nexec {words} "$@"\n'.encode())
        assert vm.run("chmod 0755 /usr/local/bin/bwrap && mount -t squashfs -o ro /dev/vda /mnt").exit_code == 0
        done = vm.run(["python3", "-c", textwrap.dedent(_IN_THE_MACHINE)], env={"PYTHONPATH": "/srv/library"}, timeout=400)
        assert done.exit_code == 0, done.stderr.decode()
        yield json.loads(done.stdout)


def _place(module: str) -> Path:
    """Where a module that needs nothing compiled is."""
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    place = Path(found.origin)
    return place.parent if place.name == "__init__.py" else place


def test_a_vmm_is_in_a_group_with_its_limits(found: dict[str, Any]) -> None:
    assert "bounded by a control group" in found["reason"]
    assert found["limits"] == {"cpu.max": "100000 100000", "memory.max": str(64 << 20), "memory.oom.group": "1", "pids.max": "16"}
    member, vmm = found["members"]
    assert member == vmm


def test_a_vmm_that_takes_more_memory_is_ended(found: dict[str, Any]) -> None:
    assert int(found["events"]["oom_kill"]) >= 1
    assert found["peak"] <= 64 << 20


def test_limits_of_a_disk_hold_for_the_device_below_its_files(found: dict[str, Any]) -> None:
    device, *limits = found["io.max"]
    assert device == found["device"]
    assert set(limits) == {"rbps=10000000", "wbps=10000000", "riops=500", "wiops=500"}


def test_a_group_that_a_killed_process_left_is_swept_up_and_no_other(found: dict[str, Any]) -> None:
    assert found["swept"] == [False, True]


def test_nothing_is_left_of_a_vmm_that_ended(found: dict[str, Any]) -> None:
    assert not found["forgotten"]
    assert set(found["left"]) == {"/sys/fs/cgroup/bandsox-vmms/runtime", "/sys/fs/cgroup/bandsox-vmms/disks"}


def test_a_host_without_groups_says_so(found: dict[str, Any]) -> None:
    assert found["obstacles"] == [
        "this host has no unified control groups (cgroup v2)",
        "this host's control groups do not limit io",
    ]
