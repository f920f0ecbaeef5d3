"""Archives that ADD unpacks: tar, plain or compressed with gzip, bzip2, xz or zstd, told by content and never by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bandsox.dockerfile.files import FileNode, PathKey
from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.tarwrite import LayerWriter
from bandsox.dockerfile.view import View
from bandsox.errors import CorruptImage
from bandsox.images.compression import decompress
from bandsox.images.tarstream import ByteStream, Entry, TarReader
from bandsox.images.tree import Kind, split_path

_KINDS = {b"2": Kind.SYMLINK, b"3": Kind.CHARACTER, b"4": Kind.BLOCK, b"5": Kind.DIRECTORY, b"6": Kind.FIFO}
_MAX_UNPACKED = 64 << 30


def is_archive(node: FileNode) -> bool:
    """Whether a file is an archive that ADD unpacks: its first entry can be read."""
    if node.kind is not Kind.FILE or node.size == 0:
        return False
    try:
        return next(iter(TarReader(ByteStream(decompress(node.read())), require_end=True)), None) is not None
    except CorruptImage:
        return False


def unpack(node: FileNode, base: PathKey, owner: tuple[int, int] | None, view: View, writer: LayerWriter) -> None:
    """Write the entries of an archive into a layer, below `base`.

    Parameters
    ----------
    owner: who owns everything; None: who the archive says.
    view: the image so far; links on the way to an entry are followed in it.

    Raises
    ------
    Fault: the archive is broken, or an entry leads out of it.
    """
    total = 0
    parents: dict[PathKey, PathKey] = {}
    try:
        reader = TarReader(ByteStream(decompress(node.read())), require_end=True)
        for entry in reader:
            total += entry.size
            if total > _MAX_UNPACKED:
                raise Fault(f"the archive holds more than {_MAX_UNPACKED >> 30} GiB")
            inside = split_path(entry.path)
            if not inside:
                continue
            above = inside[:-1]
            if above not in parents:
                parents[above] = view.resolve((*base, *above))
            path = (*parents[above], inside[-1])
            if entry.type == b"1":
                writer.add(path, FileNode(Kind.FILE), link=(*base, *split_path(entry.link)))
            else:
                writer.add(path, _node(entry, owner), content=_pieces(reader))
    except CorruptImage as error:
        raise Fault(f"the archive cannot be unpacked: {error.message}", error.remedy) from error


def _node(entry: Entry, owner: tuple[int, int] | None) -> FileNode:
    node = FileNode(
        _KINDS.get(entry.type, Kind.FILE), entry.mode, entry.uid, entry.gid, max(entry.mtime, 0),
        target=entry.link, device=entry.device, xattrs=tuple(sorted((entry.xattrs or {}).items())),
    )  # fmt: skip
    if node.kind is Kind.FILE:
        node = replace(node, size=entry.size, target=b"")
    return replace(node, uid=owner[0], gid=owner[1]) if owner is not None else node


def _pieces(reader: TarReader) -> Iterator[bytes]:
    for piece in reader.content():
        yield bytes(piece)
