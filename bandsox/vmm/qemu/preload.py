"""A library that a clone's QEMU loads before its own (ld.so(8), ``LD_PRELOAD``), of functions that these would have.

``open`` opens a file for reading which QEMU may only read, although it asks to write. A clone maps the memory of its snapshot privately
(mmap(2), ``MAP_PRIVATE``), which needs no right to write, and must not have it: all clones share that file. But up to version 8.1 QEMU
opens every memory file for reading and writing (QEMU, backends/hostmem-file.c; ``readonly=on,rom=off`` says otherwise later). Where the
file system or the file's mode forbids to write, this one tries again with ``O_RDONLY``. What QEMU may write it still opens as it asks.

The others spare each of many clones what QEMU takes for itself and an idle guest never needs:

- Capstone, a disassembler for QEMU's own logs, has 1.3 MiB of pointers that the loader has to fill in, so no two processes share them.
  This library bears its name, which makes the loader believe that it is there, and its functions say that they can do nothing, upon which
  QEMU prints bytes (disas/capstone.c). A Capstone of another version is loaded, and not asked.
- ``fdt_create`` begins QEMU's description of the machine, in a mebibyte that libfdt fills with zeros, whereas it takes 20 KiB
  (QEMU, softmmu/device_tree.c). Here it begins with one page; QEMU gives it the rest of the mebibyte afterwards (``fdt_open_into``).

It is 100 bytes of machine code in a shared object (elf(5)), made here because that needs no compiler on the user's machine.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from bandsox.settings import write_atomically

_NAME = "clone-4.so"
"""Its name holds a version: raised whenever the content below changes."""

_BEARS = b"libcapstone.so.4"
"""The name by which other programs want it (``DT_SONAME``)."""

_OPENS = ("open", "open64", "__open_2", "__open64_2")
"""What the C library calls it: without a mode where it checks that none is needed (``_FORTIFY_SOURCE``)."""

_DISASSEMBLES = (
    *(
        "cs_close",
        "cs_option",
        "cs_malloc",
        "cs_free",
        "cs_disasm",
        "cs_disasm_iter",
        "cs_errno",
        "cs_strerror",
        "cs_version",
        "cs_support",
    ),
    *("cs_reg_name", "cs_insn_name", "cs_group_name", "cs_insn_group", "cs_reg_read", "cs_reg_write", "cs_op_count", "cs_op_index"),
    "cs_regs_access",
)
"""What Capstone offers besides ``cs_open``."""

_NEEDS = ("__errno_location", "fdt_create_with_flags")
"""Functions of others, each with a slot for its address; it is no mistake if nobody has one: its caller is not called either."""

_CODE = {
    _OPENS: (
        "4189d2",  # open:  mov r10d, edx          the mode
        "89f2",  #          mov edx, esi           the flags
        "4889fe",  #        mov rsi, rdi           the path
        "bf9cffffff",  #    mov edi, AT_FDCWD
        "b801010000",  #    mov eax, __NR_openat
        "0f05",  #          syscall
        "83f8e2",  #        cmp eax, -EROFS
        "7405",  #          je again
        "83f8f3",  #        cmp eax, -EACCES
        "750a",  #          jne done
        "83e2fc",  # again: and edx, ~O_ACCMODE    which makes it O_RDONLY
        "b801010000",  #    mov eax, __NR_openat
        "0f05",  #          syscall
        "483d00f0ffff",  # done: cmp rax, -4096
        "7701",  #          ja failed
        "c3",  #            ret
        "f7d8",  # failed:  neg eax
        "50",  #            push rax
        "ff15",  #          call [rip + …]
        "__errno_location",
        "59",  #            pop rcx
        "8908",  #          mov [rax], ecx
        "4883c8ff",  #      or rax, -1
        "c3",  #            ret
    ),
    ("fdt_create",): (
        "81fe00100000",  #  cmp esi, 4096          the size of the buffer
        "7e05",  #          jle begin
        "be00100000",  #    mov esi, 4096
        "31d2",  # begin:   xor edx, edx           no flags
        "ff25",  #          jmp [rip + …]
        "fdt_create_with_flags",
    ),
    ("cs_open",): ("b802000000", "c3"),  # mov eax, CS_ERR_ARCH; ret
    _DISASSEMBLES: ("31c0", "c3"),  # xor eax, eax; ret
}
"""Machine code by the names of what it does: instructions, and whose slot the one before is about."""

_HEADER, _PROGRAM_HEADER, _SYMBOL, _RELOCATION, _SLOT = 64, 56, 24, 24, 8
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1
_HASH, _STRTAB, _SYMTAB, _RELA, _RELASZ, _RELAENT, _STRSZ, _SYMENT, _SONAME = 4, 5, 6, 7, 8, 9, 10, 11, 14
_GLOBAL_FUNCTION, _WEAK_FUNCTION = 0x12, 0x22
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
    """The library: one page of code and tables, and one with the slots that the loader writes addresses into."""
    names = [*_NEEDS, *(name for alike in _CODE for name in alike)]
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names) + _BEARS + b"\0"
    symbols_at = _HEADER + 4 * _PROGRAM_HEADER
    hash_at = symbols_at + (len(names) + 1) * _SYMBOL
    # One bucket, and a chain through all symbols (System V ABI, "Hash Table").
    hash_table = struct.pack(f"<{len(names) + 4}I", 1, len(names) + 1, 1, 0, *range(2, len(names) + 1), 0)
    relocations_at = _aligned(hash_at + len(hash_table))
    strings_at = relocations_at + len(_NEEDS) * _RELOCATION
    code_at = _aligned(strings_at + len(strings))
    slots = {name: _PAGE + number * _SLOT for number, name in enumerate(_NEEDS)}
    dynamic_at = _PAGE + len(slots) * _SLOT

    code, places = _code(code_at, slots)
    symbols = bytes(_SYMBOL) + b"".join(
        struct.pack("<IBBHQQ", strings.index(b"\0" + name.encode() + b"\0") + 1, _kind(name), 0, *places.get(name, (0, 0)), 0)
        for name in names
    )
    relocations = b"".join(struct.pack("<QQq", slots[name], number << 32 | _GLOB_DAT, 0) for number, name in enumerate(_NEEDS, 1))
    entries = {
        _HASH: hash_at, _STRTAB: strings_at, _SYMTAB: symbols_at, _STRSZ: len(strings), _SYMENT: _SYMBOL,
        _RELA: relocations_at, _RELASZ: len(relocations), _RELAENT: _RELOCATION, _SONAME: strings.index(_BEARS), 0: 0,
    }  # fmt: skip
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in entries.items())
    headers = [
        _segment(_LOAD, _READ | _EXECUTE, 0, code_at + len(code)),
        _segment(_LOAD, _READ | _WRITE, _PAGE, dynamic_at - _PAGE + len(dynamic)),
        _segment(_DYNAMIC, _READ | _WRITE, dynamic_at, len(dynamic)),
        struct.pack("<IIQQQQQQ", _STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16),
    ]
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = identification + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, _HEADER, 0, 0, _HEADER, _PROGRAM_HEADER, len(headers), 64, 0, 0)

    content = bytearray(dynamic_at + len(dynamic))
    pieces = {
        0: header + b"".join(headers), symbols_at: symbols, hash_at: hash_table, relocations_at: relocations, strings_at: strings,
        code_at: code, dynamic_at: dynamic,
    }  # fmt: skip
    for place, piece in pieces.items():
        content[place : place + len(piece)] = piece
    return bytes(content)


def _code(begin: int, slots: dict[str, int]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """All machine code, which is to stand at `begin`, and the section and the place of each function by its names."""
    code = b""
    places = {}
    for names, words in _CODE.items():
        places.update(dict.fromkeys(names, (1, begin + len(code))))
        for word in words:
            code += struct.pack("<i", slots[word] - begin - len(code) - 4) if word in slots else bytes.fromhex(word)
    return code, places


def _kind(name: str) -> int:
    return _WEAK_FUNCTION if name in _NEEDS else _GLOBAL_FUNCTION


def _segment(kind: int, access: int, place: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, access, place, place, place, size, size, 8 if kind == _DYNAMIC else _PAGE)


def _aligned(place: int) -> int:
    return -place % 16 + place
