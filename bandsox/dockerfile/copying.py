"""What COPY and ADD put where: from sources and a destination to the entries of a layer.

The rules are those of the Dockerfile reference and, where it is silent, of BuildKit: a directory's contents are copied, not
the directory; a file goes into the destination when that is a directory or ends with a slash; what the destination
lacks on the way is made (0755, with the owner of --chown). Files of the context belong to root, files of an image or stage
keep their owner. One difference: where a directory is copied onto a link to a directory, it is merged with what the link
leads to (BuildKit refuses), so that ``COPY rootfs/ /`` works on images whose ``/lib`` is a link.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from bandsox.dockerfile.archives import is_archive
from bandsox.dockerfile.files import FileNode, FileSource, PathKey
from bandsox.dockerfile.patterns import IgnoreRules, compile_match, is_pattern, unescape
from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.view import View
from bandsox.images.tree import Kind, show_path


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """One COPY or ADD with its variables replaced.

    ``files`` are sources that are no names: here-documents and downloads, with the names they get. ``unpack``: whether archives are
    unpacked: all (ADD), none, or as ADD does where None and ``add``. ``mode`` and ``owner`` are None to keep those of the source.
    """

    sources: tuple[str, ...]
    destination: str
    workdir: str
    tree: FileSource
    files: tuple[tuple[bytes, FileNode], ...] = ()
    owner: tuple[int, int] | None = None
    mode: int | None = None
    parents: bool = False
    exclude: IgnoreRules = field(default_factory=lambda: IgnoreRules(()))
    unpack: bool = False
    unpack_files: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of the layer; with ``link`` it is another name of that entry. ``archive``: what it holds is unpacked at ``path`` instead."""

    path: PathKey
    node: FileNode
    link: PathKey | None = None
    archive: bool = False


@dataclass(frozen=True, slots=True)
class _Match:
    """A source that was found: its path as named, with which `base` of it begins what is copied, and where it really is."""

    name: PathKey
    path: PathKey
    node: FileNode


def plan_copy(request: CopyRequest, view: View) -> list[Item]:
    """The entries that a copy makes, in the order of a layer: sorted, directories before what is in them.

    Raises
    ------
    Fault: a source does not exist or leads out of the context, or what it is does not fit what the destination is.
    """
    planner = _Planner(request, view)
    for text in request.sources:
        for match in _matches(request.tree, text):
            planner.add(match, _kept_parents(text, match) if request.parents else ())
    for name, node in request.files:
        planner.add_file((name,), node, (), archive=request.unpack_files and is_archive(node))
    return planner.finish()


def destination_path(text: str, workdir: str) -> tuple[PathKey, bool]:
    """A destination as components, and whether it can only be a directory."""
    directory = text.endswith("/") or posixpath.basename(text) in (".", "..") or not text
    return split(posixpath.join(workdir or "/", text)), directory


def split(path: str) -> PathKey:
    """An absolute path as components, ``.`` and ``..`` taken out as they are written."""
    parts: list[bytes] = []
    for part in path.encode("utf-8", "surrogateescape").split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


# ── sources ─────────────────────────────────────────────────────────────────────────────────────


def _matches(tree: FileSource, text: str) -> list[_Match]:
    """What a source means.

    Raises
    ------
    Fault: nothing.
    """
    found: list[tuple[PathKey, PathKey]] = [((), ())]
    for part in text.split("/"):
        if part in ("", "."):
            continue
        if is_pattern(part):
            expression = compile_match(part)
            found = [
                ((*name, child), tree.resolve((*path, child)))
                for name, path in found
                for child in tree.names(path)
                if expression.match(child.decode("utf-8", "surrogateescape"))
            ]
        else:
            literal = unescape(part).encode("utf-8", "surrogateescape")
            found = [((*name, literal), tree.resolve((*path, literal))) for name, path in found]
    matches = [_Match(name, path, node) for name, path in found if (node := tree.entry(path)) is not None]
    if not matches and not is_pattern(text):
        raise Fault(f"{text} does not exist in {tree.name}", _ignored_hint(tree))
    return matches


def _ignored_hint(tree: FileSource) -> str | None:
    return "check its spelling, and whether .dockerignore leaves it out" if tree.confined else None


def _kept_parents(text: str, match: _Match) -> PathKey:
    """With --parents: the directories of the source that appear in the destination, those behind a ``/./`` where there is one."""
    parts = [part for part in text.split("/") if part]
    pivot = parts.index(".", 1) if "." in parts[1:] else 0
    dropped = sum(part != "." for part in parts[:pivot])
    return match.name[dropped:-1]


# ── entries ─────────────────────────────────────────────────────────────────────────────────────


class _Planner:
    """The entries so far."""

    def __init__(self, request: CopyRequest, view: View) -> None:
        self._request = request
        self._view = view
        self._items: dict[PathKey, Item] = {}
        self._archives: list[Item] = []
        named, self._is_directory = destination_path(request.destination, request.workdir)
        self._destination = view.resolve(named)
        several = len(request.sources) + len(request.files) > 1
        there = view.entry(self._destination)
        if several and not self._is_directory and not (there is not None and there.kind is Kind.DIRECTORY):
            raise Fault("several sources need a directory as destination", "end the destination with a slash (/)")
        if self._is_directory and there is not None and there.kind is not Kind.DIRECTORY:
            raise Fault(f"{show_path(self._destination)} is not a directory in the image")
        self._is_directory = self._is_directory or there is not None or several
        if there is not None and there.kind is not Kind.DIRECTORY:
            self._is_directory = False

    def add(self, match: _Match, parents: PathKey) -> None:
        """Add a source that was found."""
        base = self._destination
        if parents:
            base = self._add_parents(match, parents)
        if match.node.kind is not Kind.DIRECTORY:
            unpacked = self._request.unpack and match.node.kind is Kind.FILE and is_archive(match.node)
            if not self._excluded((match.name[-1],)):
                self.add_file((match.name[-1],), match.node, parents, archive=unpacked)
            return
        top = (*base, match.name[-1]) if self._request.parents and match.name else base
        self._add_directory(top, match.node, existing_stays=not self._request.parents)
        for path, node in self._request.tree.walk(match.path):
            below = path[len(match.path) :]
            if not self._excluded(below):
                self._put((*top, *below), node)

    def add_file(self, name: PathKey, node: FileNode, parents: PathKey, *, archive: bool) -> None:
        """Add one file under its name, or as the destination itself."""
        base = (*self._destination, *parents)
        if archive:
            self._archives.append(Item(base, node, archive=True))
        elif self._is_directory or parents:
            self._put((*base, *name), node)
        else:
            self._put(base, node)

    def finish(self) -> list[Item]:
        """All entries, with the directories that are missing on the way and hard links as such."""
        if not self._items and not self._archives:
            raise Fault("none of the sources matches a file", "check the patterns, and what .dockerignore leaves out")
        for item in list(self._items.values()):
            self._make_parents(item.path)
        for archive in self._archives:
            self._make_parents((*archive.path, b""))
        return [*_with_links(sorted(self._items.values(), key=lambda item: item.path)), *self._archives]

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────

    def _excluded(self, path: PathKey) -> bool:
        rules = self._request.exclude
        return bool(rules) and rules.ignores(b"/".join(path).decode("utf-8", "surrogateescape"))

    def _add_parents(self, match: _Match, parents: PathKey) -> PathKey:
        """Add the directories above a source as they are there."""
        base = self._destination
        first = len(match.name) - 1 - len(parents)
        for length in range(first + 1, len(match.name)):
            node = self._request.tree.find(match.name[:length])
            base = (*base, match.name[length - 1])
            self._put(base, node if node is not None and node.kind is Kind.DIRECTORY else FileNode(Kind.DIRECTORY))
        return base

    def _add_directory(self, path: PathKey, node: FileNode, *, existing_stays: bool) -> None:
        there = self._view.entry(path)
        if there is not None and there.kind is not Kind.DIRECTORY:
            raise Fault(f"a directory cannot be copied onto {show_path(path)}, which is a file in the image")
        if there is None or not existing_stays:
            self._put(path, node)
        else:
            self._items.setdefault(path, Item(path, there))

    def _put(self, path: PathKey, node: FileNode) -> None:
        """Set an entry, with the owner and mode that were asked for."""
        real = (*self._view.resolve(path[:-1]), path[-1]) if path else path
        there = self._view.entry(real)
        if node.kind is Kind.DIRECTORY and there is not None and there.kind is Kind.SYMLINK:
            real = self._view.resolve(real)
            there = self._view.entry(real)
        if there is not None and (there.kind is Kind.DIRECTORY) != (node.kind is Kind.DIRECTORY):
            what = ("a directory", "a file") if node.kind is Kind.DIRECTORY else ("a file", "a directory")
            raise Fault(f"{what[0]} cannot be copied onto {show_path(real)}, which is {what[1]} in the image")
        mode = self._request.mode if self._request.mode is not None and node.kind is not Kind.SYMLINK else node.mode
        uid, gid = self._request.owner if self._request.owner is not None else (node.uid, node.gid)
        self._items[real] = Item(real, replace(node, mode=mode, uid=uid, gid=gid))

    def _make_parents(self, path: PathKey) -> None:
        for length in range(len(path) - 1, 0, -1):
            parent = path[:length]
            item = self._items.get(parent)
            if item is not None:
                if item.node.kind is not Kind.DIRECTORY:
                    raise Fault(f"{show_path(parent)} would be a file and a directory")
                continue
            there = self._view.entry(parent)
            if there is not None:
                if there.kind is not Kind.DIRECTORY:
                    raise Fault(f"{show_path(parent)} is not a directory in the image")
                return
            uid, gid = self._request.owner or (0, 0)
            self._items[parent] = Item(parent, FileNode(Kind.DIRECTORY, 0o755, uid, gid))


def _with_links(items: Iterable[Item]) -> Iterator[Item]:
    """The entries, every further name of a file as a link to its first."""
    first: dict[object, PathKey] = {}
    for item in items:
        inode = item.node.inode
        if inode is None or item.node.kind is not Kind.FILE:
            yield item
        elif inode in first:
            yield replace(item, link=first[inode])
        else:
            first[inode] = item.path
            yield item
