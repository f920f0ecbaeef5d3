"""Guests of a few bytes, which every KVM runs, whatever it makes of Linux: they may print to the serial port, and then do one thing."""

from __future__ import annotations

import struct
from pathlib import Path

_LOAD_ADDRESS = 0x100000
_PAGE = 0x1000

# mov edx, 0x3f8; lea rsi, [rip + text]; mov ecx, length; again: lodsb; out dx, al; dec ecx; jnz again
_PRINT = "ba f8030000  48 8d 35 {text}  b9 {length}  ac ee ff c9 75 fa"
_THEN = {
    "halt": "f4 eb fd",  # hlt, for ever
    "print": "eb e7",  # again from the beginning
    # again: mov edi, 0x200000; next: inc byte [rdi]; add edi, 0x1000; cmp edi, 0x3000000; jb next; jmp again
    "scribble": "bf 00002000  fe 07  81 c7 00100000  81 ff 00000003  72 f0  eb e9",
    "reset": "b0 fe e6 64 eb fe",  # mov al, 0xfe; out 0x64, al: the keyboard controller's reset line
    "fault": "0f 0b",  # ud2, where there is nobody to take the exception
}


def program(path: Path, text: bytes, then: str) -> Path:
    """An ELF file at `path` that prints `text`, if there is any, and then does what `then` names."""
    tail = bytes.fromhex(_THEN[then])
    offset = 23 + len(tail) - 12  # from the end of the lea
    print_ = bytes.fromhex(_PRINT.format(text=struct.pack("<i", offset).hex(), length=struct.pack("<I", len(text)).hex()))
    code = (print_ if text else b"") + tail + text  # its loop would take a length of 0 for 2³²
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _LOAD_ADDRESS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, _PAGE, _LOAD_ADDRESS, _LOAD_ADDRESS, len(code), len(code), _PAGE)
    path.write_bytes((header + segment).ljust(_PAGE, b"\0") + code)
    return path
