"""HTTP to a port of the guest: the real agent carries it, programs of this machine answer, most of them maliciously."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import json
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from bandsox.errors import ConnectionRefused, InvalidRequest, InvalidResponse, LimitExceeded, OutcomeUnknown, Timeout
from bandsox.guest import GuestClient
from bandsox.guest.http import HttpResponse, build_request, send
from tests.guest.test_streams import program

pytestmark = pytest.mark.anyio


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body.decode()}
        content = b"" if self.command == "HEAD" else json.dumps(seen).encode()
        self.send_response(404 if self.path == "/missing" else 302 if self.path == "/away" else 200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Location", "http://169.254.169.254/")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def mirror() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def ask(
    guest: GuestClient, port: int, path: str = "/", method: str = "GET", *, timeout: float = 60, max_bytes: int = 1 << 20, **options: Any
) -> HttpResponse:
    return await send(guest, build_request(method, port, path, **options), timeout=timeout, max_bytes=max_bytes)


async def test_the_program_gets_what_was_asked(guest: GuestClient, mirror: int) -> None:
    answer = await ask(guest, mirror, "/a%20b?x=1", "POST", json={"k": "ü"}, headers={"X-Mine": "yes"})
    assert answer.ok
    assert answer.status_code == 200
    assert answer.reason == "OK"
    assert answer.headers["content-type"].startswith("application/json")
    seen = answer.json()
    assert (seen["method"], seen["path"]) == ("POST", "/a%20b?x=1")
    assert json.loads(seen["body"]) == {"k": "ü"}
    assert seen["headers"]["X-Mine"] == "yes"
    assert seen["headers"]["Host"] == f"localhost:{mirror}"


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"data": {"a": "1 2"}}, "a=1+2"),
        ({"data": b"raw"}, "raw"),
        ({"content": "text"}, "text"),
        ({"params": {"q": "1"}}, ""),
    ],
)
async def test_bodies_are_made_as_elsewhere(guest: GuestClient, mirror: int, options: dict[str, Any], body: str) -> None:
    assert (await ask(guest, mirror, "/", "PUT", **options)).json()["body"] == body


async def test_no_redirect_is_followed(guest: GuestClient, mirror: int) -> None:
    answer = await ask(guest, mirror, "/away")
    assert answer.status_code == 302
    assert answer.headers["location"] == "http://169.254.169.254/"


async def test_a_status_is_no_error_unless_it_is_asked_for(guest: GuestClient, mirror: int) -> None:
    answer = await ask(guest, mirror, "/missing")
    assert (answer.status_code, answer.ok) == (404, False)
    with pytest.raises(InvalidResponse, match="404"):
        answer.raise_for_status()


async def test_head_has_no_body(guest: GuestClient, mirror: int) -> None:
    assert (await ask(guest, mirror, "/", "HEAD")).content == b""


async def test_nobody_listens(guest: GuestClient) -> None:
    with pytest.raises(ConnectionRefused):
        await ask(guest, 1)


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "nowhere", {}),
        ("GET", "http://example.org/", {}),
        ("CONNECT", "/", {}),
        ("GET SMUGGLED", "/", {}),
        ("GET", "/", {"headers": {"X": "a\r\nY: b"}}),
        ("GET", "/", {"headers": {"X Y": "a"}}),
        ("POST", "/", {"content": b"four", "headers": {"Content-Length": "2"}}),
    ],
)
async def test_a_request_that_is_none(guest: GuestClient, mirror: int, method: str, path: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await ask(guest, mirror, path, method, **options)


async def test_a_path_cannot_smuggle_a_second_request(guest: GuestClient, mirror: int) -> None:
    try:
        seen = (await ask(guest, mirror, "/ HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET /second")).json()
    except InvalidRequest:
        return
    assert "X-Evil" not in seen["headers"]
    assert "\r" not in seen["path"]


# ── hostile answers ─────────────────────────────────────────────────────────────────────────────


async def answered(guest: GuestClient, *pieces: bytes, forever: bool = False, method: str = "GET", **options: Any) -> HttpResponse:
    """The answer of a program that sends `pieces`, whatever it is asked, the last of them again and again with `forever`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
        while forever:
            writer.write(pieces[-1])
            await writer.drain()

    async with program(serve) as port:
        return await ask(guest, port, method=method, **options)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"\0" * 1000],
        [b"HTTP/1.1 999999 What\r\n\r\n"],
        [OK + b"Content-Length: 10\r\n\r\nshort"],
        [OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy"],
        [OK + b"Content-Length: -1\r\n\r\n"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"],
        [OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"],
        [OK + b"X: y\0z\r\n\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\n\r\n"],
        [OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain"],
    ],
)
async def test_an_answer_that_is_none(guest: GuestClient, pieces: list[bytes]) -> None:
    with pytest.raises(InvalidResponse):
        await answered(guest, *pieces)


@pytest.mark.parametrize(
    "pieces",
    [
        [OK, b"X-Flood: yes\r\n"],
        [OK + b"X: ", b"x" * 4096],
        [b"HTTP/1.1 100 Continue\r\n\r\n"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 4096],
    ],
    ids=["headers without end", "a header without end", "interim answers without end", "a chunk's extension without end"],
)
async def test_a_head_without_end(guest: GuestClient, pieces: list[bytes]) -> None:
    with pytest.raises(InvalidResponse):
        await answered(guest, *pieces, forever=True)


@pytest.mark.parametrize(
    "pieces",
    [
        [OK + b"\r\n", b"x" * 4096],
        [OK + b"Content-Length: 99999999999\r\n\r\n", b"x" * 4096],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"],
    ],
    ids=["until it closes", "with a length", "chunked"],
)
async def test_a_body_without_end(guest: GuestClient, pieces: list[bytes]) -> None:
    with pytest.raises(LimitExceeded):
        await answered(guest, *pieces, forever=True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_not_unpacked(guest: GuestClient, encoding: str) -> None:
    packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    bomb = packer.compress(bytes(256 << 20)) + packer.flush()
    assert len(bomb) < 1 << 20
    with pytest.raises(LimitExceeded):
        await answered(guest, OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding.encode(), len(bomb)), bomb)


async def test_compressed_content_is_unpacked(guest: GuestClient) -> None:
    packed = gzip.compress(b"content " * 1000)
    answer = await answered(guest, OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed)
    assert answer.content == b"content " * 1000


async def test_what_follows_the_answer_is_not_looked_at(guest: GuestClient) -> None:
    answer = await answered(guest, OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 5\r\n\r\nevil!")
    assert answer.content == b"ok"


async def test_an_answer_before_the_request_was_read(guest: GuestClient) -> None:
    early = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    answer = await answered(guest, early, method="POST", content=bytes(8 << 20))
    assert answer.status_code == 413


@pytest.mark.parametrize(("method", "error"), [("GET", Timeout), ("POST", OutcomeUnknown)])
async def test_silence_is_bounded_and_tells_whether_it_may_have_happened(guest: GuestClient, method: str, error: type[Exception]) -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with program(serve) as port:
        with pytest.raises(error):
            await ask(guest, port, method=method, timeout=0.2)


async def test_a_strange_character_set_is_no_error(guest: GuestClient) -> None:
    for charset in (b"no-such", b"idna", b"base64", b"utf-16"):
        answer = await answered(guest, OK + b"Content-Type: text/plain; charset=" + charset + b"\r\nContent-Length: 3\r\n\r\n\xff\xfeA")
        assert isinstance(answer.text, str)
