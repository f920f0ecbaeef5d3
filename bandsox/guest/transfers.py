"""The contents of files, and whole trees as tar streams, both ways.

Bulk data is moved by a worker thread on the blocking socket, through a buffer of fixed size whatever the amount, and its checksum is
verified on both sides. What arrives on this host appears under its name whole or not at all.
Where a caller brings or takes the bytes itself, asynchronously, the event loop moves them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from bandsox.errors import InvalidRequest, LimitExceeded, StorageFull
from bandsox.guest import frames
from bandsox.guest.answers import AnswerT, ReadAnswer, TreeAnswer, WriteAnswer
from bandsox.guest.blocking import CHUNK, BlockingStream, Checksum, DataWriter
from bandsox.guest.connection import DEFAULT_TIMEOUT, Connection, Connector, Operations
from bandsox.guest.frames import FrameType
from bandsox.guest.localfiles import leaving_reserve, open_regular, replacing
from bandsox.guest.messages import Layer, Read, Request, Tar, Untar, Write
from bandsox.guest.paths import GuestText, encode_path, encode_text
from bandsox.guest.progress import transferring
from bandsox.guest.tarwrite import TreeFilter, write_tree
from bandsox.guest.untar import DEFAULT_MAX_ENTRIES, extract
from bandsox.models import ProgressCallback, TreeResult
from bandsox.workers import Task

DEFAULT_MAX_BYTES = 256 << 20
"""How many bytes `TransferOperations.read_bytes` returns at most."""

INLINE = 64 << 10
"""Contents up to this size, in bytes, travel with the request."""

CONCURRENT = 32
"""How many bulk transfers of one client run at once; more wait for their turn."""

T = TypeVar("T")


class TransferOperations(Operations):
    """Operations that move contents.

    Every method raises GuestFileNotFound or GuestFileError where the guest refuses; InvalidRequest where a path is not absolute or
    holds a NUL byte; StorageFull and OSError where this host's files fail; MachineStopped, Timeout or ProtocolError where
    the connection fails or a checksum disagrees, and those that change something OutcomeUnknown where it fails after they
    were sent. `timeout` is in seconds for the whole operation, None: as long as data moves.
    """

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._turns = asyncio.Semaphore(CONCURRENT)

    # ── files ──

    async def upload_file(
        self,
        local: Path,
        remote: GuestText,
        *,
        mode: int | None = None,
        append: bool = False,
        parents: bool = True,
        uid: int | None = None,
        gid: int | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> int:
        """Copy a file of this host into the guest; returns the size of the file there, in bytes.

        Parameters
        ----------
        mode: permission bits; None: those of `local`, or when appending those the file has.
        parents: make missing directories.
        """
        with open_regular(local) as file:
            status = os.fstat(file.fileno())
            size = status.st_size  # a file that grows meanwhile is copied up to here
            request = Write(
                path=encode_path(remote),
                mode=stat.S_IMODE(status.st_mode) & 0o777 if mode is None and not append else mode,
                append=append,
                parents=parents,
                uid=uid,
                gid=gid,
            )

            def produce(writer: DataWriter) -> None:
                writer.fill(lambda space: file.readinto(space) or 0, size)

            async with transferring(progress, remote, size) as task:
                answer = await self._send(request, produce, WriteAnswer, timeout, task)
        return answer.size

    async def download_file(
        self,
        remote: GuestText,
        local: Path,
        *,
        max_bytes: int | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> int:
        """Copy a file of the guest to this host, where it replaces `local` when it is complete; returns its size in bytes.

        Raises
        ------
        LimitExceeded: it has more than `max_bytes`.
        StorageFull: without `max_bytes`, it would leave next to no room there (`bandsox.guest.localfiles.RESERVE`).
        """
        async with transferring(progress, local) as task:
            request = Read(path=encode_path(remote))
            return await self._receive(request, lambda stream: _to_file(stream, local, max_bytes, ReadAnswer), timeout, task)

    async def write_bytes(
        self,
        remote: GuestText,
        data: bytes | memoryview,
        *,
        mode: int | None = None,
        append: bool = False,
        offset: int | None = None,
        parents: bool = True,
        exclusive: bool = False,
        uid: int | None = None,
        gid: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Write a file; returns its size in bytes. Without `append` and `offset` it appears whole or not at all.

        Parameters
        ----------
        mode: permission bits, by default 0644.
        offset: where in an existing file to write.
        parents: make missing directories.
        exclusive: fail where it exists already.
        """
        request = Write(
            path=encode_path(remote), mode=mode, append=append, offset=offset, parents=parents, exclusive=exclusive, uid=uid, gid=gid
        )
        if len(data) > INLINE:
            return (await self._send(request, lambda writer: writer.write(data), WriteAnswer, timeout)).size
        checksum = Checksum()
        checksum.add(data)
        following = (frames.encode(FrameType.DATA, bytes(data)) if data else b"") + frames.encode(FrameType.END, checksum.end())
        answer = await self._connector.call(request, WriteAnswer, timeout=timeout or DEFAULT_TIMEOUT, following=following)
        return answer.size

    async def read_bytes(
        self,
        remote: GuestText,
        *,
        offset: int = 0,
        length: int | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        timeout: float | None = None,
    ) -> bytes:
        """A file's contents, or `length` bytes from `offset` on.

        Raises
        ------
        LimitExceeded: there are more than `max_bytes`.
        """
        request = Read(path=encode_path(remote), offset=offset, length=length)
        async with self._connector.operation(request, timeout=timeout) as connection:
            data, checksum = bytearray(), Checksum()
            if not await _read_start(connection, data, checksum, max_bytes):
                await self._in_thread(connection, lambda stream: _read_rest(stream, data, checksum, max_bytes), None)
        return bytes(data)

    async def write_stream(
        self,
        remote: GuestText,
        source: AsyncIterable[bytes],
        *,
        mode: int | None = None,
        append: bool = False,
        parents: bool = True,
        timeout: float | None = None,
    ) -> int:
        """Write a file from an iterator of pieces; returns its size in bytes."""
        request = Write(path=encode_path(remote), mode=mode, append=append, parents=parents)
        return (await self._send_stream(request, source, WriteAnswer, timeout)).size

    @contextlib.asynccontextmanager
    async def read_stream(
        self, remote: GuestText, *, offset: int = 0, length: int | None = None, timeout: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A file's contents as an iterator of pieces. The guest waits for the reader."""
        async with self._stream(Read(path=encode_path(remote), offset=offset, length=length), ReadAnswer, timeout) as pieces:
            yield pieces

    # ── trees ──

    async def upload_tree(
        self,
        local: Path,
        remote: GuestText,
        *,
        pattern: str | Sequence[str] | None = None,
        skip_pattern: str | Sequence[str] | None = None,
        uid: int = 0,
        gid: int = 0,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> TreeResult:
        """Copy a directory's contents into the guest's directory `remote`, which is made when absent.

        Symbolic links stay symbolic links. Sockets and device files are left out.

        Parameters
        ----------
        pattern: shell patterns; only files whose name, or path below `local`, matches one are copied.
        skip_pattern: shell patterns; files and directories that match one are left out.
        uid, gid: who owns everything in the guest.
        """
        if not local.is_dir():
            raise InvalidRequest(f"not a directory: {local}")
        selection = TreeFilter(pattern, skip_pattern)
        request = Untar(path=encode_path(remote))
        async with transferring(progress, local) as task:
            answer = await self._send(request, lambda writer: write_tree(writer, local, selection, uid, gid), TreeAnswer, timeout, task)
        return TreeResult(answer.entries, answer.bytes)

    async def download_tree(
        self,
        remote: GuestText,
        local: Path,
        *,
        exclude: Sequence[GuestText] = (),
        max_bytes: int | None = None,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> TreeResult:
        """Copy a directory's contents to this host's directory `local`, which is made when absent. Nothing is written outside it.

        Owners, device files, sockets and set-id bits are left behind; so are links that lead out of the tree, which are
        counted as refused. Files that exist are replaced.

        Parameters
        ----------
        exclude: shell patterns against the path below `remote`.

        Raises
        ------
        LimitExceeded: there are more than `max_bytes` or `max_entries`.
        """
        base = b"tree"
        request = Tar(path=encode_path(remote), base=base, exclude=_encoded(exclude))

        def work(stream: BlockingStream) -> TreeResult:
            pieces = leaving_reserve(stream.pieces(), local) if max_bytes is None else stream.pieces()
            result = extract(pieces, local, base, max_entries=max_entries, max_bytes=max_bytes)
            stream.result(TreeAnswer)
            return result

        async with transferring(progress, local) as task:
            return await self._receive(request, work, timeout, task)

    async def upload_tar(
        self, source: AsyncIterable[bytes] | Path, remote: GuestText, *, whiteouts: bool = False, timeout: float | None = None
    ) -> TreeResult:
        """Unpack a tar archive in the guest, from an iterator of pieces or a file of this host; `whiteouts`: apply OCI whiteouts."""
        request = Untar(path=encode_path(remote), whiteouts=whiteouts)
        if isinstance(source, Path):
            with open_regular(source) as file:
                answer = await self._send(request, lambda writer: writer.fill(lambda space: file.readinto(space) or 0), TreeAnswer, timeout)
        else:
            answer = await self._send_stream(request, source, TreeAnswer, timeout)
        return TreeResult(answer.entries, answer.bytes)

    @contextlib.asynccontextmanager
    async def tar_stream(
        self, remote: GuestText, *, base: GuestText | None = None, exclude: Sequence[GuestText] = (), timeout: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A tree of the guest as a pax tar archive, as an iterator of pieces."""
        async with self._stream(_tar_request(remote, base, exclude), TreeAnswer, timeout) as pieces:
            yield pieces

    async def download_tar(
        self,
        remote: GuestText,
        local: Path,
        *,
        base: GuestText | None = None,
        exclude: Sequence[GuestText] = (),
        max_bytes: int | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> int:
        """Write a tree of the guest to a tar archive on this host; returns the archive's size in bytes.

        Parameters
        ----------
        base: the name of the top entry, by default the path's own.

        Raises
        ------
        LimitExceeded: it has more than `max_bytes`.
        """
        async with transferring(progress, local) as task:
            request = _tar_request(remote, base, exclude)
            return await self._receive(request, lambda stream: _to_file(stream, local, max_bytes, TreeAnswer), timeout, task)

    async def download_layer(
        self, local: Path, *, max_bytes: int | None = None, timeout: float | None = None, progress: ProgressCallback | None = None
    ) -> int:
        """Write the guest's writable layer to an uncompressed OCI layer on this host; returns its size in bytes.

        Raises
        ------
        LimitExceeded: it has more than `max_bytes`. Unsupported: the guest has no such layer.
        """
        async with transferring(progress, local) as task:
            return await self._receive(Layer(), lambda stream: _to_file(stream, local, max_bytes, TreeAnswer), timeout, task)

    # ── how ──

    async def _send(
        self,
        request: Request,
        produce: Callable[[DataWriter], object],
        answer: type[AnswerT],
        timeout: float | None,
        task: Task | None = None,
    ) -> AnswerT:
        async with self._connector.operation(request, timeout=timeout) as connection:
            return await self._in_thread(connection, lambda stream: stream.deliver(produce, answer), task)

    async def _receive(self, request: Request, work: Callable[[BlockingStream], T], timeout: float | None, task: Task | None) -> T:
        async with self._connector.operation(request, timeout=timeout) as connection:
            return await self._in_thread(connection, work, task)

    async def _in_thread(self, connection: Connection, work: Callable[[BlockingStream], T], task: Task | None) -> T:
        try:
            async with self._turns:
                return await connection.in_thread(work, None if task is None else task.update)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull(
                    "no room left on this host for what the guest sends",
                    cause=str(error),
                    remedy="free some room there, or choose another place",
                ) from error
            raise

    async def _send_stream(self, request: Request, source: AsyncIterable[bytes], answer: type[AnswerT], timeout: float | None) -> AnswerT:
        checksum = Checksum()
        async with self._connector.operation(request, timeout=timeout) as connection:
            async for piece in source:
                for start in range(0, len(piece), CHUNK):
                    part = memoryview(piece)[start : start + CHUNK]
                    checksum.add(part)
                    connection.poll()
                    await connection.send(frames.header(FrameType.DATA, len(part)), part)
            await connection.send(frames.encode(FrameType.END, checksum.end()))
            return await connection.result(answer)

    @contextlib.asynccontextmanager
    async def _stream(self, request: Request, answer: type[AnswerT], timeout: float | None) -> AsyncIterator[AsyncIterator[bytes]]:
        async with (
            self._connector.operation(request, timeout=timeout) as connection,
            contextlib.aclosing(_pieces(connection, answer)) as pieces,
        ):
            yield pieces


def _encoded(patterns: Sequence[GuestText]) -> list[bytes] | None:
    return [encode_text(pattern, "a pattern") for pattern in patterns] or None


def _tar_request(remote: GuestText, base: GuestText | None, exclude: Sequence[GuestText]) -> Tar:
    return Tar(path=encode_path(remote), base=None if base is None else encode_text(base, "the base"), exclude=_encoded(exclude))


async def _pieces(connection: Connection, answer: type[AnswerT]) -> AsyncGenerator[bytes, None]:
    checksum = Checksum()
    while True:
        kind, payload = await connection.next_frame()
        if kind == FrameType.OUTPUT_END:
            checksum.verify(payload)
            await connection.result(answer)
            return
        if kind != FrameType.OUTPUT:
            raise connection.unexpected(kind)
        checksum.add(payload)
        yield bytes(payload)


async def _read_start(connection: Connection, data: bytearray, checksum: Checksum, max_bytes: int) -> bool:
    """Read the beginning of a file's contents into `data`; whether that was all."""
    while len(data) <= INLINE:
        kind, payload = await connection.next_frame()
        if kind == FrameType.OUTPUT_END:
            checksum.verify(payload)
            await connection.result(ReadAnswer)
            return True
        if kind != FrameType.OUTPUT:
            raise connection.unexpected(kind)
        _gather(payload, data, checksum, max_bytes)
    return False


def _read_rest(stream: BlockingStream, data: bytearray, checksum: Checksum, max_bytes: int) -> None:
    stream.checksum = checksum
    for piece in stream.pieces():
        data += piece
        _check_limit(len(data), max_bytes)
    stream.result(ReadAnswer)


def _gather(payload: memoryview | bytes, data: bytearray, checksum: Checksum, max_bytes: int) -> None:
    checksum.add(payload)
    data += payload
    _check_limit(len(data), max_bytes)


def _check_limit(size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise LimitExceeded(f"there are more than the {max_bytes} bytes that were allowed")


def _to_file(stream: BlockingStream, local: Path, max_bytes: int | None, answer: type[ReadAnswer] | type[TreeAnswer]) -> int:
    """Write a stream's data to a file; its size in bytes."""
    pieces = leaving_reserve(stream.pieces(), local.parent) if max_bytes is None else stream.pieces()
    with replacing(local) as file:
        for piece in pieces:
            _check_limit(stream.checksum.size, max_bytes)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(file, rest) :]
        stream.result(answer)
    return stream.checksum.size
