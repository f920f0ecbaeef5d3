"""What a room shows of programs in their places."""

from __future__ import annotations

from pathlib import Path

from bandsox.vmm.room import PROGRAMS


def leads_to_programs(path: Path) -> bool:
    """Whether a path is a link into the room's programs, of which the host knows nothing."""
    return path.is_symlink() and path.readlink().is_relative_to(PROGRAMS)
