"""How long each stage of a command took, one line a stage on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from bandsox.process import ProcessId


class Timings:
    """A stopwatch that began with this process."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say how long the block took, unless it failed."""
        begin = time.monotonic()
        yield
        self._say(name, time.monotonic() - begin)

    def total(self) -> None:
        """Say how long this process has been running."""
        started = ProcessId.current().start / os.sysconf("SC_CLK_TCK")
        self._say("total", time.clock_gettime(time.CLOCK_BOOTTIME) - started)

    def _say(self, name: str, seconds: float) -> None:
        if self._shown:
            print(f"{name:<8} {seconds:7.2f} s", file=sys.stderr, flush=True)  # noqa: T201 — this is the command line
