"""Unpacking a hostile guest's tar stream on this host, so that nothing outside the target is read, written or followed.

Every name is walked from a descriptor of the target, one component at a time, with ``O_NOFOLLOW``: no symbolic link is
ever followed, whoever made it and whenever. Files are made anew (``O_EXCL``), after what had their name was removed, so
that nothing is written through a link. Device files, sockets, pipes and set-id bits are left behind. So is a symbolic link
that could lead out of the target: its target may begin with ``..`` as often as its own depth allows and have none later, for
only the leading ones are certain to be applied to real directories.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bandsox.errors import GuestFileError, InvalidRequest, LimitExceeded, ProtocolError
from bandsox.guest.faults import printable
from bandsox.guest.tarread import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Piece, PieceReader, TarEntry, entries
from bandsox.models import TreeResult

DEFAULT_MAX_ENTRIES = 1_000_000
"""How many entries are unpacked at most."""

_MAX_DEPTH = 256
_MAX_KEPT = 256 << 20  # bytes of the names of directories, which are kept until the end
_MAX_NAME = 255
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def extract(pieces: Iterator[Piece], target: Path, base: bytes | None, *, max_entries: int, max_bytes: int | None) -> TreeResult:
    """Unpack a tar stream into the directory `target`, which is made when absent.

    Parameters
    ----------
    base: the first component of every name in the archive, which stands for `target`; None: names are as seen from there, as `tar -C` and
        others write them, with or without ``./``.
    max_entries, max_bytes: bounds on what is unpacked; holes count as bytes.

    Raises
    ------
    ProtocolError: it is no archive, or a name leads elsewhere. LimitExceeded: there is more than allowed.
    OSError: this host's file system refuses.
    """
    target.mkdir(parents=True, exist_ok=True)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, root)
        extraction = _Extraction(root, base, max_entries, max_bytes)
        source = PieceReader(pieces)
        for entry in entries(source):
            extraction.take(entry, source)
        extraction.finish()
    return TreeResult(extraction.count, extraction.bytes, extraction.refused)


class _Extraction:
    def __init__(self, root: int, base: bytes | None, max_entries: int, max_bytes: int | None) -> None:
        self.count = self.bytes = self.refused = 0
        self._root = root
        self._base = base
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._made: list[tuple[bytes, int, float]] = []  # directories: where, final mode, mtime
        self._kept = 0

    def take(self, entry: TarEntry, source: PieceReader) -> None:
        """Unpack one entry."""
        path = self._path(entry.name)
        if not path:
            if entry.kind != DIRECTORY:
                raise GuestFileError("the path is not a directory", guest_code="not_a_directory", errno_name="ENOTDIR", path=None)
            return
        self._count(entry)
        if entry.kind == REGULAR:
            with self._directory(path[:-1]) as parent:
                self._make_file(parent, path[-1], entry, source)
        elif entry.kind == DIRECTORY:
            with self._directory(path[:-1]) as parent:
                self._make_directory(parent, path, entry)
        elif entry.kind == SYMLINK and not _leads_out(entry.target, len(path) - 1):
            with self._directory(path[:-1]) as parent:
                _clear(parent, path[-1])
                os.symlink(entry.target, path[-1], dir_fd=parent)
        elif entry.kind == HARD_LINK:
            self._make_link(path, self._path(entry.target))
        else:
            self.refused += 1

    def finish(self) -> None:
        """Give the directories that were made their modes and times, the innermost first."""
        for path, mode, mtime in reversed(self._made):
            with self._directory(path.split(b"/")) as directory:
                os.fchmod(directory, mode)
                os.utime(directory, (mtime, mtime))

    def _count(self, entry: TarEntry) -> None:
        self.count += 1
        self.bytes += entry.size
        if self.count > self._max_entries:
            raise LimitExceeded(f"the tree has more than {self._max_entries} entries")
        if self._max_bytes is not None and self.bytes > self._max_bytes:
            raise LimitExceeded(f"the tree has more than {self._max_bytes} bytes")

    def _path(self, name: bytes) -> list[bytes]:
        """The components below the target.

        Raises
        ------
        ProtocolError: the name is not one below it.
        """
        path = name.split(b"/")
        first = None if self._base is None else path.pop(0)
        if first != self._base or len(path) > _MAX_DEPTH:
            raise ProtocolError(f"the guest's archive has an entry outside the tree that was asked for: {_shown(name)}")
        if self._base is None:
            path = [component for component in path if component != b"."]
        for component in path:
            if component in {b"", b".", b".."} or len(component) > _MAX_NAME or b"\0" in component:
                raise ProtocolError(f"the guest's archive has an entry whose name is no name: {_shown(name)}")
        return path

    @contextlib.contextmanager
    def _directory(self, path: list[bytes]) -> Iterator[int]:
        """A descriptor of a directory below the target, reached without following a link."""
        here = os.dup(self._root)
        try:
            for component in path:
                below = os.open(component, _DIRECTORY_FLAGS, dir_fd=here)
                os.close(here)
                here = below
            yield here
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ProtocolError(
                f"the guest's archive has an entry below something that is no directory: {_shown(b'/'.join(path))}"
            ) from error
        finally:
            os.close(here)

    def _make_file(self, parent: int, name: bytes, entry: TarEntry, source: PieceReader) -> None:
        _clear(parent, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, entry.mode & 0o777, dir_fd=parent)
        with contextlib.ExitStack() as undo:
            undo.callback(os.unlink, name, dir_fd=parent)
            try:
                for offset, length in entry.spans:
                    _copy(source, file, offset, length)
                os.ftruncate(file, entry.size)
                os.utime(file, (entry.mtime, entry.mtime))
            finally:
                os.close(file)
            undo.pop_all()

    def _make_directory(self, parent: int, path: list[bytes], entry: TarEntry) -> None:
        name = path[-1]
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return
            os.unlink(name, dir_fd=parent)
        os.mkdir(name, entry.mode & 0o777, dir_fd=parent)
        with self._directory(path) as made:
            mode = stat.S_IMODE(os.fstat(made).st_mode)
            os.fchmod(made, mode | stat.S_IRWXU)
        self._made.append((b"/".join(path), mode, entry.mtime))
        self._kept += len(entry.name)
        if self._kept > _MAX_KEPT:
            raise LimitExceeded(f"the names of the tree's directories have more than {_MAX_KEPT >> 20} MiB")

    def _make_link(self, path: list[bytes], original: list[bytes]) -> None:
        """Link to a regular file. A link to a symbolic link would move it to another depth, where it may lead out."""
        with self._directory(original[:-1]) as source, self._directory(path[:-1]) as parent:
            if not original or not stat.S_ISREG(os.stat(original[-1], dir_fd=source, follow_symlinks=False).st_mode):
                self.refused += 1
                return
            if original == path:
                raise ProtocolError("the guest's archive has a file that is a link to itself")
            _clear(parent, path[-1])
            os.link(original[-1], path[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _copy(source: PieceReader, file: int, offset: int, length: int) -> None:
    for chunk in source.chunks(length):
        rest = chunk
        while rest:
            written = os.pwrite(file, rest, offset)
            offset += written
            rest = rest[written:]


def _clear(parent: int, name: bytes) -> None:
    """Remove the file or link `name`, so that a new one can be made."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise InvalidRequest(f"a directory of this host is in the way of {_shown(name)}") from error
        raise


def _leads_out(target: bytes, depth: int) -> bool:
    """Whether a symbolic link in a directory `depth` levels below the target could lead out of it."""
    components = [component for component in target.split(b"/") if component not in {b"", b"."}]
    ups = 0
    while ups < len(components) and components[ups] == b"..":
        ups += 1
    return not target or target.startswith(b"/") or ups > depth or b".." in components[ups:] or b"\0" in target


def _shown(name: bytes) -> str:
    return printable(os.fsdecode(name), 200)
