"""How requests get to one server: connections of HTTP/1.1, kept for the next request.

Commands are answered in milliseconds, and what httpx sends requests with takes two of them for each: a parser in Python, a pool for any
number of servers, and layers of abstraction over event loops. Here a connection is an asyncio protocol whose answers are parsed in C
(httptools). An answer that is read as it comes is httpx's `Response`; one that is read whole an `Answer`, since to make and read a
`Response` takes longer than all else together. What fails is an error of httpx.

It speaks to its own server and needs no more than that: no redirects, cookies, proxies, or requests for nothing but a head.
"""

from __future__ import annotations

import asyncio
import json
import re
import select
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import anyio
import httptools
import httpx

from bandsox.errors import InvalidRequest

_CONNECTIONS, _IDLE = 100, 20
_IDLE_S = 60.0
"""For how long a connection that is not used is kept; servers keep theirs for 75 seconds."""

_READ_AHEAD = 256 << 10
"""How many bytes of an answer may have arrived and not been read."""

_ATTEMPT_DELAY_S = 0.25
"""After how long another address of a name is tried as well (RFC 8305). On uvloop, which knows nothing of that, one is tried after the
other."""

_PLAIN = re.compile(r"[A-Za-z0-9_~/!$&'()*+,;=:@?-]+(?:\.[A-Za-z0-9_~!$&'()*+,;=:@?-]+)*")
"""Paths in which nothing is to be encoded, and none of whose parts are dots. (Not all of them.)"""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*")
"""A header that can be sent (RFC 9110, 5.5)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent, and for how long to wait.

    ``target`` is the path, with its query. ``connect_s`` is how long to wait for a connection, in seconds, and ``silence_s`` for how long
    the server may take nothing, or say nothing; None: for ever.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    content: bytes | AsyncIterable[bytes] | None
    connect_s: float
    silence_s: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read whole. The names of its `headers` are in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    content: bytes

    @property
    def is_error(self) -> bool:
        """Whether it says that something failed."""
        return self.status >= 400

    def header(self, name: str) -> str:
        """The first header of this name, which is in lower case; empty where there is none."""
        wanted = name.encode("latin-1")
        return next((value.decode("latin-1") for each, value in self.headers if each == wanted), "")

    def json(self) -> Any:
        """Its content.

        Raises
        ------
        ValueError: it is no JSON.
        """
        return json.loads(self.content)


class Transport:
    """The connections to one server.

    Parameters
    ----------
    url: of the server.
    ssl_context: how it proves who it is, for https.

    Raises
    ------
    httpx.InvalidURL, httpx.UnsupportedProtocol: the URL is none of a server.
    """

    def __init__(self, url: str, ssl_context: ssl.SSLContext | None) -> None:
        parts = httpx.URL(url)
        if parts.scheme not in {"http", "https"}:
            raise httpx.UnsupportedProtocol(f"{url} is no address of a server")
        self._url = url
        self._host, self._port = parts.raw_host.decode("ascii"), parts.port or (443 if ssl_context else 80)
        self._base = parts.raw_path.decode("ascii").rstrip("/")
        self._named = f"Host: {parts.netloc.decode('ascii')}"
        self._ssl_context = ssl_context
        self._idle: list[_Connection] = []
        self._closed = False
        self._free = asyncio.Semaphore(_CONNECTIONS)

    async def send(self, request: Request) -> httpx.Response:
        """Send a request, and return its answer, whose body is still to be read. Errors as of `ask`."""
        connection, body = await self._sent(request)
        return httpx.Response(connection.status, headers=connection.headers, stream=body)

    async def ask(self, request: Request) -> Answer:
        """Send a request, and return its answer, whole.

        Raises
        ------
        InvalidRequest: the address or a header cannot be sent.
        httpx.HTTPError: the connection could not be made, or was lost; also while the body is read.
        """
        connection, body = await self._sent(request)
        status, said = connection.status, tuple(connection.headers)
        try:
            whole = b"".join([piece async for piece in body])
        finally:
            await body.aclose()
        if any(name == b"content-encoding" for name, _ in said):  # a proxy compresses what nobody has asked it to
            whole = httpx.Response(status, headers=list(said), content=whole).content
        return Answer(status, said, whole)

    async def aclose(self) -> None:
        """Close all connections; those that are used, after that."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def give_back(self, connection: _Connection) -> None:
        """A connection is not used any more."""
        self._free.release()
        if connection.is_reusable and len(self._idle) < _IDLE and not self._closed:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    async def _sent(self, request: Request) -> tuple[_Connection, _Body]:
        """A connection on which a request was sent and the head of its answer has come, and the body, which is to be closed."""
        head = self._head(request)
        connection = await self._connected(request)
        body = _Body(self, connection, request.silence_s)
        try:
            await connection.ask(head, request.content, request.silence_s)
        except BaseException:
            await body.aclose()
            raise
        return connection, body

    def _head(self, request: Request) -> bytes:
        content = request.content
        lines = [self._named, *(f"{name}: {value}" for name, value in request.headers.items())]
        if isinstance(content, bytes) or (content is None and request.method != "GET"):
            lines.append(f"Content-Length: {len(content or b'')}")
        elif content is not None and not _has_length(request.headers):
            lines.append("Transfer-Encoding: chunked")
        for line in lines:
            if not _HEADER.fullmatch(line):
                raise InvalidRequest(f"the header {line.partition(':')[0]!r} cannot be sent", cause="it has characters that no header has")
        path = f"{self._base}{request.target}"
        if not _PLAIN.fullmatch(path):
            try:
                path = httpx.URL(f"{self._url}{request.target}").raw_path.decode("ascii")
            except httpx.InvalidURL as error:
                raise InvalidRequest("the address cannot be sent", cause=str(error)) from error
        return "\r\n".join([f"{request.method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")

    async def _connected(self, request: Request) -> _Connection:
        """A connection that nobody else uses."""
        await self._take_turn(request.silence_s)
        try:
            while self._idle:
                connection = self._idle.pop()
                if time.monotonic() - connection.idle_since < _IDLE_S and connection.is_open:
                    return connection
                connection.close()
            return await self._connect(request.connect_s)
        except BaseException:
            self._free.release()
            raise

    async def _take_turn(self, silence_s: float | None) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            with anyio.fail_after(silence_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout(f"all {_CONNECTIONS} connections stayed in use") from error

    async def _connect(self, timeout_s: float) -> _Connection:
        """Connect to whichever address of the host answers first."""
        loop = asyncio.get_running_loop()
        racing: dict[str, Any] = {"happy_eyeballs_delay": _ATTEMPT_DELAY_S} if isinstance(loop, asyncio.BaseEventLoop) else {}
        connecting = loop.create_connection(_Connection, self._host, self._port, ssl=self._ssl_context, **racing)
        try:
            with anyio.fail_after(timeout_s):
                return (await connecting)[1]
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"{self._host} port {self._port} did not answer within {timeout_s:g} s") from error
        except (OSError, UnicodeError) as error:  # ssl.SSLError is one
            raise httpx.ConnectError(str(error)) from error


def _has_length(headers: Mapping[str, str]) -> bool:
    return any(name.lower() == "content-length" for name in headers)


class _Body(httpx.AsyncByteStream):
    """The body of an answer while it comes; its end gives the connection back."""

    def __init__(self, transport: Transport, connection: _Connection, silence_s: float | None) -> None:
        self._transport, self._connection, self._silence_s = transport, connection, silence_s
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._connection.pieces(self._silence_s)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._transport.give_back(self._connection)


class _Connection(asyncio.Protocol):
    """A connection, which carries one request at a time, and what has arrived of its answer and was not read."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.held = 0
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self._asked = self._sent = self._begun = self._whole = self._lasts = False
        self._ended = False
        self._error: Exception | None = None
        self._full = self._paused = False
        self._news: asyncio.Future[None] | None = None

    # ── one request ──

    async def ask(self, head: bytes, content: bytes | AsyncIterable[bytes] | None, silence_s: float | None) -> None:
        """Send a request, and return when the head of its answer is there: `status` and `headers`."""
        self._asked, self._sent, self._begun, self._whole = True, False, False, False
        if content is None or isinstance(content, bytes):
            self._transport.write(head + content if content else head)
        else:
            self._transport.write(head)
            await self._tell(content, silence_s, chunked=b"\r\nTransfer-Encoding: chunked\r\n" in head)
        self._sent = not self._ended
        while not self._begun:
            await self._more(silence_s)

    async def _tell(self, pieces: AsyncIterable[bytes], silence_s: float | None, *, chunked: bool) -> None:
        """Send a body, as fast as the server takes it. Where it closes the connection meanwhile, what it has answered tells why."""
        async for piece in pieces:
            if piece:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            while self._full and not self._ended:
                await self._something(silence_s, httpx.WriteTimeout)
            if self._ended:
                return
        if chunked:
            self._transport.write(b"0\r\n\r\n")

    async def pieces(self, silence_s: float | None) -> AsyncGenerator[bytes, None]:
        """The body of the answer as it comes."""
        while self._pieces or not self._whole:
            if not self._pieces:
                await self._more(silence_s)
                continue
            piece = self._pieces.popleft()
            self.held -= len(piece)
            if self._paused and self.held <= _READ_AHEAD // 2:
                self._paused = False
                self._transport.resume_reading()
            yield piece

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow: this one was sent whole, and its answer was read whole."""
        return self._sent and self._whole and not self._pieces and self._lasts and not self._ended

    @property
    def is_open(self) -> bool:
        """Whether a connection that waits for a request was not ended by the server, as far as the kernel knows by now."""
        if self._ended or self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close it, whatever is under way."""
        self._transport.abort()

    async def _more(self, silence_s: float | None) -> None:
        """Wait for more of the answer."""
        if self._ended:
            raise self._error or httpx.RemoteProtocolError("the server closed the connection before its answer was complete")
        await self._something(silence_s, httpx.ReadTimeout)

    async def _something(self, silence_s: float | None, late: type[httpx.TimeoutException]) -> None:
        """Wait until something has changed."""
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        timer = None if silence_s is None else loop.call_later(silence_s, self._wake, late(f"there was silence for {silence_s:g} s"))
        try:
            await self._news
        finally:
            self._news = None
            if timer is not None:
                timer.cancel()

    def _wake(self, error: Exception | None = None) -> None:
        if self._news is None or self._news.done():
            return
        if error is None:
            self._news.set_result(None)
        else:
            self._news.set_exception(error)

    # ── what the event loop tells ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._error = httpx.RemoteProtocolError(f"the server does not speak HTTP: {error}")
            self._ended = True
            self._transport.abort()
        if self.held > _READ_AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        if self._begun and not self._whole and exc is None and self._error is None and not self._is_delimited():
            self._whole = True
        if exc is not None and self._error is None:
            self._error = httpx.ReadError(str(exc))
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def _is_delimited(self) -> bool:
        """Whether an answer tells where it ends; else the end of the connection does (RFC 9112, 6.3)."""
        return any(name in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)

    # ── what the parser tells ──

    def on_message_begin(self) -> None:
        """An answer begins; where nobody has asked, the connection is given up."""
        if not self._asked:
            raise httpx.RemoteProtocolError("nobody has asked")
        self.status, self.headers = 0, []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head has arrived. An interim answer (1xx) is none."""
        self.status = self._parser.get_status_code()
        self._begun = self.status >= 200

    def on_body(self, body: bytes) -> None:
        """A piece of the body has arrived."""
        self._pieces.append(body)
        self.held += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._begun:
            self._whole, self._asked = True, False
            self._lasts = self._parser.should_keep_alive()
