"""The rate of the host's time stamp counter.

An emulated guest sees the host's counter but has no reliable timer to measure its rate with: on a loaded host the
calibration fails now and then, and the kernel hangs. So the host measures and tells it (``tsc_early_khz=``, Linux:
Documentation/admin-guide/kernel-parameters.txt).
"""

from __future__ import annotations

import contextlib
import mmap
import platform
import time
from collections.abc import Callable
from pathlib import Path

from bandsox.settings import write_atomically

_READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret"""

_INTERVAL_S = 0.05


def known_khz(facts: Path) -> int | None:
    """The counter's rate in kHz: measured once after each boot of the host, since that takes 50 ms. Blocks.

    Parameters
    ----------
    facts: a directory that lasts until the next reboot.
    """
    known = facts / "tsc-khz"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(known.read_text())
    measured = host_khz()
    if measured is not None:
        write_atomically(known, str(measured).encode())
    return measured


def host_khz() -> int | None:
    """The counter's rate in kHz, measured over 50 ms; None where it cannot be read. Blocks."""
    if platform.machine() != "x86_64":
        return None
    import ctypes  # costs what a command in a machine that runs should not

    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    code.write(_READ_TSC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    first = _sample(read)
    time.sleep(_INTERVAL_S)
    second = _sample(read)
    return round((second[1] - first[1]) * 1e6 / (second[0] - first[0]))


def _sample(read: Callable[[], int]) -> tuple[int, int]:
    """The clock (ns) and the counter at one instant: the closest of several pairs of readings."""
    best: tuple[int, int, int] | None = None
    for _ in range(20):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        counter = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, counter)
    assert best is not None
    return best[1], best[2]
