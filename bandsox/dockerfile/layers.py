"""A layer of the build as a file on this host: an uncompressed OCI layer tar, named by the digest of its content.

Its index says where each file's content lies in it, so that later instructions read single files without unpacking anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bandsox.dockerfile.files import FileNode, PathKey, Reader, no_content
from bandsox.images.tarstream import ByteStream, Entry, TarReader
from bandsox.images.tree import OPAQUE_WHITEOUT, WHITEOUT_PREFIX, Kind, split_path

CHUNK = 1 << 20

_KINDS = {b"2": Kind.SYMLINK, b"3": Kind.CHARACTER, b"4": Kind.BLOCK, b"5": Kind.DIRECTORY, b"6": Kind.FIFO}


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer made by a build: its content's digest (``sha256:…``), its file, and its size in bytes."""

    diff_id: str
    path: Path
    size: int


@dataclass(slots=True)
class LayerIndex:
    """What a layer does: the files it sets, the paths it hides, the directories whose lower content it hides."""

    files: dict[PathKey, FileNode] = field(default_factory=dict)
    children: dict[PathKey, set[bytes]] = field(default_factory=dict)
    hidden: set[PathKey] = field(default_factory=set)
    opaque: set[PathKey] = field(default_factory=set)

    def hides(self, path: PathKey) -> bool:
        """Whether what lower layers have at `path` is not seen any more."""
        for length in range(1, len(path) + 1):
            part = path[:length]
            if part in self.hidden or (length < len(path) and part in self.opaque):
                return True
            over = self.files.get(part)
            if over is not None and length < len(path) and over.kind is not Kind.DIRECTORY:
                return True
        return () in self.opaque


def read_index(path: Path) -> LayerIndex:
    """Read a layer's index; blocks.

    Raises
    ------
    CorruptImage: it is no layer.
    """
    index = LayerIndex()
    with path.open("rb", buffering=0) as file:
        stream = ByteStream(iter(lambda: file.read(CHUNK), b""))
        reader = TarReader(stream)
        for entry in reader:
            _add(index, entry, path, stream, reader)
    return index


def _add(index: LayerIndex, entry: Entry, layer: Path, stream: ByteStream, reader: TarReader) -> None:
    where = split_path(entry.path)
    name = where[-1] if where else b""
    if name == OPAQUE_WHITEOUT:
        index.opaque.add(where[:-1])
        return
    if name.startswith(WHITEOUT_PREFIX):
        index.hidden.add((*where[:-1], name[len(WHITEOUT_PREFIX) :]))
        return
    if entry.type == b"1":
        node = index.files.get(split_path(entry.link))
        if node is None:  # a name of a file of a lower layer, which the view of all layers looks up
            node = FileNode(Kind.FILE, target=entry.link, inode=("link", *split_path(entry.link)))
    else:
        node = _node(entry, layer, stream, reader)
    index.files[where] = node
    for length in range(len(where)):
        index.children.setdefault(where[:length], set()).add(where[length])


def _node(entry: Entry, layer: Path, stream: ByteStream, reader: TarReader) -> FileNode:
    kind = _KINDS.get(entry.type, Kind.FILE)
    offset = stream.consumed
    stored = sum(len(piece) for piece in reader.content()) if kind is Kind.FILE else 0
    read: Reader = no_content
    if kind is Kind.FILE and stream.consumed - offset < entry.size:
        read = partial(_sparse_content, layer, split_path(entry.path))
    elif stored:
        read = partial(file_content, layer, offset, stored)
    return FileNode(
        kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size if kind is Kind.FILE else 0, entry.link,
        entry.device, tuple(sorted((entry.xattrs or {}).items())), (layer, offset), read,
    )  # fmt: skip


def file_content(path: Path, offset: int, size: int) -> Iterator[bytes]:
    """`size` bytes of a file, from `offset` on, in pieces."""
    with path.open("rb", buffering=0) as file:
        while size and (chunk := os.pread(file.fileno(), min(size, CHUNK), offset)):
            offset += len(chunk)
            size -= len(chunk)
            yield chunk


def _sparse_content(layer: Path, wanted: PathKey) -> Iterator[bytes]:
    """A sparse file's content: its map stands in the headers, so the layer is read up to there once more."""
    with layer.open("rb", buffering=0) as file:
        reader = TarReader(ByteStream(iter(lambda: file.read(CHUNK), b"")))
        for entry in reader:
            if split_path(entry.path) == wanted:
                for piece in reader.content():
                    yield bytes(piece)
                return
