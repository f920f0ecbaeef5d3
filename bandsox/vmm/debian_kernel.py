"""The guest kernel from the host's own package archive, unpacked without being installed.

Debian's cloud kernel is small, signed, kept up to date, and needs no other source than the one the host already
trusts. The virtio drivers are modules in it, so those a guest needs are taken along.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import zstandard

from bandsox.errors import HostError, MissingTool

PACKAGES = {
    "x86_64": ("linux-image-cloud-amd64", "linux-image-virtual"),
    "aarch64": ("linux-image-cloud-arm64", "linux-image-virtual"),
}
"""Packages that depend on the newest kernel for virtual machines: Debian's, then Ubuntu's."""

WANTED_MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "vmw_vsock_virtio_transport", "virtio_rng", "squashfs", "ext4", "overlay")
"""What a guest needs before its root file system is mounted, each with what it depends on, in this order."""

_FIRST_MODULES = ("virtio_ring", "virtio", "virtio_mmio")


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """What was taken out of the packages: the compressed kernel and its modules by name."""

    version: str
    bzimage: bytes
    modules: dict[str, bytes]


def fetch(machine: str) -> KernelPackage:
    """Download and unpack the newest kernel package for `machine` (as ``uname -m`` says). Blocks for seconds.

    Raises
    ------
    MissingTool: there is no apt on this host.
    HostError: apt knows no such package or cannot fetch it.
    """
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingTool(
                f"{tool} is not on this host",
                cause="the default guest kernel comes as a Debian package",
                remedy="give a kernel of your own: bandsox init --kernel-url URL",
            )
    with tempfile.TemporaryDirectory(prefix="bandsox-kernel-") as work:
        directory = Path(work)
        for package in _kernel_packages(machine):
            _run(["apt-get", "download", "-q", package], directory)
        return _unpack(sorted(directory.glob("*.deb")))


def _kernel_packages(machine: str) -> list[str]:
    for meta in PACKAGES[machine]:
        listing = subprocess.run(["apt-cache", "depends", "--important", meta], capture_output=True, text=True, check=False)
        found = re.findall(r"Depends: (linux-(?:image|modules)-\S+)", listing.stdout)
        if found:
            images = [name for name in found if name.startswith("linux-image-")]
            modules = [name.replace("linux-image-", "linux-modules-", 1) for name in images if "-cloud-" not in name]
            return images[:1] + modules[:1]
    raise HostError(
        f"apt knows no guest kernel ({' or '.join(PACKAGES[machine])})",
        cause="its package lists are missing or too old",
        remedy="run `apt-get update`, or give a kernel of your own: bandsox init --kernel-url URL",
    )


def _unpack(packages: Iterable[Path]) -> KernelPackage:
    version, bzimage, modules = "", b"", {}
    for package in packages:
        for name, data in _files(package):
            if name.startswith("boot/vmlinuz-"):
                version, bzimage = name.removeprefix("boot/vmlinuz-"), data
            elif match := re.search(r"/modules/.*/([^/]+)\.ko(\.xz|\.zst)?$", name):
                modules[match[1].replace("-", "_")] = _uncompressed(data, match[2])
    if not bzimage:
        raise HostError("the kernel package holds no kernel", remedy="give one: bandsox init --kernel-url URL")
    return KernelPackage(version, bzimage, modules)


def _files(package: Path) -> Iterator[tuple[str, bytes]]:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacker:
        assert unpacker.stdout is not None
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
            for member in archive:
                name = str(PurePosixPath(member.name))
                wanted = name.startswith("boot/vmlinuz-") or "/drivers/virtio/" in name or _is_module(name)
                if member.isfile() and wanted and (content := archive.extractfile(member)) is not None:
                    yield name, content.read()


def _is_module(name: str) -> bool:
    return re.search(r"/kernel/(drivers/(block|char|net)|fs|lib|crypto|arch|net/vmw_vsock|net/core)/.*\.ko(\.xz|\.zst)?$", name) is not None


def _uncompressed(module: bytes, suffix: str | None) -> bytes:
    if suffix == ".xz":
        return lzma.decompress(module)
    if suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(module)
    return module


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(
            f"`{' '.join(command)}` failed",
            cause=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}",
            remedy="run `apt-get update` and try again",
        )


def in_load_order(modules: dict[str, bytes], wanted: Iterable[str] = WANTED_MODULES) -> list[str]:
    """The names of `wanted` modules and all they depend on, dependencies first.

    A wanted module that is not there is built into the kernel.
    """
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in modules:
            return
        for dependency in dependencies(modules[name]):
            add(dependency)
        order.append(name)

    for name in (*_FIRST_MODULES, *wanted):
        add(name)
    return order


def dependencies(module: bytes) -> list[str]:
    """The modules that a module's ``.modinfo`` section says it depends on (modinfo(8))."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return found[1].decode().replace("-", "_").split(",") if found and found[1] else []
