"""Networks without machines, for code that runs on the host of a lab: what they are made with, and what is there of them."""

from __future__ import annotations

import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bandsox.engine.rooms import network_programs
from bandsox.models import NetworkConfig, Policy
from bandsox.network.keeper import Namespace
from bandsox.network.networks import Networks
from bandsox.process import ProcessId

NFT = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin") or "nft"
"""nft(8), whatever a test puts into its place later."""


class Bare:
    """Networks of machines that are not there, in a storage directory of their own."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.networks = Networks(storage / "leases", network_programs, storage / "cni")

    def begin(self, number: int, policy: Policy | None = None) -> tuple[Path, NetworkConfig, Namespace]:
        """The network of a machine with this number, of which not all is there yet."""
        directory = self.storage / f"{number:011x}00000"
        directory.mkdir()
        config, namespace = self.networks.make(directory, dns=["198.51.100.53"], policy=policy)
        return directory, config, namespace

    def make(self, number: int, policy: Policy | None = None) -> tuple[Path, NetworkConfig, Namespace]:
        """The whole network of a machine with this number."""
        made = self.begin(number, policy)
        made[2].complete()
        return made


@contextmanager
def bare() -> Iterator[Bare]:
    """Such networks, whose directory everybody may enter: a filter of root's is nobody."""
    with tempfile.TemporaryDirectory() as room:
        Path(room).chmod(0o755)
        yield Bare(Path(room))


def end(directory: Path, namespace: Namespace) -> None:
    """Let go of a network, and wait until all its processes have ended."""
    of_it = processes(directory)
    namespace.close()
    for process in of_it:
        with process.handle() as handle:
            if handle is not None:
                assert select.select([handle], [], [], 60)[0], "a keeper does not end"


def table() -> str | None:
    """The host's rules; None where there are none."""
    done = subprocess.run([NFT, "list", "table", "inet", "bandsox"], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def interfaces() -> list[str]:
    """The devices that this network namespace has."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return sorted(line.split(":")[1].strip() for line in links.splitlines())


def processes(directory: Path) -> list[ProcessId]:
    """Those that work in a directory or below."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := ProcessId.of(int(entry.name))) is not None:
            try:
                if str((entry / "cwd").readlink()).startswith(str(directory)):
                    found.append(process)
            except OSError:  # it has ended
                pass
    return found
