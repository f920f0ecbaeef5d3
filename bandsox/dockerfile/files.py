"""Trees of files that are copied from, whatever they are: the build context, an image, or a stage of the build.

Paths are tuples of components below the root. Symbolic links are followed here and nowhere else, with the tree's own root as
the root directory, so no link leads out of a tree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bandsox.dockerfile.source import Fault
from bandsox.images.tree import Kind, show_path

Reader = Callable[[], Iterator[bytes]]
PathKey = tuple[bytes, ...]

_MAX_SYMLINKS = 40


def no_content() -> Iterator[bytes]:
    """The content of what has none."""
    return iter(())


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file with its attributes.

    ``mode`` holds the permission bits, ``mtime`` seconds since the epoch, ``target`` a symbolic link's. ``read`` opens a
    regular file's content. Files with an equal ``inode`` that is not None are names of one file (hard links).
    """

    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    inode: object = None
    read: Reader = field(default=no_content, compare=False, repr=False)


class FileSource(ABC):
    """A tree of files.

    ``name`` is what messages call it. In a ``confined`` tree a path that leads above the root is an error; in others
    ``/..`` is ``/``.
    """

    name: str = "the image"
    confined: bool = False

    @abstractmethod
    def entry(self, path: PathKey) -> FileNode | None:
        """The file at `path`, where no component but the last may be a symbolic link; None where there is none."""

    @abstractmethod
    def names(self, path: PathKey) -> list[bytes]:
        """The names in the directory at `path`, sorted; none where it is no directory."""

    def resolve(self, path: PathKey) -> PathKey:
        """`path` with all symbolic links followed; what does not exist stays as it is named.

        Raises
        ------
        Fault: links lead in a circle, or above the root of a tree that does not allow that.
        """
        rest = list(reversed(path))
        done: list[bytes] = []
        links = 0
        while rest:
            part = rest.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if not done and self.confined:
                    raise Fault(
                        f"{show_path(path)} leads out of {self.name}",
                        "COPY and ADD see nothing but the context: move the file into it, or build with a larger context",
                    )
                done = done[:-1]
                continue
            node = self.entry((*done, part))
            if node is None or node.kind is not Kind.SYMLINK:
                done.append(part)
                continue
            links += 1
            if links > _MAX_SYMLINKS:
                raise Fault(f"too many symbolic links on the way to {show_path(path)} in {self.name}")
            if node.target.startswith(b"/"):
                done = []
            rest.extend(reversed(node.target.split(b"/")))
        return tuple(done)

    def find(self, path: PathKey) -> FileNode | None:
        """The file that `path` leads to, links followed."""
        return self.entry(self.resolve(path))

    def walk(self, path: PathKey) -> Iterator[tuple[PathKey, FileNode]]:
        """Everything below the directory at `path`, which has no link in it: sorted, directories before what is in them."""
        pending = [(*path, name) for name in reversed(self.names(path))]
        while pending:
            current = pending.pop()
            node = self.entry(current)
            if node is None:
                continue
            yield current, node
            if node.kind is Kind.DIRECTORY:
                pending.extend((*current, name) for name in reversed(self.names(current)))
