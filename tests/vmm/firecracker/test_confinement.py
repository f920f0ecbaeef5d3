"""What a confined Firecracker is to the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandsox.models import Confinement
from bandsox.vmm.firecracker import Firecracker
from bandsox.vmm.room import PROGRAMS
from tests.confinement.links import leads_to_programs
from tests.vmm.firecracker.conftest import MakeSpec
from tests.vmm.firecracker.test_vmm import started

pytestmark = pytest.mark.anyio


@pytest.fixture
def confinement(confinement: Confinement) -> Confinement:
    if confinement is Confinement.NONE:
        pytest.skip("there is nothing to see without confinement")
    return confinement


async def test_it_has_namespaces_filters_and_no_privileges(firecracker: Firecracker, spec: MakeSpec) -> None:
    async with started(firecracker, spec("halt")) as process:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert Path(f"/proc/{process.pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink(), kind
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["Seccomp_filters"]) >= 2  # the room's, and Firecracker's own


async def test_it_sees_its_program_and_its_own_files(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec("halt")
    async with started(firecracker, machine) as process:
        root = Path(f"/proc/{process.pid}/root")
        seen = {Path("/", path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
        links = {path for path in seen if leads_to_programs(root / path.relative_to("/"))}
    files = {machine.kernel, machine.initramfs, *(disk.path for disk in machine.disks)}
    own = {path for path in seen if {machine.directory, machine.sockets} & set(path.parents)} - files
    assert {path.relative_to(machine.directory) for path in own if machine.directory in path.parents} == {
        Path(name) for name in ("run", "vmlinux", "initramfs", "disk0", "out/metrics")
    }
    assert {path.name for path in own if machine.sockets in path.parents} == {"firecracker.sock", "vsock.sock"}
    programs = {path for path in seen if Path(PROGRAMS) in path.parents}
    assert {path.name for path in programs if "bin" in path.parts or path.name == "firecracker"} == {"firecracker", "setpriv"}
    rest = seen - files - own - programs - links
    assert rest == {Path("/dev") / name for name in ("null", "urandom", "kvm")}
