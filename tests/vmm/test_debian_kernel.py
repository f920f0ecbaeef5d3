"""Kernel packages as Debian and Ubuntu make them, with the real kernel of this storage directory packed anew."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bandsox.errors import HostError
from bandsox.vmm import bzimage, debian_kernel

VERSION = "6.8.0-31-generic"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
}
PLACES = {"virtio_mmio": "drivers/virtio", "virtio_blk": "drivers/block", "squashfs": "fs/squashfs", "crc32c_generic": "crypto"}
MODULES = {
    "virtio_mmio": b"\x7fELF\0depends=\0 of no bus",
    "virtio_blk": b"\x7fELF\0depends=\0 disks",
    "squashfs": b"\x7fELF\0depends=crc32c-generic\0 files",
    "crc32c_generic": b"\x7fELF\0depends=\0 sums",
}


def package(directory: Path, name: str, files: dict[str, bytes]) -> Path:
    """A ``.deb`` of these files, made by dpkg-deb."""
    tree = directory / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: tests <t@example.com>\nDescription: x\n"
    )
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "--build", tree, directory / f"{name}.deb"], check=True, capture_output=True)
    return directory / f"{name}.deb"


def zstd_bzimage(vmlinux: bytes) -> bytes:
    """Ubuntu's kind of bzImage (Linux, Documentation/arch/x86/boot.rst)."""
    payload = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(vmlinux) + struct.pack("<I", len(vmlinux))
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 0, len(payload))
    return bytes(header) + payload


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("root", ["lib/modules", "usr/lib/modules"])
def test_modules_are_unpacked_whatever_they_are_packed_with(tmp_path: Path, suffix: str, root: str) -> None:
    kernel = package(tmp_path, "linux-image", {f"boot/vmlinuz-{VERSION}": zstd_bzimage(b"\x7fELF kernel")})
    files = {
        f"{root}/{VERSION}/kernel/{PLACES[name]}/{name.replace('_', '-')}.ko{suffix}": COMPRESS[suffix](data)
        for name, data in MODULES.items()
    }
    unwanted = {f"{root}/{VERSION}/kernel/sound/soundcore.ko{suffix}": b"", f"{root}/{VERSION}/modules.dep": b""}
    found = debian_kernel.unpack([kernel, package(tmp_path, "linux-modules", {**files, **unwanted})])
    assert found.version == VERSION
    assert bzimage.vmlinux(found.bzimage) == b"\x7fELF kernel"
    assert dict(found.modules) == MODULES
    assert debian_kernel.in_load_order(found.modules, ["virtio_blk", "squashfs"]) == [
        "virtio_mmio",
        "virtio_blk",
        "crc32c_generic",
        "squashfs",
    ]


def test_the_real_kernel_survives_being_packed_as_ubuntu_does(storage: Path, tmp_path: Path) -> None:
    real = (storage / "kernels/default").resolve()
    vmlinux = (real / "vmlinux").read_bytes()
    modules = {path.stem: path.read_bytes() for path in (real / "modules").glob("*.ko")}
    packed = {f"lib/modules/{VERSION}/kernel/drivers/block/{name}.ko.zst": COMPRESS[".zst"](data) for name, data in modules.items()}
    found = debian_kernel.unpack(
        [
            package(tmp_path, "linux-image", {f"boot/vmlinuz-{VERSION}": zstd_bzimage(vmlinux)}),
            package(tmp_path, "linux-modules", packed),
        ]
    )
    assert bzimage.vmlinux(found.bzimage) == vmlinux
    assert dict(found.modules) == modules
    assert debian_kernel.in_load_order(found.modules) == (real / "modules.order").read_text().split()


def test_packages_without_a_kernel_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no kernel"):
        debian_kernel.unpack([package(tmp_path, "empty", {"usr/share/doc/x": b""})])


@pytest.mark.parametrize(
    ("dependencies", "packages"),
    [
        (["linux-image-6.1.0-40-cloud-amd64"], ["linux-image-6.1.0-40-cloud-amd64"]),
        (["linux-image-6.8.0-31-generic"], ["linux-image-6.8.0-31-generic", "linux-modules-6.8.0-31-generic"]),
        (["linux-image-unsigned-6.8.0-31-generic"], ["linux-image-unsigned-6.8.0-31-generic", "linux-modules-6.8.0-31-generic"]),
    ],
)
def test_ubuntu_keeps_modules_in_a_package_of_their_own(dependencies: list[str], packages: list[str]) -> None:
    assert debian_kernel.packages_of(dependencies) == packages
