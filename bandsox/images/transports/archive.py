"""Random access to the members of a tar archive, without unpacking it anywhere."""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bandsox.errors import CorruptImage, ImageNotFound
from bandsox.images.blobs import BlobStore, file_chunks
from bandsox.images.compression import decompress, detect
from bandsox.images.tarstream import ByteStream, TarReader
from bandsox.workers import Stopped, storage_errors

_CHUNK = 1 << 20
_MAX_MEMBERS = 100_000
_MAX_LINKS = 8


class Archive:
    """The members of an uncompressed tar archive, by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        stream = ByteStream(file_chunks(path))
        for entry in TarReader(stream):
            name = posixpath.normpath(entry.path.decode("utf-8", "surrogateescape")).lstrip("/")
            link = entry.link.decode("utf-8", "surrogateescape")
            if len(self._members) + len(self._links) >= _MAX_MEMBERS:
                raise CorruptImage(f"{path} has more than {_MAX_MEMBERS} members: it is not an archive of an image")
            if entry.type == b"2":
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
            elif entry.type == b"1":
                self._links[name] = posixpath.normpath(link).lstrip("/")
            elif entry.type in (b"0", b"7", b"\0"):
                self._members[name] = (stream.consumed, entry.size)

    def size(self, name: str) -> int | None:
        """A member's size in bytes, or None where there is no such member."""
        found = self._find(name)
        return found[1] if found else None

    def chunks(self, name: str) -> Iterator[bytes]:
        """A member's content.

        Raises
        ------
        CorruptImage: there is no such member.
        """
        found = self._find(name)
        if found is None:
            raise CorruptImage(f"{self._path} has no member {name!r}")
        offset, size = found
        with self._path.open("rb", buffering=0) as file:
            file.seek(offset)
            while size and (chunk := file.read(min(size, _CHUNK))):
                size -= len(chunk)
                yield chunk

    def read(self, name: str, limit: int) -> bytes:
        """A small member's content.

        Raises
        ------
        CorruptImage: there is no such member, or it has more than `limit` bytes.
        """
        if (self.size(name) or 0) > limit:
            raise CorruptImage(f"{name!r} in {self._path} is longer than {limit} bytes")
        return b"".join(self.chunks(name))

    def _find(self, name: str) -> tuple[int, int] | None:
        name = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if name in self._members:
                return self._members[name]
            if name not in self._links:
                return None
            name = self._links[name]
        return None


@contextmanager
def open_archive(path: Path, blobs: BlobStore, limit: int, stop: threading.Event) -> Iterator[Archive]:
    """Open an archive, decompressed to a temporary file first where it is compressed.

    Parameters
    ----------
    limit: the greatest size in bytes that it may have decompressed.

    Raises
    ------
    ImageNotFound: there is no such file.
    CorruptImage: it is no tar archive, damaged, or exceeds `limit`.
    """
    head = read_head(path)
    if detect(head) == "none":
        yield Archive(path)
        return
    with storage_errors(blobs.directory), blobs.temporary_file() as (descriptor, temporary):
        total = 0
        for chunk in decompress(file_chunks(path)):
            total += len(chunk)
            if stop.is_set():
                raise Stopped
            if total > limit:
                raise CorruptImage(f"{path} is larger than {limit >> 20} MiB when unpacked")
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        yield Archive(temporary)


def read_head(path: Path) -> bytes:
    """A file's first bytes.

    Raises
    ------
    ImageNotFound: there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise ImageNotFound(f"{path} cannot be read", cause=error.strerror) from error
