"""The library that has a program open what it may only read."""

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


def test_it_is_written_once(tmp_path: Path) -> None:
    before = library(tmp_path).stat()
    assert library(tmp_path).stat() == before
