"""The writable disk of a machine: an empty ext4 file system that takes room only as it is written to.

Formatting takes longer than copying what formatting wrote, so each size is formatted once and copied sparsely.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bandsox.engine import sparse
from bandsox.errors import HostError, InvalidRequest, MissingTool
from bandsox.settings import Layout
from bandsox.tracing import span

MIN_MIB = 16
MAX_MIB = 512 * 1024

_FORMAT = "2"
"""Part of a template's name: raised whenever what follows changes."""

_OPTIONS = ("-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=8", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard")
"""A small journal, nothing reserved for root, and nothing written that can be written later."""

_DIRECTORIES = ("upper", "work")
"""What the guest's overlayfs needs (``docs/protocol.md``, "Booting"); made here once and not in each guest."""


def create(layout: Layout, size_mib: int, target: Path) -> None:
    """Make an empty ext4 disk of `size_mib` at `target`. Blocks for a few ms, the first time of a size for more.

    Raises
    ------
    InvalidRequest: the size is out of bounds.
    MissingTool: mkfs.ext4 is not installed.
    """
    if not MIN_MIB <= size_mib <= MAX_MIB:
        raise InvalidRequest(f"disk_size_mib must be 0 (in memory) or {MIN_MIB} to {MAX_MIB}, not {size_mib}")
    with span("disk", size_mib=size_mib):
        template = layout.disks / f"ext4-{_FORMAT}-{size_mib}.img"
        if not template.exists():
            _format(layout, size_mib, template)
        sparse.copy(template, target)


def _format(layout: Layout, size_mib: int, template: Path) -> None:
    mkfs, debugfs = _tool("mkfs.ext4"), _tool("debugfs")
    with tempfile.TemporaryDirectory(prefix="disk-", dir=layout.temporary) as work:
        image = Path(work) / "disk.img"
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        _run([mkfs, *_OPTIONS, str(image)])
        for name in _DIRECTORIES:  # of root, whoever runs this
            _run([debugfs, "-w", "-R", f"mkdir {name}", str(image)])
        image.chmod(0o400)
        image.rename(template)
    for earlier in set(layout.disks.glob("ext4-*")) - set(layout.disks.glob(f"ext4-{_FORMAT}-*")):
        earlier.unlink(missing_ok=True)


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise MissingTool(f"{name} is not installed", remedy="apt-get install e2fsprogs")
    return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"{Path(command[0]).name} failed", cause=done.stderr.strip())
