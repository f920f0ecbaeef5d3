"""The guest kernel from the host's own package archive, unpacked without being installed.

Debian's cloud kernel is small, signed, kept up to date, and needs no other source than the one the host already
trusts. The virtio drivers are modules in it, so those a guest needs are taken along.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import zstandard

from bandsox.errors import HostError, MissingTool

PACKAGES = {
    "x86_64": ("linux-image-cloud-amd64", "linux-image-virtual"),
    "aarch64": ("linux-image-cloud-arm64", "linux-image-virtual"),
}
"""Packages that depend on the newest kernel for virtual machines: Debian's, then Ubuntu's."""

WANTED_MODULES = (
    *("virtio_mmio", "virtio_blk", "virtio_console", "vmw_vsock_virtio_transport", "virtio_rng", "virtio_net"),
    "virtio_balloon",
    *("squashfs", "ext4", "overlay"),
)
"""What a guest needs before its root file system is mounted, each with what it depends on, in this order."""

_MODULE = re.compile(
    r"lib/modules/.*/kernel/(drivers/(block|char|net|vhost|virtio)|fs|lib|crypto|arch|net/vmw_vsock|net/core)/.*\.ko(\.gz|\.xz|\.zst)?$"
)

_FIRST_MODULES = ("virtio_ring", "virtio", "virtio_mmio")


class Modules(Mapping[str, bytes]):
    """Kernel modules by name. They are kept as they were packed and unpacked when they are asked for: a distribution's kernel
    has thousands, and a guest needs a dozen."""

    def __init__(self) -> None:
        self._packed: dict[str, tuple[bytes, str]] = {}

    def add(self, file_name: str, data: bytes) -> None:
        """Take a module's file, such as ``virtio-rng.ko.zst``; the kernel's own name for it has underscores."""
        name, _, suffix = file_name.partition(".ko")
        self._packed[name.replace("-", "_")] = data, suffix

    def __getitem__(self, name: str) -> bytes:
        data, suffix = self._packed[name]
        return _UNPACK[suffix](data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _unzstd(data: bytes) -> bytes:
    decoder = zstandard.ZstdDecompressor().decompressobj()
    module = decoder.decompress(data)
    if not decoder.eof:
        raise HostError("a module in the kernel package ends too early", remedy="fetch it again: bandsox init --force")
    return module


_UNPACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": _unzstd}
"""What kernels are built with: CONFIG_MODULE_COMPRESS_NONE, _GZIP, _XZ or _ZSTD."""


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """What was taken out of the packages: the compressed kernel and its modules."""

    version: str
    bzimage: bytes
    modules: Modules


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
        return unpack(sorted(directory.glob("*.deb")))


def _kernel_packages(machine: str) -> list[str]:
    for meta in PACKAGES[machine]:
        listing = subprocess.run(["apt-cache", "depends", "--important", meta], capture_output=True, text=True, check=False)
        found = re.findall(r"Depends: (linux-(?:image|modules)-\S+)", listing.stdout)
        if found:
            return packages_of(found)
    raise HostError(
        f"apt knows no guest kernel ({' or '.join(PACKAGES[machine])})",
        cause="its package lists are missing or too old",
        remedy="run `apt-get update`, or give a kernel of your own: bandsox init --kernel-url URL",
    )


def packages_of(dependencies: list[str]) -> list[str]:
    """The packages with the kernel and its modules, of what the package for virtual machines depends on.

    Debian keeps both in one package, Ubuntu the modules in a second one, and the kernel may be called ``unsigned``.
    """
    image = next(name for name in dependencies if name.startswith("linux-image-"))
    if "-cloud-" in image:
        return [image]
    return [image, "linux-modules-" + image.removeprefix("linux-image-").removeprefix("unsigned-")]


def unpack(packages: Iterable[Path]) -> KernelPackage:
    """Take kernel and modules out of ``.deb`` files.

    Raises
    ------
    HostError: there is no kernel in them.
    """
    version, bzimage, modules = "", b"", Modules()
    for package in packages:
        for name, data in _files(package):
            if name.startswith("boot/vmlinuz-"):
                version, bzimage = name.removeprefix("boot/vmlinuz-"), data
            else:
                modules.add(PurePosixPath(name).name, data)
    if not bzimage:
        raise HostError("the kernel package holds no kernel", remedy="give one: bandsox init --kernel-url URL")
    return KernelPackage(version, bzimage, modules)


def _files(package: Path) -> Iterator[tuple[str, bytes]]:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacker:
        assert unpacker.stdout is not None
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
            for member in archive:
                name = str(PurePosixPath(member.name))
                wanted = name.startswith("boot/vmlinuz-") or _MODULE.search(name)
                if member.isfile() and wanted and (content := archive.extractfile(member)) is not None:
                    yield name, content.read()


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(
            f"`{' '.join(command)}` failed",
            cause=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}",
            remedy="run `apt-get update` and try again",
        )


def in_load_order(modules: Mapping[str, bytes], wanted: Iterable[str] = WANTED_MODULES) -> list[str]:
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
