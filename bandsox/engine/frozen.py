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
    return os.path.exists(_marker(directory))  # noqa: PTH110 — every command asks, and a path would cost more than the look


@contextlib.contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """While this lasts the machine of a directory need not do what its record says. It is to do so again at the end; where the block
    raises, the next who looks sees to it."""
    begin(directory)
    yield
    forget(directory)


def begin(directory: Path) -> bool:
    """From now on the machine of a directory need not do what its record says; False where that was so before."""
    try:
        os.close(os.open(_marker(directory), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def forget(directory: Path) -> None:
    """The machine does what its record says again, or has ended."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_marker(directory))  # noqa: PTH108 — as in `is_frozen`


def _marker(directory: Path) -> str:
    return f"{directory}/{_NAME}"
