"""Writing a layer: a pax tar with names as bytes, whose digest is known at its end."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from bandsox.dockerfile.files import FileNode, PathKey
from bandsox.dockerfile.source import Fault
from bandsox.images.tree import WHITEOUT_PREFIX, Kind, show_path

_BLOCK = 512
_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.CHARACTER: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}


def header(path: PathKey, node: FileNode, *, link: PathKey | None = None) -> bytes:
    """The header of an entry; with `link` it is another name of that path.

    Raises
    ------
    Fault: a layer cannot hold such a name.
    """
    if any(part.startswith(WHITEOUT_PREFIX) for part in path):
        raise Fault(f"{show_path(path)} cannot be stored: names that begin with .wh. mean deletions in an image", "rename it")
    info = tarfile.TarInfo(_text(b"/".join(path)) if path else "./")
    info.type = tarfile.LNKTYPE if link is not None else _TYPES[node.kind]
    info.mode, info.uid, info.gid, info.mtime = node.mode, node.uid, node.gid, node.mtime
    info.size = node.size if link is None and node.kind is Kind.FILE else 0
    info.linkname = _text(b"/".join(link)) if link is not None else _text(node.target)
    info.devmajor, info.devminor = node.device
    info.pax_headers = {f"SCHILY.xattr.{_text(name)}": _text(value) for name, value in node.xattrs} if link is None else {}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def whiteout(path: PathKey) -> bytes:
    """The header of the entry that hides `path` of lower layers."""
    info = tarfile.TarInfo(_text(b"/".join((*path[:-1], WHITEOUT_PREFIX + path[-1]))))
    info.mode = 0o600
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@dataclass(slots=True)
class LayerWriter:
    """A layer under way, written to `path`; `close` ends and flushes it. Leaving the block by an exception removes it."""

    path: Path
    entries: int = 0
    size: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    _file: int = -1

    def __enter__(self) -> LayerWriter:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)
        if error is not None:
            self.path.unlink(missing_ok=True)

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes as they are."""
        self._hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def raw(self, pieces: Iterator[bytes]) -> None:
        """Add one entry that is a tar entry already."""
        self.entries += 1
        for piece in pieces:
            self.write(piece)

    def add(self, path: PathKey, node: FileNode, *, link: PathKey | None = None, content: Iterator[bytes] | None = None) -> None:
        """Add an entry with its content.

        Raises
        ------
        Fault: its content has not the size it should have, or a layer cannot hold it.
        """
        self.entries += 1
        self.write(header(path, node, link=link))
        if link is not None or node.kind is not Kind.FILE:
            return
        written = 0
        for piece in content if content is not None else node.read():
            written += len(piece)
            if written > node.size:
                break
            self.write(piece)
        if written != node.size:
            raise Fault(f"{show_path(path)} changed while it was being copied", "run the build again when nothing writes to it")
        self.write(bytes(-written % _BLOCK))

    def close(self) -> str:
        """End the layer and flush it to the disk; return its digest."""
        self.write(bytes(2 * _BLOCK))
        os.fsync(self._file)
        return "sha256:" + self._hash.hexdigest()
