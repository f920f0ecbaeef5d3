"""A console log that is bounded without a process behind it.

The VMM writes the guest's console to an ordinary file. A hostile guest may print for ever, so the VMM runs under a
limit on file size (RLIMIT_FSIZE) with SIGXFSZ ignored, and the log *begins* `CAPACITY` bytes below that limit, as
the end of a sparse file: a write past the limit fails with EFBIG (write(2)), the VMM drops the byte, and the guest
is not slowed. What is kept is the beginning, where the boot messages stand, and it outlives the VMM.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

NAME = "console.log"
"""Its name in the directory of a machine, whatever the VMM."""

CAPACITY = 256 * 1024
"""How many bytes of a console are kept."""

FILE_SIZE_LIMIT = 1 << 40
"""The largest file a VMM may write: one TiB, more than any disk of a machine."""

_START = FILE_SIZE_LIMIT - CAPACITY


def create(path: Path, begun: bytes = b"") -> None:
    """Make a console log at `path` that holds `begun`, to which the VMM appends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, _START)
        os.pwrite(descriptor, begun[:CAPACITY], _START)
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """What the console log at `path` holds; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(_START)
            return log.read(CAPACITY)
    except FileNotFoundError:
        return b""


def limited(command: Sequence[str]) -> list[str]:
    """`command` run under the limit on file size, by prlimit(1).

    The caller starts it with SIGXFSZ ignored, as every Python process has it (``restore_signals=False``): its default
    action would end the VMM.
    """
    return ["prlimit", f"--fsize={FILE_SIZE_LIMIT}", *command]
