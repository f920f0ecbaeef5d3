"""The ELF kernel (vmlinux) inside a distribution's compressed kernel (bzImage).

Layout: Linux, Documentation/arch/x86/boot.rst, fields ``setup_sects`` (0x1f1), ``header`` (0x202), ``payload_offset``
(0x248) and ``payload_length`` (0x24c).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct

import lz4.block
import zstandard

from bandsox.errors import CorruptImage

_ELF_MAGIC = b"\x7fELF"
_LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
_LZ4_LEGACY_BLOCK = 8 << 20
_VMLINUX_LIMIT = 512 << 20
_PIECE = 4096


def is_elf(head: bytes) -> bool:
    """Whether a file that begins with `head` is an ELF file."""
    return head.startswith(_ELF_MAGIC)


def vmlinux(kernel: bytes) -> bytes:
    """The ELF kernel in `kernel`, which is one already or a bzImage.

    Raises
    ------
    CorruptImage: it is neither, or its payload cannot be unpacked.
    """
    if is_elf(kernel):
        return kernel
    if kernel[0x202:0x206] != b"HdrS":
        raise CorruptImage("this is not a Linux kernel", cause="it is neither an ELF file nor a bzImage")
    setup_sects = kernel[0x1F1] or 4
    offset, length = struct.unpack_from("<II", kernel, 0x248)
    start = (setup_sects + 1) * 512 + offset
    try:
        image = _unpack(kernel[start : start + length])
    except (OSError, EOFError, ValueError, lzma.LZMAError, zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
        raise CorruptImage("the kernel's compressed payload is damaged", cause=str(error)) from error
    if not is_elf(image):
        raise CorruptImage("the kernel's payload is not an ELF file")
    return image


def _unpack(payload: bytes) -> bytes:
    if payload.startswith(_LZ4_LEGACY_MAGIC):
        return _unpack_lz4_legacy(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _unpack_zstd(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    if payload.startswith(b"BZh"):
        return bz2.decompress(payload[:-4])
    return lzma.LZMADecompressor().decompress(payload, max_length=_VMLINUX_LIMIT)


def _unpack_zstd(payload: bytes) -> bytes:
    """One frame, made by ``zstd --ultra -22`` from a pipe: without its size, and with a window of 128 MiB."""
    decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    image = bytearray()
    for start in range(0, len(payload), _PIECE):
        image += decoder.decompress(payload[start : start + _PIECE])
        if len(image) > _VMLINUX_LIMIT:
            raise ValueError(f"it is longer than {_VMLINUX_LIMIT >> 20} MiB unpacked")
        if decoder.eof:
            return bytes(image)
    raise EOFError("it ends too early")


def _unpack_lz4_legacy(payload: bytes) -> bytes:
    """Blocks of 8 MiB, each behind its compressed size; the kernel's build appends the unpacked size."""
    blocks = []
    position = len(_LZ4_LEGACY_MAGIC)
    while position + 8 <= len(payload):
        (size,) = struct.unpack_from("<I", payload, position)
        position += 4
        blocks.append(lz4.block.decompress(payload[position : position + size], uncompressed_size=_LZ4_LEGACY_BLOCK))
        position += size
    return b"".join(blocks)
