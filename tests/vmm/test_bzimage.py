"""The kernel inside a bzImage, in every compression that distributions use."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess

import lz4.block
import pytest
import zstandard

from bandsox.errors import CorruptImage
from bandsox.vmm import bzimage

KERNEL = b"\x7fELF" + bytes(range(256)) * 5000


def lz4_legacy(data: bytes) -> bytes:
    block = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


def bz_image(payload: bytes) -> bytes:
    """A bzImage with one setup sector (Linux, Documentation/arch/x86/boot.rst); the build appends the unpacked size."""
    payload += struct.pack("<I", len(KERNEL))
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 0, len(payload))
    return bytes(header) + payload


PAYLOADS = {
    "lz4": lz4_legacy(KERNEL),
    "zstd": zstandard.ZstdCompressor().compress(KERNEL),
    "zstd as the kernel's build calls it": subprocess.run(
        ["zstd", "--ultra", "-22", "-c"], input=KERNEL, capture_output=True, check=True
    ).stdout,
    "xz": lzma.compress(KERNEL),
    "gzip": gzip.compress(KERNEL),
    "bzip2": bz2.compress(KERNEL),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_compression_is_unpacked(name: str) -> None:
    assert bzimage.vmlinux(bz_image(PAYLOADS[name])) == KERNEL


def test_an_elf_kernel_is_taken_as_it_is() -> None:
    assert bzimage.vmlinux(KERNEL) == KERNEL


@pytest.mark.parametrize("damaged", [b"", b"short", bytes(5000), bz_image(b"\x1f\x8bnonsense"), bz_image(PAYLOADS["zstd"][:50])])
def test_anything_else_is_refused(damaged: bytes) -> None:
    with pytest.raises(CorruptImage):
        bzimage.vmlinux(damaged)
