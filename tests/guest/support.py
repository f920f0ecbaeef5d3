"""What the tests of the guest link share: a link to a plain socket, a scripted guest, and ports as a hypervisor makes them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from bandsox.guest import GuestClient, Lane, frames
from bandsox.guest.frames import FrameType
from bandsox.guest.link import Channel, connect_unix

PACK = msgspec.msgpack.encode


class SocketLink:
    """A guest whose agent listens on a Unix socket, as the real one does with ``--listen``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self, lane: Lane, deadline: float | None) -> Channel:
        return Channel(await connect_unix(self.path, deadline))


def wait_for_file(path: Path, alive: Callable[[], bool]) -> None:
    """Until `path` exists; woken by the kernel (inotify(7)) for each file made in its directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    with io.FileIO(libc.inotify_init1(os.O_CLOEXEC)) as events:
        libc.inotify_add_watch(events.fileno(), os.fsencode(path.parent), 0x100)  # IN_CREATE
        while not path.exists():
            assert alive(), "the agent has ended"
            events.read(4096)


# ── a scripted guest ────────────────────────────────────────────────────────────────────────────


class Peer:
    """One connection of a scripted guest."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.nonce = b""

    async def frame(self) -> tuple[int, bytes]:
        kind, length = 0, 0
        while kind == 0:
            kind = (await self.reader.readexactly(1))[0]
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        return kind, await self.reader.readexactly(length)

    async def hello(self) -> dict[str, Any]:
        """Take HELLO and the request, and return the request."""
        kind, payload = await self.frame()
        assert kind == FrameType.HELLO
        self.nonce = payload[10:26]
        kind, payload = await self.frame()
        assert kind == FrameType.REQUEST
        return msgspec.msgpack.decode(payload)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def welcome(self, *following: bytes) -> dict[str, Any]:
        """Take HELLO and the request, answer WELCOME and `following`."""
        request = await self.hello()
        await self.send(frames.welcome(self.nonce, bytes(16)) + b"".join(following))
        return request

    async def until_closed(self) -> bytes:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read(-1)
        return b""


@contextlib.asynccontextmanager
async def scripted(path: Path, script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[GuestClient]:
    """A client of a guest that does what `script` does on each connection, then closes it."""

    serving: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await script(Peer(reader, writer))
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        serving.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield GuestClient(SocketLink(path))
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
        for writer in writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def result(**fields: object) -> bytes:
    return frames.encode(FrameType.RESULT, PACK(fields))


def event(**fields: object) -> bytes:
    return frames.encode(FrameType.EVENT, PACK(fields))


def error(code: str, message: str = "", **fields: object) -> bytes:
    return frames.encode(FrameType.ERROR, PACK({"code": code, "message": message, **fields}))


def output(data: bytes) -> bytes:
    return frames.encode(FrameType.OUTPUT, data)


def output_end(**fields: object) -> bytes:
    return frames.encode(FrameType.OUTPUT_END, PACK(fields))


STARTED = event(kind="started", pid=7)
EXITED = result(exit_code=0)


# ── ports ───────────────────────────────────────────────────────────────────────────────────────


class Port:
    """A virtio-serial port as QEMU gives it: a socket for one client at a time, and one stream to the agent that never ends.

    The guest is not told that a client has gone, which is the worst case; what it sends while there is none is lost.
    """

    def __init__(self, path: Path, agent: Path) -> None:
        self.from_host = 0  # bytes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._guest = socket.socket(socket.AF_UNIX)
        self._guest.connect(str(agent))
        self._client: socket.socket | None = None
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self._answer)]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._client = client
                with contextlib.suppress(ConnectionError):
                    while data := client.recv(1 << 16):
                        self.from_host += len(data)
                        self._guest.sendall(data)
                self._client = None
                client.close()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._guest.recv(1 << 16):
                client = self._client
                if client is not None:
                    with contextlib.suppress(OSError):
                        client.sendall(data)

    def close(self) -> None:
        for sock in (self._listener, self._guest, *([self._client] if self._client else [])):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        self._guest.close()
