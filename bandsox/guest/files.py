"""Single files of the guest: what they are, and everything done to them but moving their contents."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator

from bandsox.errors import LimitExceeded, ProtocolError
from bandsox.guest.answers import Answer, ChangeEvent, EntriesEvent, EntryAnswer, LinesAnswer, ReadyEvent, StatAnswer, decode
from bandsox.guest.blocking import Checksum
from bandsox.guest.connection import DEFAULT_TIMEOUT, Connection, Operations
from bandsox.guest.faults import printable
from bandsox.guest.frames import FrameType
from bandsox.guest.messages import (
    ChangeMode,
    ChangeOwner,
    ListDirectory,
    MakeDirectory,
    MakeSymlink,
    ReadLines,
    Remove,
    Rename,
    Stat,
    Watch,
)
from bandsox.guest.paths import GuestText, encode_path, encode_text
from bandsox.models import DirEntry, FileChange, FileStat, LineWindow

TREE_TIMEOUT = 600.0
"""How long, in seconds, an operation on a whole tree may take; where its answer comes in pieces, none of them takes longer than
`STALL_TIMEOUT`."""

DEFAULT_MAX_ENTRIES = 1_000_000
"""How many entries of one directory are listed at most."""

_MAX_LISTING = 256 << 20  # bytes of all entries of a directory, long targets of links included

DEFAULT_MAX_LINES_BYTES = 64 << 20
"""How many bytes `FileOperations.read_lines` returns at most."""


class FileOperations(Operations):
    """Operations on files.

    Every method raises GuestFileNotFound or GuestFileError where the guest refuses; InvalidRequest where a path is not absolute or
    holds a NUL byte; MachineStopped, Timeout or ProtocolError where the connection fails, and those that change something
    OutcomeUnknown where it fails after they were sent.
    """

    async def stat(self, path: GuestText, *, follow: bool = True) -> FileStat:
        """What a file is; with `follow` the one a symbolic link points to."""
        return _file_stat(await self._connector.call(Stat(path=encode_path(path), follow=follow), StatAnswer))

    async def list_directory(self, path: GuestText, *, max_entries: int = DEFAULT_MAX_ENTRIES) -> list[DirEntry]:
        """A directory's entries in the order of the guest's kernel; symbolic links are not followed.

        Raises
        ------
        LimitExceeded: there are more than `max_entries`, or they take more than 256 MiB.
        """
        entries: list[DirEntry] = []
        size = 0
        async with self._connector.operation(ListDirectory(path=encode_path(path)), timeout=TREE_TIMEOUT) as connection:
            connection.steady = True
            while True:
                kind, payload = await connection.next_frame()
                if kind == FrameType.RESULT:
                    decode(payload, Answer)
                    return entries
                if kind != FrameType.EVENT:
                    raise connection.unexpected(kind)
                answer = decode(payload, EntriesEvent)
                entries += [DirEntry(_name(entry), _file_stat(entry)) for entry in answer.entries]
                size += len(payload)
                if len(entries) > max_entries or size > _MAX_LISTING:
                    raise LimitExceeded(f"the directory has more than {max_entries} entries, or {_MAX_LISTING >> 20} MiB of them")

    async def read_lines(self, path: GuestText, offset: int = 0, limit: int = 0, *, max_bytes: int = DEFAULT_MAX_LINES_BYTES) -> LineWindow:
        """The `limit` lines (0: all) after the first `offset`, as they are in the file, at most `max_bytes`."""
        request = ReadLines(path=encode_path(path), offset=offset, limit=limit, max_bytes=max_bytes)
        data, checksum = bytearray(), Checksum()
        async with self._connector.operation(request, timeout=TREE_TIMEOUT) as connection:
            connection.steady = True
            while True:
                kind, payload = await connection.next_frame()
                if kind == FrameType.OUTPUT_END:
                    checksum.verify(payload)
                    break
                if kind != FrameType.OUTPUT:
                    raise connection.unexpected(kind)
                checksum.add(payload)
                data += payload
                if len(data) > max_bytes:
                    raise LimitExceeded(f"the guest sent more than the {max_bytes} bytes that were asked for")
            answer = await connection.result(LinesAnswer)
        return LineWindow(bytes(data), answer.skipped, answer.returned, answer.left, answer.truncated)

    async def make_directory(
        self, path: GuestText, *, mode: int | None = None, parents: bool = False, uid: int | None = None, gid: int | None = None
    ) -> None:
        """Make a directory; with `parents` those above it too, and it may exist already."""
        await self._connector.call(MakeDirectory(path=encode_path(path), mode=mode, parents=parents, uid=uid, gid=gid), Answer)

    async def remove(self, path: GuestText, *, recursive: bool = False) -> None:
        """Remove a file or an empty directory; with `recursive` a whole tree."""
        await self._change_tree(Remove(path=encode_path(path), recursive=recursive), recursive)

    async def rename(self, path: GuestText, to: GuestText) -> None:
        """Give a file another name, replacing the file that has it."""
        await self._connector.call(Rename(path=encode_path(path), to=encode_path(to)), Answer)

    async def change_mode(self, path: GuestText, mode: int, *, recursive: bool = False, follow: bool = True) -> None:
        """Set permission bits."""
        await self._change_tree(ChangeMode(path=encode_path(path), mode=mode, recursive=recursive, follow=follow), recursive)

    async def change_owner(self, path: GuestText, uid: int = -1, gid: int = -1, *, recursive: bool = False, follow: bool = True) -> None:
        """Set owner and group; −1 leaves one as it is."""
        await self._change_tree(ChangeOwner(path=encode_path(path), uid=uid, gid=gid, recursive=recursive, follow=follow), recursive)

    async def make_symlink(self, path: GuestText, target: GuestText) -> None:
        """Make the symbolic link `path` to `target`."""
        await self._connector.call(MakeSymlink(path=encode_path(path), target=encode_text(target, "the target")), Answer)

    @contextlib.asynccontextmanager
    async def watch(self, path: GuestText, *, recursive: bool = False) -> AsyncIterator[AsyncIterator[FileChange]]:
        """What changes at and below `path` from the beginning of the block on, as an iterator without end."""
        async with self._connector.operation(Watch(path=encode_path(path), recursive=recursive), timeout=DEFAULT_TIMEOUT) as connection:
            await connection.event(ReadyEvent)
            connection.deadline = connection.patience = None
            async with contextlib.aclosing(_changes(connection)) as changes:
                yield changes

    async def _change_tree(self, request: Remove | ChangeMode | ChangeOwner, recursive: bool) -> None:
        await self._connector.call(request, Answer, timeout=TREE_TIMEOUT if recursive else DEFAULT_TIMEOUT)


async def _changes(connection: Connection) -> AsyncGenerator[FileChange, None]:
    while True:
        change = await connection.event(ChangeEvent)
        yield FileChange(change.type, change.path, change.to)


def _name(entry: EntryAnswer) -> bytes:
    """The name of an entry, which is one: callers join it to paths of this host."""
    if entry.name in {b".", b".."} or b"/" in entry.name or b"\0" in entry.name:
        raise ProtocolError("the guest listed an entry whose name is no name", cause=printable(os.fsdecode(entry.name), 200))
    return entry.name


def _file_stat(answer: StatAnswer) -> FileStat:
    return FileStat(
        type=answer.type,
        size=answer.size,
        mode=answer.mode,
        uid=answer.uid,
        gid=answer.gid,
        mtime=answer.mtime,
        nlink=answer.nlink,
        ino=answer.ino,
        target=answer.target,
    )
