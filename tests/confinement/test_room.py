"""What a VMM that its guest has taken over could see and reach: a program tries it all, in the very room that VMMs get.

The same program runs as an ordinary user without any room, which shows that the attempts would succeed if the room did not stop them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bandsox.vmm.confinement import free_user, user_of
from bandsox.vmm.room import PROGRAMS
from tests.users import CHECKOUT, as_user, ordinary_user, script

MEMORY_MIB, THREADS = 2048, 40

_LAUNCH = f"""
    import asyncio, json, os, sys
    from pathlib import Path
    from bandsox.engine import ownership
    from bandsox.models import Confinement
    from bandsox.engine.rooms import network_programs
    from bandsox.network.networks import Networks
    from bandsox.vmm.confinement import Confiner
    from bandsox.vmm.room import Room

    place = Path(os.environ["PLACE"])
    directory = place / "machine"
    directory.mkdir()
    (directory / "secret").write_text("of the host")
    (place / "kernel").write_text("shared")
    (directory / "disk").write_text("the machine's own")
    probe = place / "probe"
    confiner = Confiner(place / "programs", place)
    confinement = Confinement.JAIL if os.geteuid() == 0 else Confinement.NAMESPACES
    assert confiner.offer().confinement is confinement
    owner, options = "0123456789abcdef", {{"largest_file": 1 << 40}}
    files = [place / "kernel"], [directory / "disk"], []
    namespace = None
    if os.environ["NETWORK"]:
        networks = Networks(place / "leases", network_programs, place / "cni")
        options["user"] = confiner.user(owner, confinement)
        _, namespace = networks.make(directory, owner=options["user"])
        options.update(network=namespace.descriptor, users=namespace.users, local_only=True)
        files = *files[:2], [Path("/dev/net/tun")]
    room = Room(owner, directory, probe, (), *files, {MEMORY_MIB}, {THREADS}, 1024, 1, **options)
    with (place / "output").open("wb") as output:
        log = output.fileno()
        vmm = confiner.launch([str(probe), os.environ["TARGETS"]], room, confinement, output=log, errors=log)
    if namespace is not None:
        namespace.bind(vmm)
        namespace.complete()
        assert os.fstat(namespace.descriptor).st_ino != os.stat("/proc/self/ns/net").st_ino
        namespace.close()
    asyncio.run(ownership.wait(vmm))
    print(confinement.name)
"""


@dataclass(frozen=True)
class Findings:
    """What came of the attempts."""

    confinement: str
    results: dict[str, str]
    afterwards: str
    place: Path
    network: bool

    def __getitem__(self, attempt: str) -> str:
        return self.results[attempt]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, as everybody may run it."""
    go = shutil.which("go")
    assert go is not None, "the tests need Go; `make setup-test` brings it"
    binary = tmp_path_factory.mktemp("probe") / "probe"
    source = Path(__file__).parent / "probe" / "main.go"
    subprocess.run([go, "build", "-o", binary, source], env={**os.environ, "CGO_ENABLED": "0"}, cwd=CHECKOUT, check=True)
    return binary


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Any]]:
    """Servers of the host that greet whoever comes, files and a process of it."""
    ordinary_user()
    path = Path(tempfile.mkdtemp()) / "unix"
    abstract = f"bandsox-test-{os.getpid()}"
    listeners = [socket.create_server(("127.0.0.1", 0))]
    for address in (str(path), f"\0{abstract}"):
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(address)
        listeners[-1].listen(16)
    path.chmod(0o666)
    path.parent.chmod(0o755)
    sleeper = subprocess.Popen(["setpriv", "--reuid=bandsox-test", "sleep", "1000"])
    files = ["/etc/passwd", "/etc/hostname", "/root", "/var", "/proc/self/status", "/proc/1/cmdline", "/sys/kernel"]
    yield {
        "files": [*files, "/dev/kvm", "/dev/net/tun", "/dev/mem", "/usr/bin/sh", "/bin/sh"],
        "tcp": f"127.0.0.1:{listeners[0].getsockname()[1]}",
        "unix": str(path),
        "abstract": abstract,
        "pid": sleeper.pid,
        "bytes": 4 << 30,
        "threads": 0,
    }
    sleeper.kill()
    sleeper.wait()
    for listener in listeners:
        listener.close()
    shutil.rmtree(path.parent)


def _home_of(user: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    if user:
        account = ordinary_user()
        place = Path(account.pw_dir) / f"place-{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        os.chown(place, account.pw_uid, account.pw_gid)
    return place


@pytest.fixture(scope="module", params=["as root", "as an ordinary user", "as root with a network", "as an ordinary user with a network"])
def inside(
    request: pytest.FixtureRequest, probe: Path, targets: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Findings]:
    """What the program found in its room."""
    user, network = "ordinary" in request.param, "network" in request.param
    place = _home_of(user, tmp_path_factory)
    shutil.copy(probe, place / "probe")
    wanted = {**targets, "files": [*targets["files"], *map(str, (place / "machine/secret", place, place / "machine"))], "threads": 200}
    environment = {"PLACE": str(place), "TARGETS": json.dumps(wanted), "NETWORK": "yes" if network else ""}
    done = script(_LAUNCH, **environment) if user else _as_root(environment)
    assert done.returncode == 0, done.stderr
    output = (place / "output").read_text()
    first, _, rest = output.partition("\n")
    assert first.startswith("{"), output
    yield Findings(done.stdout.strip(), json.loads(first), rest, place, network)
    shutil.rmtree(place)


def _as_root(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    import sys
    import textwrap

    command = [sys.executable, "-c", textwrap.dedent(_LAUNCH)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def outside(probe: Path, targets: dict[str, Any]) -> dict[str, str]:
    """What the program finds as an ordinary user without a room."""
    place = Path(ordinary_user().pw_dir) / f"probe-{os.getpid()}"
    shutil.copy(probe, place)
    try:
        done = as_user([str(place), json.dumps(targets)])
    finally:
        place.unlink()
    return json.loads(done.stdout)


def test_root_gives_a_user_of_its_own_and_others_give_namespaces(inside: Findings) -> None:
    expected = {"JAIL": user_of("0123456789abcdef"), "NAMESPACES": ordinary_user().pw_uid}
    assert inside["uid"] == f"{expected[inside.confinement]} {expected[inside.confinement]}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives users of their own")
def test_a_user_who_has_processes_is_not_given_again() -> None:
    machine = "fedcba9876543210"
    assert free_user(machine) == user_of(machine)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=user_of(machine)):
        assert free_user(machine) not in {user_of(machine), 0}
    assert free_user(machine) == user_of(machine)


def test_nothing_is_visible_but_programs_and_the_rooms_files(inside: Findings) -> None:
    (tree,) = [found for found in (inside.place / "programs").iterdir() if (found / str(inside.place / "probe").lstrip("/")).exists()]
    programs = {f"/{path.relative_to(tree)}" for path in tree.rglob("*") if path.is_file()}
    own = {"/dev/net/tun"} if inside.network else set()
    own |= {"/dev/null", "/dev/urandom", str(inside.place / "kernel"), str(inside.place / "machine/disk")}
    seen, shown = set(inside["see"].splitlines()), {f"{PROGRAMS}{path}" for path in programs}
    links = seen - shown - own
    assert shown | own <= seen
    assert all(any(f"{path}/".startswith(f"{link}/") for path in programs) for link in links), links
    assert {Path(path).name for path in programs if "/bin/" in path} == ({"setpriv"} if inside.confinement == "JAIL" else set())


def test_none_of_the_hosts_files_can_be_opened(inside: Findings, targets: dict[str, Any]) -> None:
    hidden = {*targets["files"], str(inside.place / "machine/secret")} - ({"/dev/net/tun"} if inside.network else set())
    for path in hidden:
        assert inside[f"read {path}"].endswith("no such file or directory"), path


def test_nothing_can_be_created_anywhere(inside: Findings) -> None:
    for path in ("/var", "/root", str(inside.place), str(inside.place / "machine")):
        assert inside[f"write {path}"].startswith("error"), path


def test_it_is_alone_among_processes(inside: Findings) -> None:
    assert inside["pid"] == "1 of 0"
    assert inside["signal a process of the host"] == "error: no such process"


def test_no_descriptor_of_the_launcher_is_open(inside: Findings) -> None:
    """Those that are belong to the Go runtime of the program: an epoll and an eventfd."""
    assert len(inside["descriptors"].split()) <= 2


def test_there_are_no_privileges_and_no_way_to_them(inside: Findings) -> None:
    assert inside["bounding set"] == ""
    assert inside["no new privileges"] == "1"
    assert inside["seccomp"] == "2"
    assert inside["become root"].startswith("error")
    assert inside["make a device"].startswith("error")


def test_no_network_is_reached(inside: Findings) -> None:
    """Also where there is one around it: the only way into that is the guest's, the TAP device."""
    for attempt in ("reach the host over TCP", "reach another host"):
        assert inside[attempt].startswith("error"), attempt
        assert inside[attempt].endswith("operation not permitted") is inside.network, attempt


def test_no_socket_of_the_host_is_reached(inside: Findings) -> None:
    assert inside["reach a Unix socket of the host"].endswith("no such file or directory")
    assert inside["reach an abstract socket of the host"].endswith("connection refused")


REFUSED = [
    "trace a process of the host",
    "read a process's memory",
    "make a user namespace",
    "make a mount namespace",
    "enter a namespace",
    "mount",
    "mount by the new interface",
    "unmount",
    "change the root",
    "make a process",
    "use the kernel's keyrings",
    "load a BPF program",
    "count performance events",
    "handle page faults",
    "set up an io_uring",
    "hold memory in a file",
    "share memory of System V",
    "speak vsock",
    "speak netlink",
    "speak raw packets",
    "use the kernel's ciphers",
    "raise a limit",
]


@pytest.mark.parametrize("attempt", REFUSED)
def test_the_kernel_refuses_to(inside: Findings, attempt: str) -> None:
    assert inside[attempt] == "error: operation not permitted"


def test_processes_cannot_be_made_in_the_newer_way_either(inside: Findings) -> None:
    assert inside["make a process by clone3"] == "error: function not implemented"


def test_memory_is_bounded(inside: Findings) -> None:
    assert inside["map memory"] == "error: cannot allocate memory"


def test_threads_are_bounded(inside: Findings) -> None:
    assert "failed to create new OS thread" in inside.afterwards
    assert "all threads" not in inside.afterwards


def test_no_precedence_over_other_processes_is_taken(inside: Findings) -> None:
    assert inside["take precedence"].startswith("error")


WITHOUT_A_ROOM = [
    "read /etc/passwd",
    "read /proc/self/status",
    "signal a process of the host",
    "read a process's memory",
    "make a process",
    "use the kernel's keyrings",
    "hold memory in a file",
    "share memory of System V",
    "speak netlink",
    "reach the host over TCP",
    "reach a Unix socket of the host",
    "reach an abstract socket of the host",
    "map memory",
]


@pytest.mark.parametrize("attempt", WITHOUT_A_ROOM)
def test_without_a_room_an_ordinary_user_can(outside: dict[str, str], attempt: str) -> None:
    assert outside[attempt].startswith("ok"), outside[attempt]
