"""The files of an image under construction, seen from this host: a base image with layers on top.

Nothing is unpacked: a question goes from the topmost layer down to the base's squashfs until one of them answers it.
"""

from __future__ import annotations

from bandsox.dockerfile.files import FileNode, FileSource, PathKey
from bandsox.dockerfile.layers import LayerIndex
from bandsox.dockerfile.rootfs import RootFS
from bandsox.images.tree import Kind


class View(FileSource):
    """An image's files."""

    def __init__(self, base: RootFS | None, layers: tuple[LayerIndex, ...] = ()) -> None:
        self._base = base
        self._layers = layers

    def with_layer(self, layer: LayerIndex) -> View:
        """The view with one more layer."""
        return View(self._base, (*self._layers, layer))

    def entry(self, path: PathKey) -> FileNode | None:
        """The file at `path`, where no component but the last may be a symbolic link."""
        return self._entry(path, len(self._layers))

    def _entry(self, path: PathKey, layers: int) -> FileNode | None:
        for number in range(layers - 1, -1, -1):
            layer = self._layers[number]
            found = layer.files.get(path)
            if found is not None:
                if isinstance(found.inode, tuple) and found.inode[0] == "link":
                    return self._entry(tuple(found.inode[1:]), number)
                return found
            if path in layer.children:
                return self._implicit(path, number)
            if layer.hides(path):
                return None
        if not path and self._base is None:
            return FileNode(Kind.DIRECTORY)
        return self._base.find(path) if self._base is not None else None

    def _implicit(self, path: PathKey, number: int) -> FileNode:
        """A directory that a layer has something in without an entry of its own: as below it, else made."""
        layer = self._layers[number]
        below = None if layer.hides(path) else self._entry(path, number)
        return below if below is not None and below.kind is Kind.DIRECTORY else FileNode(Kind.DIRECTORY)

    def names(self, path: PathKey) -> list[bytes]:
        """The names in the directory at `path`, sorted."""
        found: dict[bytes, None] = {}
        for number in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[number]
            found.update(dict.fromkeys(layer.children.get(path, ())))
            entry = layer.files.get(path)
            if layer.hides(path) or path in layer.opaque or (entry is not None and entry.kind is not Kind.DIRECTORY):
                break
        else:
            if self._base is not None:
                found.update(dict.fromkeys(self._base.list(path)))
        return sorted(name for name in found if self.entry((*path, name)) is not None)

    def read_text(self, path: PathKey, limit: int) -> str:
        """The beginning of a text file, at most `limit` bytes; empty where there is none."""
        node = self.find(path)
        if node is None or node.kind is not Kind.FILE:
            return ""
        data = bytearray()
        for chunk in node.read():
            data += chunk
            if len(data) >= limit:
                break
        return bytes(data[:limit]).decode("utf-8", "replace")
