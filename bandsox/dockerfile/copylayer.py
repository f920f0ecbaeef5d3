"""The layer of a COPY or ADD: its checksum, which tells whether it was made before, and its making."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Event

from bandsox.dockerfile.archives import unpack
from bandsox.dockerfile.copying import Item
from bandsox.dockerfile.layers import BuiltLayer
from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.tarwrite import LayerWriter
from bandsox.dockerfile.view import View
from bandsox.images.tree import Kind, show_path
from bandsox.workers import Stopped


class Checksums:
    """The checksums of the items of one copy: what each was when it was read first."""

    def __init__(self, items: Iterable[Item], stop: Event) -> None:
        self._items = tuple(items)
        self._stop = stop
        self._contents = [self._content(item) for item in self._items]

    def digest(self) -> str:
        """What the layer depends on: names, kinds, modes, owners and contents, but not times, as in Docker."""
        total = hashlib.sha256()
        for item, content in zip(self._items, self._contents, strict=True):
            node = item.node
            fields = (
                b"/".join(item.path), node.kind.value.encode(), b"%o %d %d %d" % (node.mode, node.uid, node.gid, node.size), node.target,
                b"%d:%d" % node.device, b"/".join(item.link or ()), b"archive" if item.archive else b"",
                *(part for pair in node.xattrs for part in pair), content,
            )  # fmt: skip
            for data in (b"%d" % len(fields), *fields):
                total.update(b"%d:" % len(data) + data)
        return total.hexdigest()

    def write(self, path: Path, view: View, owner: tuple[int, int] | None) -> BuiltLayer:
        """Make the layer at `path`.

        Raises
        ------
        Fault: a source has changed since it was read first, or cannot be stored in a layer.
        """
        with LayerWriter(path) as writer:
            for item, content in zip(self._items, self._contents, strict=True):
                if item.archive:
                    unpack(item.node, item.path, owner, view, writer)
                elif item.node.kind is Kind.FILE and item.link is None:
                    writer.add(item.path, item.node, content=self._verified(item, content))
                else:
                    writer.add(item.path, item.node, link=item.link)
            return BuiltLayer(writer.close(), path, writer.size)

    def _content(self, item: Item) -> bytes:
        if item.node.kind is not Kind.FILE or item.link is not None:
            return b""
        digest = hashlib.sha256()
        for chunk in item.node.read():
            if self._stop.is_set():
                raise Stopped
            digest.update(chunk)
        return digest.digest()

    def _verified(self, item: Item, expected: bytes) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in item.node.read():
            if self._stop.is_set():
                raise Stopped
            digest.update(chunk)
            yield chunk
        if digest.digest() != expected:
            raise Fault(f"{show_path(item.path)} changed while it was being copied", "run the build again when nothing writes to it")
