"""How the remote client speaks to servers that are slow, go away, say too much or too early: what fails, and as what."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bandsox.client import transport
from bandsox.client.connection import Connection
from bandsox.errors import BandSoxError, InvalidRequest, OutcomeUnknown, RequestTooLarge, ServerUnavailable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


async def head(reader: asyncio.StreamReader) -> bytes:
    """The head of a request, and its body where its length is known."""
    said = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", said.lower())
    return said + (await reader.readexactly(int(length[1])) if length else b"")


@contextlib.asynccontextmanager
async def speaking(serve: Serve, tls: ssl.SSLContext | None = None, name: str = "127.0.0.1") -> AsyncIterator[Connection]:
    """A client of a server that does this with each connection."""
    done: list[asyncio.Task[None]] = []

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        done.append(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=tls)
    connection = Connection(f"http{'s' if tls else ''}://{name}:{server.sockets[0].getsockname()[1]}", None, 60)
    try:
        yield connection
    finally:
        await connection.close()
        server.close()
        for task in done:
            task.cancel()
        await asyncio.gather(*done, return_exceptions=True)


def run(serve: Serve, act: Callable[[Connection], Awaitable[object]]) -> object:
    async def main() -> object:
        async with speaking(serve) as connection:
            return await act(connection)

    return asyncio.run(main())


async def hasty(connection: Connection) -> None:
    """Have a client wait for a moment only, on a connection that is there."""
    await connection.call("GET", "/first")
    connection.timeout = 0.05


def test_a_request_is_sent_whole_and_a_connection_is_used_again() -> None:
    arrived: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(b"connection")
        while data := await reader.read(65536):
            arrived.append(data)
            writer.write(OK)

    async def act(connection: Connection) -> None:
        for _ in range(2):
            await connection.call("POST", "/api/vms", json={"a": "é"}, params={"x": "y z"})

    run(serve, act)
    assert arrived[0] == b"connection"
    assert len(arrived) == 3, "head and body come together"
    assert arrived[1] == arrived[2]
    assert re.match(rb"POST /api/vms\?x=y(\+|%20)z HTTP/1.1\r\n", arrived[1])
    assert arrived[1].endswith('{"a":"é"}'.encode())


@pytest.mark.parametrize(("method", "error"), [("POST", OutcomeUnknown), ("GET", ServerUnavailable)])
def test_a_connection_that_ends_before_the_answer(method: str, error: type[BandSoxError]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)

    with pytest.raises(error):
        run(serve, lambda connection: connection.call(method, "/x"))


@pytest.mark.parametrize("abruptly", [False, True])
def test_an_answer_that_breaks_off_is_no_answer(abruptly: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK[:-1])
        await writer.drain()
        if abruptly:
            writer.transport.abort()

    with pytest.raises(OutcomeUnknown):
        run(serve, lambda connection: connection.call("POST", "/x"))


def test_a_server_that_says_nothing_is_not_waited_for_unless_it_works_on_something_long() -> None:
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)
        if b"/long" in await head(reader):
            await go_on.wait()
            writer.write(OK)
        await reader.read()

    async def act(connection: Connection) -> None:
        await hasty(connection)
        with pytest.raises(OutcomeUnknown, match="lost in the middle"):
            await connection.call("POST", "/short")
        connection.timeout = 60
        await hasty(connection)
        long = asyncio.ensure_future(connection.call("POST", "/long", patient=True))
        done, _ = await asyncio.wait([long], timeout=4 * connection.timeout)
        assert not done
        go_on.set()
        assert (await long).content == b"{}"

    run(serve, act)


def test_a_server_that_takes_nothing_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async def zeros() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async def act(connection: Connection) -> None:
        await hasty(connection)
        with pytest.raises(OutcomeUnknown):
            await connection.call("PUT", "/x", content=zeros())

    run(serve, act)


def test_an_answer_that_comes_byte_by_byte_is_the_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        for byte in range(len(OK)):
            writer.write(OK[byte : byte + 1])
            await asyncio.sleep(0)

    answer = run(serve, lambda connection: connection.call("POST", "/x"))
    assert getattr(answer, "content", None) == b"{}"


def test_an_answer_ends_with_its_connection_where_it_tells_no_length() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nto the end")

    answer = run(serve, lambda connection: connection.call("GET", "/x"))
    assert getattr(answer, "content", None) == b"to the end"


def test_an_answer_that_a_proxy_has_compressed_is_read() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        body = gzip.compress(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    answer = run(serve, lambda connection: connection.call("GET", "/x"))
    assert getattr(answer, "content", None) == b"{}"


def test_it_works_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await head(reader)
            writer.write(OK)

    async def main() -> None:
        async with speaking(serve, name="localhost") as connection:
            for _ in range(2):
                assert (await connection.call("GET", "/x")).json() == {}

    uvloop.run(main())


def test_an_interim_answer_is_none() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK)

    answer = run(serve, lambda connection: connection.call("GET", "/x"))
    assert getattr(answer, "content", None) == b"{}"


def test_what_nobody_has_asked_for_is_no_answer() -> None:
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await head(reader)
        writer.write(OK + OK.replace(b"{}", b"[]"))
        await reader.read()

    async def act(connection: Connection) -> None:
        for _ in range(3):
            assert (await connection.call("GET", "/x")).content == b"{}"

    run(serve, act)
    assert served == 3


def test_what_does_not_speak_http_is_no_server() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"220 mail.example.org\r\n")
        await reader.read()

    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        run(serve, lambda connection: connection.call("GET", "/x"))


@pytest.mark.parametrize(("path", "sent"), [("/a.b/c", "/a.b/c"), ("/a%2Fb", "/a%2Fb"), ("/é x", "/%C3%A9%20x"), ("/a/../b", "/b")])
def test_paths_are_encoded(path: str, sent: str) -> None:
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await head(reader)).split(b"\r\n")[0])
        writer.write(OK)

    run(serve, lambda connection: connection.call("GET", path))
    assert lines == [f"GET {sent} HTTP/1.1".encode()]


def test_a_path_is_one_line() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pytest.fail("something was sent")

    with pytest.raises(InvalidRequest, match="cannot be sent"):
        run(serve, lambda connection: connection.call("GET", "/x HTTP/1.1\r\nX-Mine: 1"))


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\0", "…"])
def test_a_header_is_one_header(value: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pytest.fail("something was sent")

    with pytest.raises(InvalidRequest, match="'X-Mine' cannot be sent"):
        run(serve, lambda connection: connection.call("GET", "/x", headers={"X-Mine": value}))


def test_an_answer_to_half_a_request_is_the_answer() -> None:
    failure = b'{"code":"request_too_large","message":"too large"}'
    refusal = b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(failure), failure)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)
        await writer.drain()
        await reader.read()

    async def some() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    with pytest.raises(RequestTooLarge):
        run(serve, lambda connection: connection.call("PUT", "/x", content=some()))


def test_a_connection_that_was_closed_while_nobody_used_it_is_not_used() -> None:
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await head(reader)
        writer.write(OK)

    async def act(connection: Connection) -> None:
        for _ in range(5):
            await connection.call("POST", "/x")

    run(serve, act)
    assert served == 5


def test_who_does_not_read_does_not_fill_the_memory() -> None:
    size = 64 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent.set()

    sent = asyncio.Event()
    most = 0

    async def act(connection: Connection) -> int:
        nonlocal most
        read = 0
        async with connection.streaming("GET", "/x") as answer:
            async for piece in answer.aiter_raw():
                read += len(piece)
                await asyncio.sleep(0)
                most = max(most, *(each.held for each in connections))
        return read

    connections: list[transport._Connection] = []
    made = transport._Connection.connection_made

    def noting(self: transport._Connection, over: asyncio.BaseTransport) -> None:
        connections.append(self)
        made(self, over)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport._Connection, "connection_made", noting)
        assert run(serve, act) == size
    assert 0 < most <= transport._READ_AHEAD + (1 << 18)


def test_what_is_given_up_leaves_a_client_that_works() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            if b"/wait" in await head(reader):
                await reader.read()
                return
            writer.write(OK)

    async def act(connection: Connection) -> None:
        for _ in range(3):
            waiting = asyncio.ensure_future(connection.call("GET", "/wait"))
            await connection.call("GET", "/x")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await connection.call("GET", "/x")

    run(serve, act)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    for url in ("http://127.0.0.1:9", f"http://{'x' * 70}.invalid", "http://nowhere.invalid"):
        with pytest.raises(ServerUnavailable):
            asyncio.run(Connection(url, None, 60).call("POST", "/x"))


def test_a_server_that_cannot_prove_its_name_gets_nothing(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await head(reader))
        writer.write(OK)

    async def call(name: str) -> None:
        async with speaking(serve, tls=tls, name=name) as connection:
            await connection.call("POST", "/x", json={"a": "secret"})

    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        asyncio.run(call("localhost"))
    assert got == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    asyncio.run(call("localhost"))
    asyncio.run(call("127.0.0.1"))
    assert [each.endswith(b'{"a":"secret"}') for each in got] == [True, True]
