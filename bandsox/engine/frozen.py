"""Machines that stand still because they are being saved.

The file ``frozen`` in a machine's directory says so. It is there before the machine is paused and goes when it runs again, under the
machine's lock; where it is found with that lock free, whoever saved the machine was killed, and the next who looks lets it go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_NAME = "frozen"


def is_frozen(directory: Path) -> bool:
    """Whether the machine of a directory stands still, or did when the process that saved it was killed."""
    return (directory / _NAME).exists()


@contextlib.contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """While this lasts the machine of a directory may stand still. It is to run again at the end, also where that has failed."""
    (directory / _NAME).touch(mode=0o600)
    yield
    forget(directory)


def forget(directory: Path) -> None:
    """The machine runs again, or has ended."""
    (directory / _NAME).unlink(missing_ok=True)
