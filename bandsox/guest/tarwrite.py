"""A directory of this host as a tar stream, made on the fly and in constant memory.

The format is pax (POSIX.1-2017, pax, "pax Interchange Format"), headers by `tarfile`. The tree may change while it is read: what has
gone is left out, and a file is copied with the size it had when its turn came, filled up with zeros if it has shrunk.
"""

from __future__ import annotations

import fnmatch
import os
import stat
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from bandsox.errors import InvalidRequest
from bandsox.guest.localfiles import open_regular

BLOCK = 512
"""The size, in bytes, that everything in a tar archive is filled up to."""

_ZEROS = bytes(64 << 10)


class Sink(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        ...

    def fill(self, read_into: Callable[[memoryview], int], size: int | None = None) -> int:
        """Append what `read_into` puts into the buffers it is given, until its end (0) or `size` bytes; the number of bytes."""
        ...


class TreeFilter:
    """Which files of a tree are meant; see `TransferOperations.upload_tree` for the patterns."""

    def __init__(self, pattern: str | Sequence[str] | None, skip_pattern: str | Sequence[str] | None) -> None:
        self._wanted = _patterns(pattern)
        self._skipped = _patterns(skip_pattern)

    @property
    def takes_all(self) -> bool:
        """Whether every file is meant that is not left out, and so every directory too."""
        return not self._wanted

    def leaves_out(self, path: bytes) -> bool:
        """Whether `path`, relative to the tree, is left out with all below it."""
        return _matches(path, self._skipped)

    def takes(self, path: bytes) -> bool:
        """Whether the file `path` is meant."""
        return self.takes_all or _matches(path, self._wanted)


def _patterns(patterns: str | Sequence[str] | None) -> list[bytes]:
    if patterns is None:
        return []
    return [os.fsencode(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]


def _join(directory: bytes, name: bytes) -> bytes:
    """The path of `name` in `directory`; either may be empty."""
    return directory + b"/" + name if directory and name else directory + name


def _matches(path: bytes, patterns: list[bytes]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path.rpartition(b"/")[2], pattern) for pattern in patterns)


def write_tree(writer: Sink, root: Path, selection: TreeFilter, uid: int, gid: int) -> None:
    """Write what is below `root`, as owned by `uid` and `gid`.

    Raises
    ------
    OSError: something cannot be read.
    """
    archive = _Archive(writer, os.fsencode(root), uid, gid)
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        for name, is_directory in archive.scan(directory):
            path = _join(directory, name)
            if selection.leaves_out(path):
                continue
            if is_directory:
                waiting.append(path)
                if selection.takes_all:
                    archive.add(path)
            elif selection.takes(path):
                if not selection.takes_all:
                    archive.add_parents(path)
                archive.add(path)
    writer.write(bytes(2 * BLOCK))


class _Archive:
    def __init__(self, writer: Sink, root: bytes, uid: int, gid: int) -> None:
        self._writer = writer
        self._root = root
        self._uid, self._gid = uid, gid
        self._parents: set[bytes] = set()

    def scan(self, directory: bytes) -> list[tuple[bytes, bool]]:
        """The names in `directory`, sorted, and whether each is a directory; nothing when it has gone."""
        try:
            with os.scandir(_join(self._root, directory)) as entries:
                return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def add_parents(self, path: bytes) -> None:
        """Add the directories above `path` that `add_parents` has not added yet."""
        parent = path.rpartition(b"/")[0]
        if parent and parent not in self._parents:
            self.add_parents(parent)
            self.add(parent)
            self._parents.add(parent)

    def add(self, path: bytes) -> None:
        """Add one file or directory, unless it has gone meanwhile or is of a kind that does not travel."""
        place = _join(self._root, path)
        try:
            status = os.lstat(place)
            if stat.S_ISREG(status.st_mode):
                self._add_file(path, place)
            elif stat.S_ISDIR(status.st_mode):
                self._add_header(path, status, tarfile.DIRTYPE)
            elif stat.S_ISLNK(status.st_mode):
                self._add_header(path, status, tarfile.SYMTYPE, target=os.readlink(place))  # noqa: PTH115 - pathlib has no paths of bytes
            elif stat.S_ISFIFO(status.st_mode):
                self._add_header(path, status, tarfile.FIFOTYPE)
        except (FileNotFoundError, InvalidRequest):
            return  # it has gone, or something else stands there by now

    def _add_file(self, path: bytes, place: bytes) -> None:
        with open_regular(place, os.O_NOFOLLOW) as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            self._add_header(path, status, tarfile.REGTYPE, size=size)
            missing = size - self._writer.fill(lambda space: file.readinto(space) or 0, size)
        self._fill(missing + -size % BLOCK)

    def _fill(self, count: int) -> None:
        while count:
            piece = _ZEROS[:count]
            self._writer.write(piece)
            count -= len(piece)

    def _add_header(self, path: bytes, status: os.stat_result, kind: bytes, *, size: int = 0, target: bytes = b"") -> None:
        info = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
        info.type = kind
        info.size = size
        info.mode = stat.S_IMODE(status.st_mode) & ~(stat.S_ISUID | stat.S_ISGID)  # they go with an owner
        info.mtime = int(status.st_mtime)
        info.uid, info.gid = self._uid, self._gid
        info.linkname = target.decode("utf-8", "surrogateescape")
        self._writer.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
