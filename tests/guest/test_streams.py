"""Connections to ports of the guest: the real agent serves them, programs of this machine stand for the guest's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bandsox.errors import (
    BandSoxError,
    Conflict,
    ConnectionRefused,
    ConnectionReset,
    GuestConnectionError,
    InvalidRequest,
    MachineStopped,
    ProtocolError,
    Timeout,
)
from bandsox.guest import GuestClient, GuestStream, frames
from bandsox.guest.frames import FrameType
from bandsox.guest.streams import CREDIT, MAX_DATA
from tests.guest.conftest import MakePorts
from tests.guest.support import PACK, Peer, event, scripted

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
READY = event(kind="ready")


@contextlib.asynccontextmanager
async def program(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The port of a program that serves connections so, and closes them afterwards."""
    failures: list[BaseException] = []
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(connected(reader, writer)))

    server = await asyncio.start_server(accept, host)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        failures += [error for error in await asyncio.gather(*serving, return_exceptions=True) if isinstance(error, Exception)]
    assert not failures


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def read_all(stream: GuestStream) -> bytes:
    pieces = []
    while piece := await stream.read():
        pieces.append(piece)
    return b"".join(pieces)


# ── what a program in the guest sees ────────────────────────────────────────────────────────────


async def test_bytes_pass_in_both_directions_at_once(guest: GuestClient) -> None:
    content = os.urandom(5 << 20)
    async with program(echo) as port, await guest.connect(port) as stream:

        async def send() -> None:
            await stream.write(content)
            await stream.write_eof()

        sending = asyncio.create_task(send())
        assert hashlib.sha256(await read_all(stream)).digest() == hashlib.sha256(content).digest()
        await sending


async def test_the_end_of_the_request_does_not_end_the_answer(guest: GuestClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(-1)
        writer.write(b"%d bytes" % len(request))

    async with program(serve) as port, await guest.connect(port) as stream:
        await stream.write(bytes(300_000))
        await stream.write_eof()
        assert await read_all(stream) == b"300000 bytes"


async def test_the_end_of_the_answer_does_not_end_the_request(guest: GuestClient) -> None:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        got.set_result(await reader.read(-1))

    async with program(serve) as port, await guest.connect(port) as stream:
        assert await stream.read() == b""
        await stream.write(b"after the end")
        await stream.write_eof()
        assert await got == b"after the end"


async def test_what_was_written_before_the_close_arrives(guest: GuestClient) -> None:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read(-1))

    async with program(serve) as port:
        async with await guest.connect(port) as stream:
            await stream.write(b"x" * 100_000)
        assert len(await got) == 100_000


async def test_a_program_that_breaks_off_is_told_from_one_that_ends(guest: GuestClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with program(serve) as port, await guest.connect(port) as stream:
        await stream.write(b"!")
        with pytest.raises(ConnectionReset) as caught:
            await stream.read()
        assert isinstance(caught.value, ConnectionResetError)
        with pytest.raises(ConnectionReset):
            await stream.write(bytes(CREDIT))
            await stream.write(b"1")


async def test_a_program_that_does_not_read_is_waited_for(guest: GuestClient) -> None:
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"%d" % len(await reader.read(-1)))

    size = 32 << 20  # more than what all sockets on the way hold
    async with program(serve) as port, await guest.connect(port) as stream:
        sending = asyncio.create_task(stream.write(bytes(size)))
        done, _ = await asyncio.wait([sending], timeout=0.2)
        assert not done
        go_on.set()
        await sending
        await stream.write_eof()
        assert await read_all(stream) == b"%d" % size


async def test_what_nobody_reads_stays_in_the_guest(guest: GuestClient) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(0)
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    async with program(serve) as port, await guest.connect(port) as stream:
        assert await stream.read(1)
        for _ in range(200):
            await stream.read(1)
        assert sum(map(len, stream._received)) <= CREDIT


async def test_either_loopback_is_tried(guest: GuestClient) -> None:
    async with program(echo, "::1") as port, await guest.connect(port) as stream:
        await stream.write(b"six")
        assert await stream.read() == b"six"


# ── what does not work ──────────────────────────────────────────────────────────────────────────


async def test_nobody_listens(guest: GuestClient) -> None:
    with pytest.raises(ConnectionRefused, match="nothing listens on port 1 in the guest") as caught:
        await guest.connect(1)
    assert isinstance(caught.value, ConnectionRefusedError)
    assert caught.value.retryable


async def test_an_address_that_cannot_be_reached(guest: GuestClient) -> None:
    with pytest.raises((GuestConnectionError, Timeout)):
        await guest.connect(80, "255.255.255.255", timeout=5)


@pytest.mark.parametrize(("port", "host"), [(0, ""), (65536, ""), (-1, ""), (True, ""), (80, "example.org"), (80, "fe80::1%eth0")])
async def test_a_request_that_can_never_work(guest: GuestClient, port: int, host: str) -> None:
    with pytest.raises(BandSoxError) as caught:
        await guest.connect(port, host)
    assert isinstance(caught.value, (InvalidRequest, GuestConnectionError))


async def test_after_the_close_nothing_goes(guest: GuestClient) -> None:
    async with program(echo) as port:
        stream = await guest.connect(port)
        await stream.write_eof()
        with pytest.raises(Conflict):
            await stream.write(b"more")
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(Conflict):
            await stream.read()


async def test_closing_wakes_who_reads(guest: GuestClient) -> None:
    async with program(echo) as port:
        stream = await guest.connect(port)
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(Conflict):
            await reading


# ── the ports it takes ──────────────────────────────────────────────────────────────────────────


async def test_a_port_is_given_back_clean(make_ports: MakePorts, short_path: Path) -> None:
    link, _ = make_ports(1)
    guest = GuestClient(link)
    async with program(echo) as port:
        for _ in range(3):
            async with await guest.connect(port) as stream:
                await stream.write(b"x" * 1000)
                assert await stream.read()
            assert (short_path / "port0.lock").read_bytes() == b"c"
            with pytest.raises(ConnectionRefused):
                await guest.connect(1)
            assert (short_path / "port0.lock").read_bytes() == b"c"
    await guest.ping()


async def test_a_cancelled_read_loses_nothing(guest: GuestClient) -> None:
    async with program(echo) as port, await guest.connect(port) as stream:
        for number in range(20):
            reading = asyncio.create_task(stream.read())
            await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            await stream.write(b"%02d" % number)
            got = b""
            while len(got) < 2:
                got += await stream.read()
            assert got == b"%02d" % number


# ── a hostile guest ─────────────────────────────────────────────────────────────────────────────


def record(kind: int, rest: bytes = b"", stream: int = 1) -> bytes:
    return frames.encode(FrameType.OUTPUT, struct.pack(">BI", kind, stream) + rest)


ACCEPT, DATA, FIN = record(2), record(4, b"x" * MAX_DATA), record(6)


@pytest.mark.parametrize(
    "answer",
    [
        [record(9)],
        [record(1)],
        [record(2, b"x")],
        [frames.encode(FrameType.OUTPUT, b"\2")],
        [frames.encode(FrameType.OUTPUT, bytes(1 << 20))],
        [record(2, stream=2)],
        [record(4, b"too early")],
        [FIN],
        [record(3, b"not a map")],
        [ACCEPT, ACCEPT],
        [ACCEPT, record(3, PACK({"code": "x"}))],
        [ACCEPT, record(4)],
        [ACCEPT, DATA, DATA, DATA],
        [ACCEPT, FIN, record(4, b"x")],
        [ACCEPT, FIN, FIN],
        [ACCEPT, record(5, b"\0\0\0\1")],
        [ACCEPT, record(5, b"\0\0\0")],
        [ACCEPT, record(8, b"x")],
        [ACCEPT, record(8), record(4, b"x")],
        [ACCEPT, frames.encode(FrameType.STDERR, b"x")],
        [ACCEPT, event(kind="ready")],
    ],
)
async def test_records_that_are_not_allowed(short_path: Path, answer: list[bytes]) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(READY, *answer)
        await peer.until_closed()

    async with scripted(short_path / "guest.sock", script) as guest:
        with pytest.raises(ProtocolError):
            async with await guest.connect(80) as stream:
                await stream._until(lambda: False)


async def test_a_refusal_is_cleaned_before_it_is_shown(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(READY, record(3, PACK({"code": "evil\x1b[2J", "message": "\x1b]0;owned\a" * 1000})))
        await peer.until_closed()

    async with scripted(short_path / "guest.sock", script) as guest:
        with pytest.raises(GuestConnectionError) as caught:
            await guest.connect(80)
    assert str(caught.value).replace("\n", "").isprintable()
    assert len(str(caught.value)) < 2000


async def test_a_guest_that_never_answers(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(READY)
        await peer.until_closed()

    async with scripted(short_path / "guest.sock", script) as guest:
        with pytest.raises(Timeout, match="port 80"):
            await guest.connect(80, timeout=0.1)


async def test_a_guest_that_dies_in_the_middle(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(READY, ACCEPT, record(4, b"the beginning"))

    async with scripted(short_path / "guest.sock", script) as guest, await guest.connect(80) as stream:
        assert await stream.read() == b"the beginning"
        with pytest.raises(MachineStopped):
            await stream.read()
