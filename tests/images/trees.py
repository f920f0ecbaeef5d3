"""File trees as plain values, to be compared: of a squashfs image (through unsquashfs), and of a directory."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """All there is to know of a file, but its name and the number of its links."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    content: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
}

Tree = dict[bytes, File]


def tree_of_directory(root: Path | str | bytes) -> Tree:
    """Every file under `root` by its path relative to it; the root is ``b"."``."""
    top = os.fsencode(root)
    found: Tree = {b".": _file(top)}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = directory + b"/" + name
            found[os.path.relpath(path, top)] = _file(path)
    return found


def links_of_directory(root: Path | str | bytes) -> set[frozenset[bytes]]:
    """The groups of names that are one file."""
    top = os.fsencode(root)
    groups: dict[tuple[int, int], set[bytes]] = {}
    for directory, _, files in os.walk(top):
        for name in files:
            path = directory + b"/" + name
            status = os.lstat(path)
            if status.st_nlink > 1:
                groups.setdefault((status.st_dev, status.st_ino), set()).add(os.path.relpath(path, top))
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def unpack_squashfs(image: Path, target: Path) -> Path:
    """Unpack an image with unsquashfs, an implementation that is not ours."""
    done = subprocess.run(
        ["unsquashfs", "-no-progress", "-quiet", "-dest", str(target), str(image)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def tree_of_squashfs(image: Path) -> Tree:
    with tempfile.TemporaryDirectory() as work:
        return tree_of_directory(unpack_squashfs(image, Path(work) / "tree"))


def links_of_squashfs(image: Path) -> set[frozenset[bytes]]:
    with tempfile.TemporaryDirectory() as work:
        return links_of_directory(unpack_squashfs(image, Path(work) / "tree"))


def content(text: bytes) -> str:
    """What `File.content` is of a file of these bytes."""
    return hashlib.sha256(text).hexdigest()


def _file(path: bytes) -> File:
    status = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    held = ""
    if kind == "file":
        held = content(Path(os.fsdecode(path)).read_bytes())
    elif kind == "symlink":
        held = str(Path(os.fsdecode(path)).readlink())
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return File(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=int(status.st_mtime),
        content=held,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in ("character", "block") else (0, 0),
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
    )
