"""Whether a file is still the one that was looked at, without looking at what is in it."""

from __future__ import annotations

from pathlib import Path

Identity = tuple[int, int, int, int]
"""What a file has as long as nobody has written to it: inode, size, and the times in ns of its last change and change of state."""


def identity(path: Path) -> Identity:
    """The identity of the file at `path`; raises OSError where there is none."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
