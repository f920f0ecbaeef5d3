"""The real Firecracker, with guests that need nothing of a KVM but that it runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bandsox.models import Confinement, Isolation
from bandsox.vmm.base import Accelerator, Disk, LaunchSpec
from bandsox.vmm.confinement import Confiner
from bandsox.vmm.firecracker import Firecracker
from bandsox.vmm.firecracker.client import Client
from tests.firecracker import CACHE
from tests.vmm.firecracker.guests import program

KVM = Accelerator("kvm", Isolation.HARDWARE, "")


@pytest.fixture(scope="session")
def binary() -> Path:
    """Its program."""
    if not (CACHE / "firecracker").is_file():
        pytest.skip("there is no Firecracker: run `python -m tests.firecracker`")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/kvm that this user may open")
    return CACHE / "firecracker"


@pytest.fixture(scope="session")
def confiner(tmp_path_factory: pytest.TempPathFactory) -> Confiner:
    """What confines it."""
    store = tmp_path_factory.mktemp("programs")
    return Confiner(store, store)


@pytest.fixture
def firecracker(binary: Path, confiner: Confiner, monkeypatch: pytest.MonkeyPatch) -> Firecracker:
    """It as BandSox drives it."""
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(binary))
    return Firecracker(binary.parent / "nothing-installed", confiner)


@pytest.fixture(params=["none", "confined"])
def confinement(request: pytest.FixtureRequest, confiner: Confiner) -> Confinement:
    """Every machine runs without confinement, and with the strongest that there is."""
    if request.param == "none":
        return Confinement.NONE
    offer = confiner.offer()
    assert offer.confinement is not Confinement.NONE, offer.reason
    return offer.confinement


MakeSpec = Callable[..., LaunchSpec]


@pytest.fixture
def spec(tmp_path: Path, confinement: Confinement) -> Iterator[MakeSpec]:
    """Makes specifications of machines that run one of the small guests, each in directories of its own."""
    with ExitStack() as stack:

        def make(then: str = "halt", text: bytes = b"hello from the guest\n", **changes: object) -> LaunchSpec:
            directory = Path(tempfile.mkdtemp(prefix="vm-", dir=tmp_path))
            sockets = Path(tempfile.mkdtemp(prefix="bandsox-test-"))
            stack.callback(shutil.rmtree, sockets)
            (directory / "disk.img").write_bytes(bytes(1 << 20))
            (tmp_path / "initramfs.cpio").write_bytes(bytes(512))
            (tmp_path / "root.squashfs").write_bytes(bytes(4096))
            options: dict[str, object] = {
                "vm_id": directory.name.replace("_", "-"),
                "directory": directory,
                "sockets": sockets,
                "vcpu": 1,
                "mem_mib": 64,
                "kernel": program(directory / "guest.elf", text, then),
                "initramfs": tmp_path / "initramfs.cpio",
                "disks": (Disk(tmp_path / "root.squashfs", read_only=True), Disk(directory / "disk.img", read_only=False)),
                "boot_args": "",
                "accelerator": KVM,
                "confinement": confinement,
                "transport": "vsock",
            }
            return LaunchSpec(**{**options, **changes})  # type: ignore[arg-type]

        yield make


@dataclass
class Bare:
    """A Firecracker without a machine, in a directory of its own, and a connection to it."""

    directory: Path
    client: Client


@contextmanager
def bare(binary: Path) -> Iterator[Bare]:
    """Firecracker alone."""
    directory = Path(tempfile.mkdtemp(prefix="bandsox-test-"))
    with subprocess.Popen(
        [binary, "--api-sock", "api.sock"], cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if b"API" in line:
                    break
            with Client(directory / "api.sock") as client:
                yield Bare(directory, client)
        finally:
            process.send_signal(signal.SIGKILL)
            process.stdout.close()
            shutil.rmtree(directory)


@pytest.fixture
def fresh(binary: Path) -> Iterator[Bare]:
    """A Firecracker that was just started."""
    with bare(binary) as started:
        yield started


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
