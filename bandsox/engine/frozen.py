"""Machines whose CPUs are not for certain in the state that their record tells: they are being saved, paused or resumed.

The file ``frozen`` in a machine's directory says so. It is there before the VMM is asked for anything and goes when record and VMM agree
again, under the machine's lock; where it is found with that lock free, whoever worked on the machine was killed, and the next who looks
brings the machine back to what its record says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_NAME = "frozen"


def is_frozen(directory: Path) -> bool:
    """Whether the machine of a directory may stand still though it runs by its record, or run though it is paused."""
    return os.path.exists(f"{directory}/{_NAME}")  # noqa: PTH110 — every command asks, and a path would cost more than the look


@contextlib.contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """While this lasts the machine of a directory need not do what its record says. It is to do so again at the end; where the block
    raises, the next who looks sees to it."""
    marker = directory / _NAME
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))  # Path.touch() tries first to set the times of a file
    yield
    marker.unlink(missing_ok=True)


def forget(directory: Path) -> None:
    """The machine does what its record says again, or has ended."""
    (directory / _NAME).unlink(missing_ok=True)
