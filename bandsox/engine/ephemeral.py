"""Machines that end with the process that made them, however that ends.

The maker holds a lock on the file ``owner`` in the machine's directory, and the kernel gives it back when the maker is gone. Two
things follow from a free lock. At once: flock(1), which has been waiting for it since the machine was made, has the machine removed
(`bandsox.engine.cleanup_child`); hence this lock is one of flock(2), unlike all others. And should that waiter have been killed too:
whoever looks at the machines next removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_NAME = "owner"


class Ownership:
    """That this process has made a machine which is to end with it."""

    def __init__(self, directory: Path) -> None:
        """Claim the machine of a directory that nobody else can see yet."""
        self._descriptor = os.open(directory / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._waiter: subprocess.Popen[bytes] | None = None

    def watch(self, storage_dir: Path, directory: Path) -> None:
        """Have the machine removed as soon as this process has ended."""
        package = os.fspath(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        remover = [sys.executable, "-m", "bandsox.engine.cleanup_child", os.fspath(storage_dir), directory.name]
        with contextlib.suppress(FileNotFoundError):  # a host without flock(1): then the next one who looks removes it
            self._waiter = subprocess.Popen(
                ["flock", os.fspath(directory / _NAME), *remover],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=package,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )

    def give_up(self) -> None:
        """Let go of a machine that has been removed, or is to be kept."""
        if self._waiter is not None:
            self._waiter.kill()
            self._waiter.wait()
        os.close(self._descriptor)


def keep(directory: Path) -> None:
    """Let a machine outlive the process that made it."""
    (directory / _NAME).unlink(missing_ok=True)


def is_abandoned(directory: Path) -> bool:
    """Whether the machine of a directory was to end with its maker, and its maker has ended."""
    try:
        descriptor = os.open(f"{directory}/{_NAME}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def abandoned(machines: Path) -> Iterator[str]:
    """The ids of those below `machines` whose maker has ended."""
    return (entry.parent.name for entry in machines.glob(f"*/{_NAME}") if is_abandoned(entry.parent))
