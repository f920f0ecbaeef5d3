"""Programs on the tests' own host kernel (see README.md beside this)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_MEMORY_MIB = 6144
"""What machines have, and what they and their copies write, which stays in memory too."""

_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
_MAPPINGS = 1 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Ended:
    """What a program has printed, and what it ended with."""

    exit_code: int
    output: str


def kernel() -> Path:
    """The kernel, which is built where a test may take that long; skips the test where there is none."""
    if os.geteuid() != 0:
        pytest.skip("the tests' host kernel needs root, whose files it uses")
    building = [] if "BANDSOX_TEST_ROUNDS" in os.environ else ["--find"]
    found = subprocess.run([_HERE / "build", *building], stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode != 0:
        assert building, "the tests' host kernel cannot be built"
        pytest.skip("there is no host kernel with vhost-vsock: tests/hostkernel/build makes one, as `make soak` does")
    return Path(found.stdout.strip())


def run(program: Sequence[str], work: Path, *, environment: dict[str, str], timeout_s: float) -> Ended:
    """Boot the kernel, run a program of this machine on it, and power off.

    Parameters
    ----------
    work: a directory for the program, its output, and what the kernel has to keep. It is empty but for a storage directory (``storage``).
    """
    settings = {"PATH": _PATH, "HOME": str(work), **environment}
    (work / "program").write_text(json.dumps({"arguments": program, "environment": settings, "directory": str(Path.cwd())}))
    processor = random.choice(sorted(os.sched_getaffinity(0)))
    arguments = [
        *("taskset", "--cpu-list", str(processor)),  # its processes wait for each other, which is faster on one
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"),  # its processes end with this one
        *(str(kernel()), f"mem={_MEMORY_MIB}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet"),
        *("con=null", "con0=null,fd:1", f"init={_HERE / 'init'}", "--", str(work)),
    ]
    with (work / "console").open("wb") as console, _many_mappings():
        subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            cwd=work,
            env={"PATH": _PATH, "HOME": str(work), "TMPDIR": "/dev/shm"},
            timeout=timeout_s,
            check=False,
        )
    assert (work / "status").exists(), (work / "console").read_text(errors="replace")[-2000:]
    return Ended(int((work / "status").read_text()), (work / "output").read_text(errors="replace"))


@contextlib.contextmanager
def _many_mappings() -> Iterator[None]:
    """Let a process have as many mappings as newer distributions do: this kernel maps each page of its programs by itself."""
    before = _MOST_MAPPINGS.read_text()
    with contextlib.suppress(OSError):  # in a container; there what needs more ends with that kernel's word for it
        _MOST_MAPPINGS.write_text(str(max(int(before), _MAPPINGS)))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _MOST_MAPPINGS.write_text(before)


def pytest_run(*arguments: str) -> list[str]:
    """The program that runs tests as this one was run."""
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
