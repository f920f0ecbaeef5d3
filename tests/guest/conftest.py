"""The real agent on a Unix socket of this machine, and ports in front of it."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bandsox.guest import GuestClient, PortLink
from tests.guest.support import Port, SocketLink, wait_for_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    """Every test leaves as many descriptors open as it found."""
    before = _descriptors()
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("bandsox-port"):  # waits for a port that is free by now, and gives it back
            thread.join(60)
    gc.collect()
    assert _descriptors() - before == set()


def _descriptors() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{descriptor.name} {descriptor.readlink()}")
    return {entry for entry in found if "/proc/" not in entry and "anon_inode" not in entry}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's name (108 bytes, unix(7))."""
    with tempfile.TemporaryDirectory(prefix="bsx-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def agent_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent, built from its source where there is a Go compiler, else as it was built with the package."""
    go = shutil.which("go")
    if go is None:
        built = ROOT / "build/agent/bandsox-agent-x86_64"
        assert built.exists(), "neither a Go compiler nor a built agent: run `make` first"
        return built
    binary = tmp_path_factory.mktemp("agent") / "bandsox-agent"
    environment = {**os.environ, "CGO_ENABLED": "0"}
    subprocess.run([go, "build", "-o", binary, "./cmd/bandsox-agent"], cwd=ROOT / "bandsox/agent", env=environment, check=True)
    return binary


@pytest.fixture(scope="module")
def agent(agent_binary: Path) -> Iterator[Path]:
    """The socket of a running agent."""
    with tempfile.TemporaryDirectory(prefix="bsx-") as directory:
        path = Path(directory) / "agent.sock"
        process = subprocess.Popen([agent_binary, "--listen", f"unix:{path}"])
        try:
            wait_for_file(path, lambda: process.poll() is None)
            yield path
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def guest(agent: Path) -> GuestClient:
    return GuestClient(SocketLink(agent))


MakePorts = Callable[[int], tuple[PortLink, list[Port]]]


@pytest.fixture
def make_ports(agent: Path, short_path: Path) -> Iterator[MakePorts]:
    """Makes `count` ports in front of the agent."""
    ports: list[Port] = []

    def make(count: int) -> tuple[PortLink, list[Port]]:
        ports.extend(Port(short_path / f"port{number}.sock", agent) for number in range(count))
        return PortLink(short_path, count), ports

    yield make
    for port in ports:
        port.close()
