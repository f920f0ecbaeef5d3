"""A library that has QEMU open a file for reading which it may only read, although it asks to write.

A clone maps the memory of its snapshot privately (mmap(2), ``MAP_PRIVATE``), which needs no right to write, and must not have it: all
clones share that file. But up to version 8.1 QEMU opens every memory file for reading and writing (QEMU, backends/hostmem-file.c;
later ``readonly=on,rom=off`` says otherwise). The library, loaded with ``LD_PRELOAD`` (ld.so(8)), has an ``open`` that tries again with
``O_RDONLY`` where the file system or the file's mode forbids to write. What QEMU may write it still opens as it asks.

It is 66 bytes of machine code in a shared object (elf(5)), made here because that needs no compiler on the user's machine.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from bandsox.settings import write_atomically

_NAME = "read-only-3.so"
"""Its name holds a version: raised whenever the content below changes."""

_DEFINED = (b"open", b"open64", b"__open_2", b"__open64_2")
"""What the C library calls it: without a mode where it checks that none is needed (``_FORTIFY_SOURCE``)."""

_CODE = bytes.fromhex(
    "4189d2"  # open:  mov r10d, edx          the mode
    "89f2"  #          mov edx, esi           the flags
    "4889fe"  #        mov rsi, rdi           the path
    "bf9cffffff"  #    mov edi, AT_FDCWD
    "b801010000"  #    mov eax, __NR_openat
    "0f05"  #          syscall
    "83f8e2"  #        cmp eax, -EROFS
    "7405"  #          je again
    "83f8f3"  #        cmp eax, -EACCES
    "750a"  #          jne done
    "83e2fc"  # again: and edx, ~O_ACCMODE    which makes it O_RDONLY
    "b801010000"  #    mov eax, __NR_openat
    "0f05"  #          syscall
    "483d00f0ffff"  # done: cmp rax, -4096
    "7701"  #          ja failed
    "c3"  #            ret
    "f7d8"  # failed:  neg eax
    "50"  #            push rax
    "ff15"  #          call [rip + …]         __errno_location, through the slot behind it
)
_CODE_END = bytes.fromhex(
    "59"  #            pop rcx
    "8908"  #          mov [rax], ecx
    "4883c8ff"  #      or rax, -1
    "c3"  #            ret
)

_HEADER, _PROGRAM_HEADER, _SYMBOL, _RELOCATION = 64, 56, 24, 24
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1
_HASH, _STRTAB, _SYMTAB, _RELA, _RELASZ, _RELAENT, _STRSZ, _SYMENT = 4, 5, 6, 7, 8, 9, 10, 11
_GLOBAL_FUNCTION = 0x12
_GLOB_DAT = 6
_PAGE = 4096


def library(directory: Path) -> Path:
    """The library as a file in `directory`, written there if it is missing."""
    path = directory / _NAME
    if not path.is_file():
        write_atomically(path, shared_object())
        path.chmod(0o755 if os.geteuid() == 0 else 0o700)  # root's VMMs are users of their own
    return path


def shared_object() -> bytes:
    """The library: one page of code and tables, and one that the loader writes the address of ``__errno_location`` into."""
    names = (b"__errno_location", *_DEFINED)
    strings = b"\0" + b"\0".join(names) + b"\0"
    symbols_at = _HEADER + 4 * _PROGRAM_HEADER
    hash_at = symbols_at + (len(names) + 1) * _SYMBOL
    # One bucket, and a chain through all symbols (System V ABI, "Hash Table").
    hash_table = struct.pack(f"<{len(names) + 4}I", 1, len(names) + 1, 1, 0, *range(2, len(names) + 1), 0)
    relocation_at = _aligned(hash_at + len(hash_table))
    strings_at = relocation_at + _RELOCATION
    code_at = _aligned(strings_at + len(strings))
    slot_at = _PAGE
    dynamic_at = slot_at + 8

    call_ends = code_at + len(_CODE) + 4
    code = _CODE + struct.pack("<i", slot_at - call_ends) + _CODE_END
    symbols = bytes(_SYMBOL) + b"".join(
        struct.pack(
            "<IBBHQQ", strings.index(b"\0" + name + b"\0") + 1, _GLOBAL_FUNCTION, 0, *((1, code_at) if name in _DEFINED else (0, 0)), 0
        )
        for name in names
    )
    entries = {
        _HASH: hash_at, _STRTAB: strings_at, _SYMTAB: symbols_at, _STRSZ: len(strings), _SYMENT: _SYMBOL,
        _RELA: relocation_at, _RELASZ: _RELOCATION, _RELAENT: _RELOCATION, 0: 0,
    }  # fmt: skip
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in entries.items())
    headers = [
        _segment(_LOAD, _READ | _EXECUTE, 0, code_at + len(code)),
        _segment(_LOAD, _READ | _WRITE, slot_at, 8 + len(dynamic)),
        _segment(_DYNAMIC, _READ | _WRITE, dynamic_at, len(dynamic)),
        struct.pack("<IIQQQQQQ", _STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16),
    ]
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = identification + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, _HEADER, 0, 0, _HEADER, _PROGRAM_HEADER, len(headers), 64, 0, 0)
    relocation = struct.pack("<QQq", slot_at, 1 << 32 | _GLOB_DAT, 0)

    content = bytearray(dynamic_at + len(dynamic))
    pieces = {
        0: header + b"".join(headers), symbols_at: symbols, hash_at: hash_table, relocation_at: relocation, strings_at: strings,
        code_at: code, dynamic_at: dynamic,
    }  # fmt: skip
    for place, piece in pieces.items():
        content[place : place + len(piece)] = piece
    return bytes(content)


def _segment(kind: int, access: int, place: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, access, place, place, place, size, size, 8 if kind == _DYNAMIC else _PAGE)


def _aligned(place: int) -> int:
    return -place % 16 + place
