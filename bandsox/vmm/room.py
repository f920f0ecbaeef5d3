"""What a confined VMM sees of the host, and how much it may take; `bandsox.vmm.confinement` makes it so."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from bandsox.models import UNLIMITED, RateLimits


@dataclass(frozen=True, slots=True)
class Room:
    """What one VMM sees, and how much of the host it may take.

    Parameters
    ----------
    owner: the machine's id.
    directory: where it works, which exists for it even when nothing of it is named below.
    program: the VMM, and ``data``: files that belong to it; copies of them are what it sees.
    readable: files that it can read, and shares with other machines.
    links: symbolic links, by where they stand, of which this host's file system knows nothing.
    writable: files and directories of the machine's alone that it can also write.
    devices: device nodes, besides /dev/null and /dev/urandom.
    memory_mib: its address space.
    threads: how many it may have.
    resident_mib: how much of its address space it has a use for at once; root's is held to it.
    cpus: how many CPUs' time it has a use for; so is this.
    disk_limits: limits on what it reads and writes; so are these.
    largest_file: the size in bytes beyond which it can write to no file; None: no limit.
    memory_files: whether it may hold memory in files (memfd_create(2)), which no limit counts.
    local_only: whether it has a use for no sockets but Unix ones; it is not given others then.
    network: a descriptor of the network namespace that it is in; None: an empty one of its own.
    users: a descriptor of the user namespace that owns that one; None: the host's.
    user: as `Confiner.user` has given it; None: to be chosen now.
    preload: a library that its loader loads first (ld.so(8), ``LD_PRELOAD``), and that it can read.
    huge_pages: whether it may have transparent huge pages (`bandsox.vmm.huge_pages`).
    """

    owner: str
    directory: Path
    program: Path
    data: Sequence[Path]
    readable: Sequence[Path]
    writable: Sequence[Path]
    devices: Sequence[Path]
    memory_mib: int
    threads: int
    resident_mib: int
    cpus: int
    disk_limits: RateLimits = UNLIMITED
    links: Mapping[Path, Path] = field(default_factory=dict)
    largest_file: int | None = None
    memory_files: bool = False
    local_only: bool = False
    network: int | None = None
    users: int | None = None
    user: int | None = None
    preload: Path | None = None
    huge_pages: bool = True


PROGRAMS = "/.programs"
"""Where a room shows a tree of programs. From the paths that they have on the host links lead there: a mount takes twenty times as long,
since bwrap reads the list of all mounts after each."""


def mounts(tree: Path, room: Room, devices: Mapping[Path, Path]) -> Iterator[str]:
    """bwrap's arguments for a room's file system: the programs of `tree`, the room's files, `devices` by the VMM's name for them."""
    nodes = {"/dev/null": "/dev/null", "/dev/urandom": "/dev/urandom", **{str(name): str(node) for name, node in devices.items()}}
    readable = list(map(str, (*room.readable, *([room.preload] if room.preload is not None else []))))
    writable = list(map(str, room.writable))
    links = {str(place): str(target) for place, target in room.links.items()}
    places = {str(room.directory), *_above((*nodes, *readable, *writable, *links))}
    parts = _parts(tree, frozenset(places & _directories(tree)))
    for place in sorted(places | _above(parts)):  # named one by one: bwrap would make them for root alone
        yield from ("--dir", place)
    yield from ("--ro-bind", str(tree), PROGRAMS)
    for name in parts:
        yield from ("--symlink", f"{PROGRAMS}{name}", name)
    for name, node in nodes.items():
        yield from ("--dev-bind", node, name)
    for path in readable:
        yield from ("--ro-bind-try", path, path)  # what is not there the VMM misses itself, and says so
    for path in writable:
        yield from ("--bind-try", path, path)
    for place, target in links.items():
        yield from ("--symlink", target, place)
    yield from ("--remount-ro", "/")


def _above(paths: Iterable[str]) -> set[str]:
    """All directories on the way to `paths`."""
    found = {"/"}
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found


@functools.cache
def _directories(tree: Path) -> Set[str]:
    """The directories of a tree of programs, as they are called in a room. A tree never changes."""
    return frozenset("/" + os.path.relpath(place, tree).removeprefix(".") for place, _, _ in os.walk(tree))


@functools.cache
def _parts(tree: Path, places: frozenset[str], directory: str = "") -> tuple[str, ...]:
    """The fewest parts of a tree that show all its files and leave room for `places`, by their names in a room."""
    entries = sorted(os.scandir(f"{tree}{directory}"), key=lambda entry: entry.name)
    if directory not in places and any(entry.is_file() for entry in entries):
        return (directory,)
    found: list[str] = []
    for entry in entries:
        name = f"{directory}/{entry.name}"
        found += _parts(tree, places, name) if entry.is_dir() else [name]
    return tuple(found)
