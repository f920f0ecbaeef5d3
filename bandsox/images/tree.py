"""The tree of files that a stack of layers amounts to, built entry by entry in memory; nothing touches the host.

The rules are those of the OCI image specification (``layer.md``, "Applying Changesets") and, where it is
silent, of what extracting the layers one over the other with GNU tar or containerd would give: the parent of an
entry may be a symbolic link and is followed inside the image's root, a later entry replaces an earlier one, a
directory over a directory keeps its children and takes the new attributes, and a whiteout hides what *lower*
layers have at its place, wherever in its own layer it stands.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from bandsox.errors import CorruptImage

if TYPE_CHECKING:
    from bandsox.images.squashfs_tables import Content

WHITEOUT_PREFIX = b".wh."
OPAQUE_WHITEOUT = b".wh..wh..opq"
_AUFS_PREFIX = b".wh..wh."
_MAX_NAME = 255
_MAX_PATH = 4096
_MAX_SYMLINKS = 40


class Kind(enum.Enum):
    """What a file is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"


class Inode:
    """A file with its attributes; several names may share it (hard links).

    ``mode`` holds the permission bits only; ``mtime`` is in seconds since the epoch; ``content`` says where a
    regular file's bytes went; ``target`` is a symbolic link's.
    """

    __slots__ = ("content", "device", "gid", "kind", "mode", "mtime", "target", "uid", "xattrs")

    def __init__(
        self,
        kind: Kind,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
        *,
        xattrs: dict[bytes, bytes] | None = None,
        target: bytes = b"",
        device: tuple[int, int] = (0, 0),
        content: Content | None = None,
    ) -> None:
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.xattrs = xattrs
        self.target = target
        self.device = device
        self.content = content


class Directory(Inode):
    """A directory.

    ``layer`` is the number of the layer its attributes are of, ``touched`` the last layer with an entry in it or below.
    """

    __slots__ = ("children", "layer", "parent", "touched")

    def __init__(self, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = 0, *, xattrs: dict[bytes, bytes] | None = None) -> None:
        super().__init__(Kind.DIRECTORY, mode, uid, gid, mtime, xattrs=xattrs)
        self.children: dict[bytes, Inode] = {}
        self.parent: Directory | None = None
        self.layer = 0
        self.touched = 0


class Tree:
    """The files so far, with the layer that is being applied."""

    def __init__(self) -> None:
        self.root = Directory()
        self._layer = 0
        self._parents: dict[tuple[bytes, ...], Directory] = {}
        self._fresh: set[tuple[Directory, bytes]] = set()
        self._aufs_links: dict[tuple[bytes, ...], Inode] = {}

    def next_layer(self) -> None:
        """What comes from now on is of the next layer up."""
        self._layer += 1
        self._parents.clear()
        self._fresh.clear()
        self._aufs_links.clear()

    def apply(self, path: tuple[bytes, ...], inode: Inode) -> None:
        """Apply an entry of the layer: set what is at `path`, or hide something when its name is a whiteout's.

        An empty path is the root directory.

        Raises
        ------
        CorruptImage: the root is not a directory, or a symbolic link on the way leads in a circle.
        """
        name = path[-1] if path else b""
        if path and path[0].startswith(_AUFS_PREFIX) and path[0] != OPAQUE_WHITEOUT:
            self._aufs_links[path] = inode
        elif not name.startswith(WHITEOUT_PREFIX):
            self._put(path, inode)
        elif name == OPAQUE_WHITEOUT:
            self._hide_inside(path[:-1])
        elif not name.startswith(_AUFS_PREFIX):
            self._hide_at((*path[:-1], name[len(WHITEOUT_PREFIX) :]))

    def link(self, path: tuple[bytes, ...], target: tuple[bytes, ...]) -> None:
        """Make `path` another name of the file at `target`.

        Raises
        ------
        CorruptImage: there is no such file, or it is a directory.
        """
        source = self._aufs_links.get(target) or self._lookup(target)
        if source is None or isinstance(source, Directory) or not path:
            what = "which is a directory" if source is not None else "which does not exist"
            raise CorruptImage(f"the hard link {show_path(path)} points to {show_path(target)}, {what}")
        self._put(path, source)

    # ── finding and setting ─────────────────────────────────────────────────────────────────────

    def _put(self, path: tuple[bytes, ...], inode: Inode) -> None:
        if not path:
            if not isinstance(inode, Directory):
                raise CorruptImage("the image's root is not a directory")
            self._take_attributes(self.root, inode)
            return
        parent = self._parent(path[:-1])
        name = path[-1]
        present = parent.children.get(name)
        if isinstance(inode, Directory):
            if isinstance(present, Directory):
                self._take_attributes(present, inode)
                return
            inode.parent = parent
            inode.layer = inode.touched = self._layer
        if present is not None and present.kind in (Kind.DIRECTORY, Kind.SYMLINK):
            self._parents.clear()
        parent.children[name] = inode
        if self._layer > 1:
            self._fresh.add((parent, name))

    def _take_attributes(self, directory: Directory, other: Inode) -> None:
        directory.mode, directory.uid, directory.gid = other.mode, other.uid, other.gid
        directory.mtime, directory.xattrs = other.mtime, other.xattrs
        directory.layer = self._layer

    def _parent(self, path: tuple[bytes, ...]) -> Directory:
        """The directory at `path`, made where it is missing, and marked as touched by this layer up to the root."""
        known = self._parents.get(path)
        if known is not None:
            return known
        found = self._walk(path, create=True)
        assert found is not None
        step: Directory | None = found
        while step is not None and step.touched != self._layer:
            step.touched = self._layer
            step = step.parent
        self._parents[path] = found
        return found

    def _existing(self, path: tuple[bytes, ...]) -> Directory | None:
        return self._parents.get(path) or self._walk(path, create=False)

    def _lookup(self, path: tuple[bytes, ...]) -> Inode | None:
        if not path:
            return self.root
        parent = self._existing(path[:-1])
        return parent.children.get(path[-1]) if parent else None

    def _walk(self, path: tuple[bytes, ...], *, create: bool) -> Directory | None:
        """The directory at `path`, following symbolic links as if the image's root were ``/``.

        Where `create`, missing directories are made (0755, root's) and a file in the way is replaced by one.
        """
        current = self.root
        rest = list(reversed(path))
        links = 0
        while rest:
            name = rest.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                current = current.parent or self.root
                continue
            child = current.children.get(name)
            if isinstance(child, Directory):
                current = child
            elif child is not None and child.kind is Kind.SYMLINK:
                links += 1
                if links > _MAX_SYMLINKS:
                    raise CorruptImage(f"too many symbolic links on the way to {show_path(path)}")
                if child.target.startswith(b"/"):
                    current = self.root
                rest.extend(reversed(child.target.split(b"/")))
            elif create:
                current = self._make_directory(current, name)
            else:
                return None
        return current

    def _make_directory(self, parent: Directory, name: bytes) -> Directory:
        made = Directory()
        made.parent = parent
        made.layer = self._layer
        parent.children[name] = made
        return made

    # ── hiding ──────────────────────────────────────────────────────────────────────────────────

    def _hide_at(self, path: tuple[bytes, ...]) -> None:
        """Hide what lower layers have at `path`."""
        parent = self._existing(path[:-1])
        present = parent.children.get(path[-1]) if parent and self._layer > 1 else None
        if parent is None or present is None:
            return
        if self._is_lower(parent, path[-1], present):
            del parent.children[path[-1]]
        elif isinstance(present, Directory):
            self._hide_lower(present)
        self._parents.clear()

    def _hide_inside(self, path: tuple[bytes, ...]) -> None:
        """Hide what lower layers have in the directory at `path`."""
        directory = self._existing(path) if self._layer > 1 else None
        if directory is not None:
            self._hide_children(directory)

    def _is_lower(self, parent: Directory, name: bytes, present: Inode) -> bool:
        """Whether nothing of `present` is of this layer."""
        if isinstance(present, Directory):
            return self._layer not in (present.layer, present.touched)
        return (parent, name) not in self._fresh

    def _hide_lower(self, directory: Directory) -> None:
        """Remove the lower layers' part of a directory that this layer has a part in."""
        if directory.layer < self._layer:
            self._take_attributes(directory, Directory())
        self._hide_children(directory)

    def _hide_children(self, top: Directory) -> None:
        pending = [top]
        while pending:
            directory = pending.pop()
            for name, child in list(directory.children.items()):
                if self._is_lower(directory, name, child):
                    del directory.children[name]
                elif isinstance(child, Directory):
                    if child.layer < self._layer:
                        self._take_attributes(child, Directory())
                    pending.append(child)
        self._parents.clear()


def split_path(raw: bytes) -> tuple[bytes, ...]:
    """A path of an archive as its components: leading ``/`` and every ``.`` dropped.

    Raises
    ------
    CorruptImage: it has a ``..`` component or a NUL, or is longer than a path can be.
    """
    if len(raw) > _MAX_PATH:
        raise CorruptImage(f"a path in the image is {len(raw)} bytes long; Linux allows {_MAX_PATH}")
    if b"\0" in raw:
        raise CorruptImage(f"a path in the image has a NUL byte: {raw[:200]!r}")
    parts = tuple([part for part in raw.split(b"/") if part and part != b"."])
    if b".." in parts:
        raise CorruptImage(
            f"a path in the image leads out of its root: {raw[:200]!r}",
            cause="the archive was made to overwrite files of whoever unpacks it, or by a broken tool",
        )
    if len(raw) > _MAX_NAME and any(len(part) > _MAX_NAME for part in parts):
        raise CorruptImage(f"a file name in the image is longer than {_MAX_NAME} bytes: {raw[:80]!r}…")
    return parts


def show_path(path: tuple[bytes, ...]) -> str:
    """A path as text for messages."""
    return "/" + b"/".join(path).decode("utf-8", "backslashreplace")
