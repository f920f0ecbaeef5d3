"""How requests get to a server: httpcore's pool of connections, over asyncio's own transports.

What httpx and httpcore bring for this goes through anyio, whose every read and write gives up a turn of the event loop, and sends the head
and the body of a request apart; and an `httpx.AsyncClient` looks after cookies, redirects and authentication that no request of ours has.
Without both a small request takes a third less of the processor. HTTP itself is httpcore's, answers are httpx's.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import anyio
import httpcore
import httpx

_CONNECTIONS, _IDLE = 100, 20
_IDLE_S = 60.0
"""For how long a connection that is not used is kept; servers keep theirs for 75 seconds."""

_READ_AHEAD = 256 << 10
_HELD_BACK = 64 << 10
"""How many bytes of a request are gathered before they are sent; what is less is sent with the next turn of the event loop."""

_ATTEMPT_DELAY_S = 0.25
"""After how long another address of a name is tried as well (RFC 8305)."""


class Transport(httpx.AsyncBaseTransport):
    """A pool of connections to servers.

    Parameters
    ----------
    ssl_context: how servers prove who they are, for https.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_IDLE,
            keepalive_expiry=_IDLE_S,
            network_backend=_Backend(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its answer, whose body is still to be read.

        Raises
        ------
        httpx.HTTPError: the connection could not be made, or was lost; also while the body is read.
        """
        url = request.url
        wanted = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx(request):
            answer = await self._pool.handle_async_request(wanted)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream, request), extensions=answer.extensions, request=request
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer while it comes."""

    def __init__(self, stream: Any, request: httpx.Request) -> None:
        self._stream, self._request = stream, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for piece in self._stream:
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextlib.contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """What fails in httpcore is the error of the same name in httpx."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error), request=request) from error


class _Backend(httpcore.AsyncNetworkBackend):
    """Makes connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to whichever address of a host answers first."""
        del local_address, socket_options  # the pool is made without
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(timeout):
                transport, connection = await loop.create_connection(_Connection, host, port, happy_eyeballs_delay=_ATTEMPT_DELAY_S)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} port {port} did not answer within {timeout} s") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(transport, connection)


class _Connection(asyncio.Protocol):
    """What has arrived and was not read, and whether more can be sent."""

    def __init__(self) -> None:
        self.arrived = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self.full = False
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._held = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.arrived += data
        if len(self.arrived) > _READ_AHEAD and not self._held:
            self._held = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.error = True, exc
        self._wake()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._wake()

    def secured(self, transport: asyncio.Transport) -> None:
        """It goes on over TLS."""
        self._transport = transport

    def take(self, most: int) -> bytes:
        """At most so many of the bytes that have arrived."""
        taken = bytes(self.arrived[:most])
        del self.arrived[:most]
        if self._held and len(self.arrived) <= _READ_AHEAD // 2:
            self._held = False
            assert self._transport is not None
            self._transport.resume_reading()
        return taken

    async def news(self, timeout: float | None) -> bool:
        """Wait until something has changed; whether it did in time."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        late = None if timeout is None else loop.call_later(timeout, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if late is not None:
                late.cancel()
        return bool(self.arrived) or self.ended or not self.full

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection as httpcore uses it: by one task at a time."""

    def __init__(self, transport: asyncio.Transport, connection: _Connection) -> None:
        self._transport, self._connection = transport, connection
        self._gathered = bytearray()
        self._sending: asyncio.Handle | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes; empty at the end."""
        self._send()
        connection = self._connection
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while not connection.arrived and not connection.ended:
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                raise httpcore.ReadTimeout(f"nothing came for {timeout:g} s")
            await connection.news(left)
        if not connection.arrived and connection.error is not None:
            raise httpcore.ReadError(str(connection.error)) from connection.error
        return connection.take(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send `buffer`, soon, with what else is sent at this moment."""
        connection = self._connection
        self._gathered += buffer
        if len(self._gathered) < _HELD_BACK:
            if self._sending is None and self._gathered:
                self._sending = asyncio.get_running_loop().call_soon(self._send)
            return
        self._send()
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while connection.full and connection.error is None and not self._transport.is_closing():
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                raise httpcore.WriteTimeout(f"nothing was taken for {timeout:g} s")
            await connection.news(left)
        if connection.error is not None or self._transport.is_closing():
            raise httpcore.WriteError(str(connection.error or "the connection was closed"))

    async def aclose(self) -> None:
        """Close it."""
        self._send()
        self._transport.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Go on over TLS, with a server that proves its name."""
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(timeout):
                secured = await loop.start_tls(self._transport, self._connection, ssl_context, server_hostname=server_hostname)
        except TimeoutError as error:
            self._transport.abort()
            raise httpcore.ConnectTimeout(f"TLS was not begun within {timeout} s") from error
        except OSError as error:  # ssl.SSLError is one
            self._transport.abort()
            raise httpcore.ConnectError(str(error)) from error
        if secured is None:
            raise httpcore.ConnectError("the connection was closed before TLS had begun")
        self._connection.secured(secured)
        return _Stream(secured, self._connection)

    def get_extra_info(self, info: str) -> Any:
        """What the pool asks: whether there is TLS, and whether a connection that is not used was ended by the server."""
        if info == "is_readable":
            return self._connection.ended or bool(self._connection.arrived) or self._has_news()
        return self._transport.get_extra_info({"client_addr": "sockname", "server_addr": "peername"}.get(info, info))

    def _has_news(self) -> bool:
        """Whether the kernel knows of something that the event loop has not looked at."""
        socket = self._transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _send(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._gathered:
            if not self._transport.is_closing():
                self._transport.write(bytes(self._gathered))
            self._gathered.clear()
