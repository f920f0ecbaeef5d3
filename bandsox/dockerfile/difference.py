"""What one RUN changed: the difference between two states of a machine's writable layer.

The agent hands out the whole writable layer, which grows with every RUN of a machine. One layer for each RUN is made here, by
comparing names, attributes and contents with the state before it. That is exact where a comparison of times would not be
(clocks have grains, and `touch -d` exists), and it drops by itself what the boot has written: the state before the first RUN
is what the machine had then. Entries are copied as the tar bytes they came as.

What overlayfs says and what a layer must say differ in one point: a file that an earlier RUN made and this one removed is just
gone from the writable layer, and becomes a whiteout here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from bandsox.dockerfile.files import PathKey
from bandsox.dockerfile.layers import CHUNK
from bandsox.dockerfile.tarwrite import LayerWriter, whiteout
from bandsox.errors import CorruptImage
from bandsox.images.limits import Limits
from bandsox.images.tarstream import ByteStream, Entry, TarReader
from bandsox.images.tree import OPAQUE_WHITEOUT, WHITEOUT_PREFIX, show_path, split_path

_BLOCK = 512
_MAX_FILE = Limits().unpacked
_DIRECTORY = b"5"
_LINK = b"1"
_MACHINE_FILES = frozenset(((b"etc", b"hosts"), (b"etc", b"hostname"), (b"etc", b"resolv.conf"), (b"run", b"bandsox-build")))
"""What a container engine would mount over the image, and so never is part of a layer."""

Record: TypeAlias = tuple[object, ...]


@dataclass(slots=True)
class UpperState:
    """A writable layer as it was: its files' attributes and contents' digests, what it hides, and where each is in the archive."""

    records: dict[PathKey, Record] = field(default_factory=dict)
    hidden: set[PathKey] = field(default_factory=set)
    opaque: set[PathKey] = field(default_factory=set)
    ranges: dict[PathKey, tuple[int, int]] = field(default_factory=dict)
    markers: dict[PathKey, tuple[int, int]] = field(default_factory=dict)

    def add_layer(self, path: Path) -> None:
        """Take over what a layer that was applied in the machine has set."""
        other = read_state(path)
        self.records.update(other.records)
        self.hidden = {where for where in self.hidden if where not in other.records} | other.hidden


@dataclass(frozen=True, slots=True)
class Excluded:
    """What is not of the image: everything at and below ``trees``; directories ``stubs`` unless something else is in them."""

    trees: tuple[PathKey, ...] = ()
    stubs: tuple[PathKey, ...] = ()

    def covers(self, path: PathKey) -> bool:
        """Whether `path` never is part of a layer."""
        if not path or path in _MACHINE_FILES or path[:2] == (b"run", b"bandsox-build"):
            return True
        return any(path[: len(tree)] == tree for tree in self.trees)


def read_state(path: Path, excluded: Excluded = Excluded()) -> UpperState:
    """Read the archive of a writable layer; blocks.

    Raises
    ------
    CorruptImage: it is no archive, or a file in it is larger than an image may be.
    """
    state = UpperState()
    with path.open("rb", buffering=0) as file:
        stream = ByteStream(iter(lambda: file.read(CHUNK), b""))
        reader = TarReader(stream)
        start = 0
        for entry in reader:
            if entry.size > _MAX_FILE:
                raise CorruptImage(f"{show_path(split_path(entry.path))} is larger than {_MAX_FILE >> 30} GiB, holes included")
            digest = hashlib.sha256()
            for piece in reader.content():
                digest.update(piece)
            end = stream.consumed + -stream.consumed % _BLOCK
            where = split_path(entry.path)
            name = where[-1] if where else b""
            if name == OPAQUE_WHITEOUT:
                if not excluded.covers(where[:-1]):
                    state.opaque.add(where[:-1])
                    state.markers[where[:-1]] = (start, end)
            elif name.startswith(WHITEOUT_PREFIX):
                hidden = (*where[:-1], name[len(WHITEOUT_PREFIX) :])
                if not excluded.covers(hidden):
                    state.hidden.add(hidden)
                    state.markers[hidden] = (start, end)
            elif not excluded.covers(where):
                state.records[where] = _record(entry, digest.digest())
                state.ranges[where] = (start, end)
            start = end
    return state


def _record(entry: Entry, content: bytes) -> Record:
    if entry.type == _LINK:
        return (_LINK, split_path(entry.link))
    xattrs = tuple(sorted((entry.xattrs or {}).items()))
    return (entry.type, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size, entry.link, entry.device, xattrs, content)


def write_difference(before: UpperState, after: UpperState, archive: Path, excluded: Excluded, writer: LayerWriter) -> None:
    """Write the layer that leads from `before` to `after`, whose archive is `archive`."""
    renewed = {path for path in after.opaque if path not in before.opaque}
    changed = _without_stubs(_changed(before, after, renewed), excluded.stubs, after)
    hidden = sorted(path for path in after.hidden - before.hidden if not _inside(path, renewed))
    removed = sorted(path for path in _removed(before, after, renewed) if not excluded.covers(path))
    with archive.open("rb", buffering=0) as file:
        for path in changed:
            writer.raw(_bytes(file.fileno(), after.ranges[path]))
            if path in renewed:
                writer.raw(_bytes(file.fileno(), after.markers[path]))
        for path in hidden:
            writer.raw(_bytes(file.fileno(), after.markers[path]))
        for path in removed:
            writer.raw(iter((whiteout(path),)))


def _changed(before: UpperState, after: UpperState, renewed: set[PathKey]) -> list[PathKey]:
    """The paths whose entries belong into the layer, in the archive's order, in which a link comes after what it names."""
    changed: dict[PathKey, None] = {}
    for path, record in after.records.items():
        linked_to_changed = record[0] == _LINK and record[1] in changed
        if linked_to_changed or record != before.records.get(path) or path in renewed or _inside(path, renewed):
            changed[path] = None
    return list(changed)


def _inside(path: PathKey, directories: set[PathKey]) -> bool:
    return bool(directories) and any(path[:length] in directories for length in range(1, len(path)))


def _removed(before: UpperState, after: UpperState, renewed: set[PathKey]) -> Iterator[PathKey]:
    """What was in the writable layer and no longer is, where nothing above it says so already."""
    for path in before.records:
        if path in after.records or path in after.hidden:
            continue
        above = path[:-1]
        parent = after.records.get(above)
        if above and (parent is None or parent[0] != _DIRECTORY):
            continue
        if above not in renewed and not _inside(path, renewed):
            yield path


def _without_stubs(changed: list[PathKey], stubs: Iterable[PathKey], after: UpperState) -> list[PathKey]:
    """Leave out directories that were only made to put something into, deepest first."""
    kept = dict.fromkeys(changed)
    for stub in sorted(stubs, key=len, reverse=True):
        if after.records.get(stub, (None,))[0] == _DIRECTORY and not any(path[: len(stub)] == stub and path != stub for path in kept):
            kept.pop(stub, None)
    return list(kept)


def _bytes(descriptor: int, where: tuple[int, int]) -> Iterator[bytes]:
    position, end = where
    while position < end:
        chunk = os.pread(descriptor, min(end - position, CHUNK), position)
        if not chunk:
            raise EOFError("the archive became shorter while it was read")
        position += len(chunk)
        yield chunk
