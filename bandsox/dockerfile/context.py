"""The build context: the directory that COPY and ADD take files from, and nothing outside it.

Every component of every path is opened by itself, relative to the directory before it and without following links
(openat(2) with O_NOFOLLOW), so neither `..` nor a symbolic link leads out, not even one that is swapped in while the build
runs. Links on the way to a source are followed by this module, as if the context were the root directory, as Docker does;
links inside a directory that is copied stay links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bandsox.dockerfile.files import FileNode, FileSource, PathKey, no_content
from bandsox.dockerfile.layers import CHUNK
from bandsox.dockerfile.patterns import IgnoreRules, read_ignore_file
from bandsox.dockerfile.source import Fault
from bandsox.errors import InvalidRequest
from bandsox.images.tree import Kind, show_path

_MAX_IGNORE_FILE = 4 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFIFO: Kind.FIFO}


class BuildContext(FileSource):
    """An open build context. Close it after the build.

    Parameters
    ----------
    directory: the context; ignored: what its ignore file leaves out.

    Raises
    ------
    InvalidRequest: there is no such directory, or it cannot be read.
    """

    name = "the build context"
    confined = True

    def __init__(self, directory: Path, ignored: IgnoreRules) -> None:
        self.directory = directory
        self._ignored = ignored
        try:
            self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidRequest(f"the build context {directory} cannot be opened", cause=os.strerror(error.errno or 0)) from error

    def close(self) -> None:
        """Close it."""
        os.close(self._root)

    def entry(self, path: PathKey) -> FileNode | None:
        """The file at `path`, where no component but the last may be a symbolic link; None where there is none or it is left out."""
        if path and self._ignored.ignores(_text(path)) and not self._has_kept_below(path):
            return None
        directory = self._open_directory(path[:-1])
        if directory is None:
            return None
        try:
            status = os.stat(path[-1] if path else b".", dir_fd=directory, follow_symlinks=False)
            return self._node(path, status, directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Fault(f"{show_path(path)} of the build context cannot be read: {os.strerror(error.errno or 0)}") from error
        finally:
            os.close(directory)

    def names(self, path: PathKey) -> list[bytes]:
        """The names in the directory at `path`, sorted, less those left out."""
        directory = self._open_directory(path)
        if directory is None:
            return []
        names = _listed(directory)
        if not self._ignored:
            return names
        return [name for name in names if not self._ignored.ignores(_text((*path, name))) or self._has_kept_below((*path, name))]

    def _has_kept_below(self, path: PathKey) -> bool:
        """Whether an ignored directory holds something that a later `!` pattern keeps."""
        if self._ignored.ignores_all_below(_text(path)):
            return False
        directory = self._open_directory(path)
        if directory is None:
            return False
        below = [(*path, name) for name in _listed(directory)]
        return any(not self._ignored.ignores(_text(one)) for one in below) or any(self._has_kept_below(one) for one in below)

    def _open_directory(self, path: PathKey) -> int | None:
        """Open the directory at `path`; None where it does not exist or a link is in the way."""
        current = os.dup(self._root)
        for part in path:
            try:
                following = os.open(part, _DIRECTORY, dir_fd=current)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if error.errno in _LINK_IN_THE_WAY:
                    return None
                raise Fault(f"{show_path(path)} of the build context cannot be read: {os.strerror(error.errno or 0)}") from error
            finally:
                os.close(current)
            current = following
        return current

    def _node(self, path: PathKey, status: os.stat_result, directory: int) -> FileNode | None:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return None  # sockets and devices do not travel, as with Docker
        regular = kind is Kind.FILE
        return FileNode(
            kind,
            mode=0o777 if kind is Kind.SYMLINK else stat.S_IMODE(status.st_mode),
            mtime=int(status.st_mtime),
            size=status.st_size if regular else 0,
            target=os.readlink(path[-1], dir_fd=directory) if kind is Kind.SYMLINK else b"",
            inode=(status.st_dev, status.st_ino) if regular and status.st_nlink > 1 else None,
            read=partial(self._content, path) if regular else no_content,
        )

    def _content(self, path: PathKey) -> Iterator[bytes]:
        directory = self._open_directory(path[:-1])
        if directory is None:
            raise Fault(f"{show_path(path)} disappeared from the build context during the build", "run the build again")
        try:
            descriptor = os.open(path[-1], _FILE, dir_fd=directory)
        except OSError as error:
            raise Fault(f"{show_path(path)} of the build context cannot be read: {os.strerror(error.errno or 0)}") from error
        finally:
            os.close(directory)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Fault(f"{show_path(path)} of the build context became something else during the build", "run the build again")
            while chunk := file.read(CHUNK):
                yield chunk


_LINK_IN_THE_WAY = (40, 20)
"""ELOOP and ENOTDIR: what O_NOFOLLOW gives for a symbolic link, depending on O_DIRECTORY."""


def _listed(directory: int) -> list[bytes]:
    """The names in an open directory, sorted; closes it."""
    try:
        with os.scandir(directory) as entries:
            return sorted(os.fsencode(entry.name) for entry in entries)
    finally:
        os.close(directory)


def _text(path: PathKey) -> str:
    return os.fsdecode(b"/".join(path))


def ignore_rules(context: Path, dockerfile: Path | None) -> IgnoreRules:
    """What a context leaves out: by `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` (or `.containerignore`) in it.

    Raises
    ------
    InvalidRequest: the file cannot be read, or has a malformed pattern.
    """
    candidates = [context / ".containerignore", context / ".dockerignore"]
    if dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(f"{dockerfile.name}.dockerignore"))
    for path in candidates:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if path.parent == context else 0))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read", cause=os.strerror(error.errno or 0)) from error
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(_MAX_IGNORE_FILE + 1)
        if len(data) > _MAX_IGNORE_FILE:
            raise InvalidRequest(f"{path} is longer than {_MAX_IGNORE_FILE >> 20} MiB")
        try:
            return IgnoreRules(read_ignore_file(os.fsdecode(data)))
        except Fault as fault:
            raise InvalidRequest(f"{path}: {fault.message}", remedy=fault.remedy) from fault
    return IgnoreRules(())
