"""The library that has a program open what it may only read, and spares it a disassembler and the memory of a device tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bandsox.vmm.qemu.preload import library

PROGRAM = """
import ctypes, fcntl, json, os, sys
open64 = ctypes.CDLL(None, use_errno=True)[sys.argv[1]]
answers = []
for path in sys.argv[2:]:
    ctypes.set_errno(0)
    descriptor = open64(path.encode(), os.O_RDWR)
    answers.append(ctypes.get_errno() if descriptor < 0 else -(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE))
print(json.dumps(answers))
"""


@pytest.mark.parametrize("function", ["open", "open64", "__open_2", "__open64_2"])
def test_what_may_be_written_is_and_what_may_not_is_read(tmp_path: Path, function: str) -> None:
    wrapper = shutil.which("bwrap")
    assert wrapper is not None
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.touch()
    shared.touch()
    room = [wrapper, "--dev-bind", "/", "/", "--ro-bind", str(shared), str(shared), "--setenv", "LD_PRELOAD", str(library(tmp_path))]
    done = subprocess.run(
        [*room, sys.executable, "-c", PROGRAM, function, str(own), str(shared), str(tmp_path / "missing")],
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert json.loads(done.stdout) == [-os.O_RDWR, -os.O_RDONLY, 2]


DISASSEMBLER = """
import ctypes
capstone = ctypes.CDLL("libcapstone.so.4")
print([capstone.cs_open(3, 8, ctypes.byref(ctypes.c_size_t())), capstone.cs_disasm_iter(0, None, None, None, None)])
print(sum("libcapstone" in line for line in open("/proc/self/maps")))
"""


def test_a_disassembler_is_not_loaded_and_can_do_nothing(tmp_path: Path) -> None:
    assert _printed(DISASSEMBLER, str(library(tmp_path))) == "[2, 0]\n0\n", "no such architecture (capstone.h, CS_ERR_ARCH)"


DEVICE_TREE = """
import ctypes, json, struct, sys
libfdt, size, other = ctypes.CDLL(None), int(sys.argv[1]), 0xEE
tree = (ctypes.c_ubyte * size)(*[other] * size)
answers = [libfdt.fdt_create(tree, size)]
if answers == [0]:
    touched = max(place for place, byte in enumerate(tree) if byte != other) + 1 if other in tree else size
    for step in (libfdt.fdt_finish_reservemap, libfdt.fdt_begin_node, libfdt.fdt_end_node, libfdt.fdt_finish):
        answers.append(step(tree, b"") if step is libfdt.fdt_begin_node else step(tree))
    answers += [libfdt.fdt_open_into(tree, tree, size), libfdt.fdt_check_header(tree)]
    print(touched, *struct.unpack_from(">II", tree))
print(answers)
"""


def test_a_large_device_tree_begins_small_and_a_small_one_as_it_is(tmp_path: Path) -> None:
    libraries = f"{library(tmp_path)} libfdt.so.1"
    magic = 0xD00DFEED
    assert _printed(DEVICE_TREE, libraries, str(1 << 20)) == f"4096 {magic} {1 << 20}\n{[0] * 7}\n"
    assert _printed(DEVICE_TREE, libraries, "1024") == f"1024 {magic} 1024\n{[0] * 7}\n"
    assert _printed(DEVICE_TREE, libraries, "16") == "[-3]\n", "no space (libfdt.h, FDT_ERR_NOSPACE)"


def _printed(program: str, libraries: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env={**os.environ, "LD_PRELOAD": libraries}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_it_is_written_once(tmp_path: Path) -> None:
    before = library(tmp_path).stat()
    assert library(tmp_path).stat() == before
