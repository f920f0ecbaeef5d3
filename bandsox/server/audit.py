"""The audit log read backwards: the newest entries first, a page at a time, whatever was rotated meanwhile.

An entry's place is the digest of its file's first line, and its offset there. So it holds when the file gets another name, and is nowhere
once the file is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from bandsox.decoding import ready
from bandsox.errors import InvalidRequest
from bandsox.server.logs import AUDIT_FILES

LOOKED_AT = 4 << 20
"""How many bytes of the log one page looks at, at most."""

_BLOCK = 64 << 10
_MAX_LINE = 64 << 10


class Entry(msgspec.Struct, frozen=True):
    """Who did what: a line of the log. `caller` is a key's id, or ``session``; `ms` how long it took."""

    time: str
    caller: str | None
    name: str | None
    client: str | None
    method: str
    path: str
    status: int
    ms: int
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries are wanted: those that have each of these values. `path` is what theirs begins with."""

    caller: str | None = None
    client: str | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    refused: bool | None = None

    def fits(self, entry: Entry) -> bool:
        """Whether `entry` is wanted."""
        return (
            self.caller in {None, entry.caller, entry.session}
            and self.client in {None, entry.client}
            and self.method in {None, entry.method}
            and entry.path.startswith(self.path or "")
            and self.status in {None, entry.status}
            and self.refused in {None, entry.status >= 400}
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Entries with their places, newest first, and where the next page begins; None: there are no more."""

    entries: tuple[tuple[str, Entry], ...]
    next: str | None


def page(log: Path, wanted: Wanted, limit: int, after: str | None = None) -> Page:
    """A page of a log and of those that were rotated out of it. It may have fewer entries than wanted, even none, and others follow.

    Parameters
    ----------
    after: begin behind the entry with this place, which may be one that `Page.next` named.

    Raises
    ------
    InvalidRequest: `after` is no place.
    """
    found: list[tuple[str, Entry]] = []
    looked_at = 0
    for place, line in _lines(log, after):
        looked_at += len(line) + 1
        with contextlib.suppress(msgspec.MsgspecError):  # a line that was cut off when the disk was full
            entry = msgspec.json.decode(line, type=ready(Entry))
            if wanted.fits(entry):
                found.append((place, entry))
        if len(found) == limit or looked_at >= LOOKED_AT:
            return Page(tuple(found), place)
    return Page(tuple(found), None)


def _lines(log: Path, after: str | None) -> Iterator[tuple[str, bytes]]:
    """The lines of a log with their places, the last one first."""
    begin = None if after is None else _parsed(after)
    with contextlib.ExitStack() as stack:
        for file in _files(log, stack):
            mark = _mark(file)
            if begin is None:
                end = os.fstat(file.fileno()).st_size
            elif mark == begin[0]:
                end, begin = min(begin[1], os.fstat(file.fileno()).st_size), None
            else:
                continue
            for offset, line in _backwards(file, end):
                yield f"{mark}-{offset}", line


def _files(log: Path, stack: contextlib.ExitStack) -> list[BinaryIO]:
    """The log's files, the newest first, all of them open before any is read: rotation takes no line away in between."""
    opened: dict[int, BinaryIO] = {}
    for name in (log.name, *(f"{log.name}.{number}" for number in range(1, AUDIT_FILES + 1))):
        with contextlib.suppress(FileNotFoundError):
            file = stack.enter_context(log.with_name(name).open("rb"))
            opened.setdefault(os.fstat(file.fileno()).st_ino, file)  # one that is rotated meanwhile is met under both its names
    return list(opened.values())


def _mark(file: BinaryIO) -> str:
    return hashlib.blake2b(os.pread(file.fileno(), _MAX_LINE, 0).partition(b"\n")[0], digest_size=8).hexdigest()


def _parsed(place: str) -> tuple[str, int]:
    mark, _, offset = place.partition("-")
    if len(mark) != 16 or not offset.isascii() or not offset.isdecimal() or len(offset) > 15:
        raise InvalidRequest("after is no place in the log", remedy="give the `next` of the page before")
    return mark, int(offset)


def _backwards(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file that end before `end`, each with its offset, the last one first."""
    rest = b""
    while end > 0:
        begin = max(0, end - _BLOCK)
        lines = (os.pread(file.fileno(), end - begin, begin) + rest).split(b"\n")
        offset = begin + sum(len(each) + 1 for each in lines)
        for line in reversed(lines[1:] if begin else lines):
            offset -= len(line) + 1
            if line:
                yield offset, line
        rest, end = (lines[0] if begin and len(lines[0]) <= _MAX_LINE else b""), begin
