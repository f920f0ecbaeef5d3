"""Real machines: their VMMs are confined, say so, and leave nothing, however they or what confines them end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine import ownership
from bandsox.errors import InvalidRequest, RequirementNotMet
from bandsox.process import ProcessId
from bandsox.settings import Layout
from bandsox.vmm.confinement import user_of
from bandsox.vmm.room import PROGRAMS
from tests.confinement.links import leads_to_programs
from tests.engine.leaks import Traces
from tests.users import ordinary_user, script

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


@pytest.fixture(scope="module")
def vmm(vm: MicroVM) -> ProcessId:
    if os.geteuid() != 0:
        pytest.skip("only root's machines have users of their own")
    assert vm.process is not None
    return vm.process


def test_a_machine_says_how_it_is_confined(vm: MicroVM, vmm: ProcessId) -> None:
    assert vm.info()["confinement"] == "jail"
    assert "bubblewrap" in vm.info()["confinement_reason"]


def test_its_vmm_has_namespaces_of_its_own(vmm: ProcessId) -> None:
    for kind in NAMESPACES:
        assert Path(f"/proc/{vmm.pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink(), kind


def test_its_vmm_has_a_user_of_its_own_and_no_privileges(vm: MicroVM, vmm: ProcessId) -> None:
    status, own = status_of(vmm.pid), str(user_of(vm.vm_id))
    assert status["Uid"].split() == status["Gid"].split() == [own] * 4
    assert status["Groups"].split() == []
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_its_vmm_sees_its_programs_and_its_own_files(bandsox: BandSox, vm: MicroVM, vmm: ProcessId) -> None:
    root = Path(f"/proc/{vmm.pid}/root")
    seen = {f"/{path.relative_to(root)}" for path in root.rglob("*") if not path.is_dir()}
    storage = str(bandsox.storage_dir)
    own = {path.removeprefix(storage) for path in seen if path.startswith(storage)}
    shared = {path for path in own if not path.startswith("/vms/")}
    assert own - shared == {f"/vms/{vm.vm_id}/disk.img", f"/vms/{vm.vm_id}/console.log"}
    memory = {path for path in shared if path.startswith("/boots/")}  # of the warm boot that it goes on from, if there was one
    assert {Path(path).name for path in memory} <= {"memory"}
    assert {path.split("/")[1] for path in shared - memory} == {"kernels", "images"}
    assert len(shared - memory) == 3  # kernel, initramfs, root file system
    programs = {path.removeprefix(PROGRAMS) for path in seen if path.startswith(f"{PROGRAMS}/")}
    assert {path for path in programs if "/bin/" in path} == {"/usr/bin/qemu-system-x86_64", "/usr/bin/setpriv"}
    assert {path.split("/")[1] for path in programs} <= {"etc", "lib", "lib64", "usr"}
    links = {path for path in seen if leads_to_programs(root / path.removeprefix("/"))}
    rest = seen - {f"{storage}{path}" for path in own} - {f"{PROGRAMS}{path}" for path in programs} - links
    library = {path for path in rest if memory and path.startswith("/run/")}  # by which it maps that memory
    assert {Path(path).suffix for path in library} <= {".so"}
    assert rest - library == {"/dev/null", "/dev/urandom"}


def test_another_machine_has_another_user(bandsox: BandSox, vm: MicroVM, vmm: ProcessId) -> None:
    with bandsox.create_vm() as other:
        assert other.process is not None
        assert status_of(other.process.pid)["Uid"] != status_of(vmm.pid)["Uid"]


def test_what_confines_a_vmm_ends_with_it(bandsox: BandSox, vmm: ProcessId) -> None:
    import asyncio

    with bandsox.create_vm() as other:
        assert other.process is not None
        keeper = other.process.keeper()
        assert keeper is not None
        asyncio.run(ownership.end(other.process))
        assert not keeper.is_alive()
        assert other.status().value == "dead"


def test_a_machine_survives_the_end_of_what_confines_it_and_leaves_nothing(bandsox: BandSox, vmm: ProcessId) -> None:
    layout = Layout.open(bandsox.storage_dir)
    before = Traces.of(layout)
    with bandsox.create_vm() as other:
        assert other.process is not None
        keeper = other.process.keeper()
        assert keeper is not None
        keeper.signal(signal.SIGKILL)
        assert other.run(["echo", "here"]).stdout == b"here\n"
        other.stop()
        assert not other.process
        other.start()
        assert other.run(["echo", "again"]).stdout == b"again\n"
    assert Traces.of(layout).changes_since(before) == {}


def test_a_machine_without_confinement_says_so(bandsox: BandSox) -> None:
    with bandsox.create_vm(confinement="none") as machine:
        assert machine.info()["confinement"] == "none"
        assert machine.process is not None
        assert status_of(machine.process.pid)["Uid"].split()[0] == str(os.geteuid())
        assert machine.run(["true"]).exit_code == 0


@pytest.fixture
def without_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for tool in ("qemu-system-x86_64", "prlimit", "setpriv", "mkfs.ext4"):
        place = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")
        assert place is not None
        (tmp_path / tool).symlink_to(place)
    monkeypatch.setenv("PATH", str(tmp_path))
    yield


@pytest.mark.usefixtures("without_bubblewrap")
def test_without_bubblewrap_a_machine_runs_and_says_that_it_is_not_confined(storage: Path) -> None:
    with BandSox(storage) as bandsox, bandsox.create_vm() as machine:
        assert machine.info()["confinement"] == "none"
        assert machine.info()["confinement_reason"] == "bubblewrap is not installed"
        (finding,) = [each for each in bandsox.doctor() if each.subject == "confinement"]
        assert (finding.state, finding.remedy) == ("note", "apt-get install bubblewrap")


@pytest.mark.usefixtures("without_bubblewrap")
@pytest.mark.parametrize("demand", ["namespaces", "jail"])
def test_without_bubblewrap_a_demand_is_refused(storage: Path, demand: str) -> None:
    with BandSox(storage, confinement=demand) as bandsox, pytest.raises(RequirementNotMet) as raised:
        bandsox.create_vm()
    assert raised.value.remedy == "apt-get install bubblewrap"


def test_the_demand_can_come_from_the_environment(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_CONFINEMENT", "wall")
    with pytest.raises(InvalidRequest, match="wall"):
        BandSox(storage)


def test_the_command_line_asks_for_the_jail(storage: Path, vmm: ProcessId) -> None:
    def bandsox(*words: str) -> dict[str, str]:
        done = subprocess.run([sys.executable, "-m", "bandsox", "--json", *words], capture_output=True, check=True)
        return json.loads(done.stdout) if done.stdout else {}

    created = bandsox("create", "--jailer", "python:3-alpine")
    try:
        assert created["confinement"] == "jail"
    finally:
        bandsox("vm", "delete", created["id"])


def test_an_ordinary_users_vmm_is_confined_by_namespaces() -> None:
    user = ordinary_user()
    done = script(
        """
        import json, os
        from pathlib import Path
        from bandsox import BandSox
        from bandsox.errors import RequirementNotMet
        with BandSox() as bandsox, bandsox.create_vm() as vm:
            process = Path(f"/proc/{vm.process.pid}")
            kinds = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
            refused = ""
            try:
                bandsox.create_vm(confinement="jail")
            except RequirementNotMet as error:
                refused = error.cause
            print(json.dumps({
                "info": vm.info()["confinement"],
                "shared": [kind for kind in kinds if (process / "ns" / kind).readlink() == Path("/proc/self/ns", kind).readlink()],
                "status": (process / "status").read_text(),
                "map": (process / "uid_map").read_text().split(),
                "output": vm.exec_python_capture("print(6 * 7)")["stdout"],
                "refused": refused,
            }))
        """
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    assert found["info"] == "namespaces"
    assert found["shared"] == []
    assert found["map"] == [str(user.pw_uid), str(user.pw_uid), "1"]
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert found["output"] == "42\n"
    assert "only root" in found["refused"]
