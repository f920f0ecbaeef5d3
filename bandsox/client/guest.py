"""A machine's agent as seen through a server: the operations of `GuestClient`, each a request.

What has no route is refused by the link that this client has not got, so nothing is ever done half.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import httpx
import msgspec

from bandsox.client.connecting import RemoteStream
from bandsox.client.connection import MESSAGEPACK, Connection
from bandsox.client.execution import RemoteExecution
from bandsox.client.streams import extracted, of_file, of_tree, to_file
from bandsox.client.transport import Answer
from bandsox.decoding import ready
from bandsox.errors import LimitExceeded, Timeout, Unsupported
from bandsox.guest import GuestClient
from bandsox.guest.connection import DEFAULT_TIMEOUT
from bandsox.guest.files import DEFAULT_MAX_ENTRIES
from bandsox.guest.link import Channel, Lane
from bandsox.guest.processes import DEFAULT_MAX_OUTPUT, CommandOptions
from bandsox.guest.progress import transferring
from bandsox.guest.streams import CONNECT_TIMEOUT
from bandsox.guest.tarwrite import TreeFilter
from bandsox.models import DirEntry, ExecResult, FileChange, FileStat, GuestInfo, Metrics, ProgressCallback, SessionInfo, TreeResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from bandsox.guest import Execution, GuestStream, GuestText, Stream


class _NoLink:
    """In the place of a way to the guest."""

    async def open(self, lane: Lane, deadline: float | None) -> Channel:
        """Refuse."""
        del lane, deadline
        refuse()


def refuse() -> NoReturn:
    """Say that there is no route for it.

    Raises
    ------
    Unsupported: always.
    """
    raise Unsupported("this is not possible through a server yet", remedy="do it on the server's host, with its storage directory")


class RemoteGuest(GuestClient):
    """The agent of one machine of a server."""

    def __init__(self, connection: Connection, vm_id: str) -> None:
        super().__init__(_NoLink())
        self._server = connection
        self._base = f"/api/vms/{vm_id}"

    async def _post(self, path: str, body: dict[str, Any] | None = None, method: str = "POST", **options: Any) -> Answer:
        return await self._server.call(method, f"{self._base}{path}", json=body, **options)

    # ── the machine ──

    async def ping(self, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Return when the agent has answered."""
        with _deadline(timeout):
            await self.info()

    async def info(self, *, timeout: float = DEFAULT_TIMEOUT) -> GuestInfo:
        """What the agent says of itself and its kernel."""
        del timeout
        return await self._server.get(f"{self._base}/agent", GuestInfo)

    async def metrics(self, *, processes: bool = False) -> Metrics:
        """The guest's load."""
        return await self._server.get(f"{self._base}/stats", Metrics, processes=processes)

    # ── commands and sessions ──

    async def _start(self, options: CommandOptions, *, stdin: bool, terse: bool = False) -> Execution:
        del terse
        first = {**_command(options), "stdin": stdin, "format": "binary"}
        return await self._following("/exec-stream", first, options.get("timeout"))

    async def run(
        self,
        *,
        stdin: bytes | None = None,
        max_output: int = DEFAULT_MAX_OUTPUT,
        on_output: Callable[[Stream, bytes], object] | None = None,
        **options: Unpack[CommandOptions],
    ) -> ExecResult:
        """Run a command to its end: one request where nothing is to be handed on meanwhile."""
        if stdin is not None or on_output is not None or options.get("tty") is not None:
            return await super().run(stdin=stdin, max_output=max_output, on_output=on_output, **options)
        answer = await self._post("/exec", _command(options), patient=True, headers={"Accept": MESSAGEPACK})
        result = msgspec.msgpack.decode(answer.content, type=ready(ExecResult))
        if len(result.stdout) + len(result.stderr) > max_output:
            raise LimitExceeded(f"the command printed more than {max_output} bytes")
        return result

    async def start_session(self, session: str, *, stdin: bool = True, **options: Unpack[CommandOptions]) -> int:
        """Start a command as a session, and return its process id in the guest."""
        answer = await self._post("/sessions", {**_command(options), "id": session, "stdin": stdin})
        return int(answer.json()["pid"])

    async def attach_session(
        self,
        session: str,
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        input: bool = True,  # noqa: A002 - the field's name
    ) -> Execution:
        """Follow a session; closing the `Execution` detaches, and the session runs on."""
        del input
        offsets = {name: value for name, value in (("stdout", stdout), ("stderr", stderr)) if value is not None}
        return await self._following(f"/sessions/{session}/attach?{httpx.QueryParams(offsets)}", None, None)

    async def _following(self, path: str, first: dict[str, Any] | None, timeout: float | None) -> Execution:
        socket = await self._server.websocket(f"{self._base}{path}")
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(socket.close)
            if first is not None:
                await socket.send(msgspec.json.encode(first).decode())
            execution = RemoteExecution(socket, attached=first is None)
            await execution.begin(timeout)
            undo.pop_all()
        return execution

    async def connect(self, port: int, host: str = "", *, timeout: float = CONNECT_TIMEOUT) -> GuestStream:
        """Connect to a TCP port of the guest."""
        socket = await self._server.websocket(f"{self._base}/ports/{port}/connect?{httpx.QueryParams(host=host, timeout=timeout)}")
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(socket.close)
            stream = RemoteStream(socket, port)
            await stream.begin()
            undo.pop_all()
        return stream

    async def send_input(self, session: str, data: bytes, *, close: bool = False, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Send input to a session without following it."""
        with _deadline(timeout):
            path = f"{self._base}/sessions/{session}/input"
            return int((await self._server.call("POST", path, content=data, params={"close": close})).json()["written"])

    async def signal_session(self, session: str, signal: int, *, group: bool = True) -> None:
        """Send a session's process group a signal."""
        if not group:
            refuse()
        await self._post(f"/sessions/{session}/signal", {"signal": signal})

    async def resize_session(self, session: str, cols: int, rows: int) -> None:
        """Tell a session's terminal its size."""
        await self._post(f"/sessions/{session}/resize", {"cols": cols, "rows": rows})

    async def list_sessions(self) -> list[SessionInfo]:
        """Every session the guest knows, oldest first."""
        return await self._server.get(f"{self._base}/sessions", list[SessionInfo])

    async def forget_session(self, session: str) -> None:
        """Drop an ended session's record and output."""
        await self._post(f"/sessions/{session}", method="DELETE")

    # ── files ──

    async def stat(self, path: GuestText, *, follow: bool = True) -> FileStat:
        """What a file is."""
        return await self._server.get(f"{self._base}/stat", FileStat, path=_text(path), follow=follow)

    async def list_directory(self, path: GuestText, *, max_entries: int = DEFAULT_MAX_ENTRIES) -> list[DirEntry]:
        """A directory's entries."""
        entries = await self._server.get(f"{self._base}/entries", list[DirEntry], path=_text(path))
        if len(entries) > max_entries:
            raise LimitExceeded(f"the directory has more than {max_entries} entries")
        return entries

    async def make_directory(
        self, path: GuestText, *, mode: int | None = None, parents: bool = False, uid: int | None = None, gid: int | None = None
    ) -> None:
        """Make a directory."""
        if mode is not None or uid is not None or gid is not None:
            refuse()
        await self._post("/directories", {"path": _text(path), "parents": parents})

    async def remove(self, path: GuestText, *, recursive: bool = False) -> None:
        """Remove a file, an empty directory, or a tree."""
        await self._server.call("DELETE", f"{self._base}/files", params={"path": _text(path), "recursive": recursive}, patient=True)

    async def rename(self, path: GuestText, to: GuestText) -> None:
        """Give a file another name."""
        await self._post("/files/rename", {"path": _text(path), "to": _text(to)})

    async def change_mode(self, path: GuestText, mode: int, *, recursive: bool = False, follow: bool = True) -> None:
        """Set permission bits."""
        if not follow:
            refuse()
        await self._post("/files/mode", {"path": _text(path), "mode": mode, "recursive": recursive}, "PUT", patient=True)

    @contextlib.asynccontextmanager
    async def watch(self, path: GuestText, *, recursive: bool = False) -> AsyncIterator[AsyncIterator[FileChange]]:
        """What changes at and below `path` from the beginning of the block on, as an iterator without end."""
        params = {"path": _text(path), "recursive": recursive}
        async with contextlib.aclosing(self._server.lines("GET", f"{self._base}/watch", params=params)) as lines:
            await anext(lines)  # it is being watched
            async with contextlib.aclosing(_changes(lines)) as changes:
                yield changes

    async def read_bytes(
        self,
        remote: GuestText,
        *,
        offset: int = 0,
        length: int | None = None,
        max_bytes: int = 256 << 20,
        timeout: float | None = None,
    ) -> bytes:
        """A file's contents, or a part of them."""
        if length == 0:
            return b""
        data = bytearray()
        with _deadline(timeout):
            async with self._reading(remote, offset, length) as answer:
                async for piece in answer.aiter_raw():
                    data += piece
                    if len(data) > max_bytes:
                        raise LimitExceeded(f"there are more than the {max_bytes} bytes that were allowed")
        return bytes(data)

    def _reading(self, remote: GuestText, offset: int = 0, length: int | None = None) -> contextlib.AbstractAsyncContextManager[Any]:
        headers = {"Accept-Encoding": "identity"}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        return self._server.streaming("GET", f"{self._base}/download", params={"path": _text(remote)}, headers=headers)

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
        """Write a file, which appears whole or not at all, or append to one."""
        if offset is not None or exclusive or not parents or uid is not None or gid is not None:
            refuse()
        return await self._put_file(remote, bytes(data), mode, append, timeout)

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
        if not parents:
            refuse()
        return await self._put_file(remote, source, mode, append, timeout)

    @contextlib.asynccontextmanager
    async def read_stream(
        self, remote: GuestText, *, offset: int = 0, length: int | None = None, timeout: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A file's contents as an iterator of pieces. The guest waits for the reader."""
        with _deadline(timeout):
            async with self._reading(remote, offset, length) as answer:
                yield answer.aiter_raw()

    async def _put_file(
        self, remote: GuestText, content: bytes | AsyncIterable[bytes], mode: int | None, append: bool, timeout: float | None
    ) -> int:
        params: dict[str, Any] = {"path": _text(remote), "append": append, **({} if mode is None else {"mode": f"{mode:o}"})}
        with _deadline(timeout):
            answer = await self._server.call("PUT", f"{self._base}/file", params=params, content=content, patient=True)
        return int(answer.json()["size"])

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
        """Copy a file of this host into the guest."""
        if not parents or uid is not None or gid is not None:
            refuse()
        async with of_file(local, remote, progress) as (pieces, permissions):
            return await self._put_file(remote, pieces, permissions if mode is None and not append else mode, append, timeout)

    async def download_file(
        self,
        remote: GuestText,
        local: Path,
        *,
        max_bytes: int | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> int:
        """Copy a file of the guest to this host, where it appears whole or not at all."""
        with _deadline(timeout):
            async with self._reading(remote) as answer, transferring(progress, local) as task:
                return await to_file(answer.aiter_raw(), local, max_bytes, task)

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
        """Copy a directory's contents into the guest."""
        selection, params = TreeFilter(pattern, skip_pattern), {"path": _text(remote)}
        with _deadline(timeout):
            async with transferring(progress, local) as task, of_tree(local, selection, uid, gid, task) as pieces:
                answer = await self._server.call("PUT", f"{self._base}/tree", params=params, content=pieces, patient=True)
        return msgspec.json.decode(answer.content, type=ready(TreeResult))

    async def upload_tar(
        self, source: AsyncIterable[bytes] | Path, remote: GuestText, *, whiteouts: bool = False, timeout: float | None = None
    ) -> TreeResult:
        """Unpack a tar archive in the guest, from an iterator of pieces."""
        if whiteouts or isinstance(source, Path):
            refuse()
        with _deadline(timeout):
            answer = await self._server.call("PUT", f"{self._base}/tree", params={"path": _text(remote)}, content=source, patient=True)
        return msgspec.json.decode(answer.content, type=ready(TreeResult))

    @contextlib.asynccontextmanager
    async def tar_stream(
        self, remote: GuestText, *, base: GuestText | None = None, exclude: Sequence[GuestText] = (), timeout: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A tree of the guest as a pax tar archive, as an iterator of pieces."""
        if exclude:
            refuse()
        path = _text(remote)
        params = {"path": path, "base": posixpath.basename(posixpath.normpath(path)) or "." if base is None else _text(base)}
        with _deadline(timeout):
            async with self._server.streaming("GET", f"{self._base}/tree", params=params, patient=True) as answer:
                yield answer.aiter_raw()

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
        """Copy a directory's contents to this host. Nothing is written outside `local`."""
        if exclude:
            refuse()
        request = self._server.streaming("GET", f"{self._base}/tree", params={"path": _text(remote), "base": "tree"}, patient=True)
        with _deadline(timeout):
            async with request as answer, transferring(progress, local) as task:
                return await extracted(answer.aiter_raw(), local, max_entries, max_bytes, task)


async def _changes(lines: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[FileChange, None]:
    async for line in lines:
        to = line["to"]
        yield FileChange(line["type"], line["path"].encode(), None if to is None else to.encode())


@contextlib.contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        if isinstance(error, Timeout):
            raise
        raise Timeout(f"the server did not finish within {seconds:g} s") from None


def _text(path: GuestText) -> str:
    """A path as a request carries it.

    Raises
    ------
    Unsupported: it is not UTF-8.
    """
    text = os.fsdecode(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unsupported("a path that is not UTF-8 cannot be sent to a server") from None
    return text


def _command(options: CommandOptions) -> dict[str, Any]:
    """A command as the server takes it."""
    tty = options.get("tty")
    if options.get("clear_env") or options.get("merge_stderr"):
        refuse()
    shell = options.get("shell")
    body: dict[str, Any] = {
        "command": None if shell is None else _text(shell),
        "argv": [_text(word) for word in options["argv"]] if shell is None else None,
        "env": dict(options.get("env") or {}),
        "cwd": None if (cwd := options.get("cwd")) is None else _text(cwd),
        "user": options.get("user"),
        "timeout": options.get("timeout"),
    }
    return body if tty is None else {**body, "tty": {"cols": tty[0], "rows": tty[1]}}
